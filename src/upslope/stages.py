"""A stage's objects, and what cannot go together, said before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upslope.algorithms.awr import AWR
from upslope.algorithms.pass_at_k import PassAtK
from upslope.algorithms.sft import SFT
from upslope.audit.settings import Alarms
from upslope.batch import Algorithm
from upslope.critic import Critic
from upslope.demonstrations import Demonstration, read_demonstrations, sets
from upslope.dialogues import shown
from upslope.envs.episodes import DemonstratesPlays
from upslope.envs.mixture import Mixture
from upslope.names import algorithm_of, audit_of, env_of, reward_of
from upslope.optional import Wraps, compares, critic_of, layers
from upslope.provenance import MixedSettings, RolloutsSettings, SourceSettings, settings_of
from upslope.recipe import Recipe, Stage
from upslope.rewards import OpensReward
from upslope.rewards.own import Own
from upslope.settings import Learner, Rollout
from upslope.sinks import require
from upslope.types import Demonstrates, Env, Problem, Split, UserError


@dataclass(frozen=True)
class Built:
    """A stage with its env and algorithm, checked against each other before a model is loaded."""

    stage: Stage
    env: Env
    algorithm: Algorithm
    reward: OpensReward = field(default_factory=Own)
    audit: Alarms = field(default_factory=Alarms)
    made: dict[Split, Sequence[Problem]] = field(default_factory=dict)
    read: list[Demonstration] = field(default_factory=list)

    @property
    def source(self) -> SourceSettings:
        """Where its groups come from."""
        return settings_of(self.stage.source, "source")

    @property
    def looped(self) -> Stage:
        """The stage as the loop takes it: who did not answer with this step's weights is corrected
        for as a stale policy is, recorded answers too, and nobody where it does not matter who did.
        """
        rollout, others = self.stage.rollout, not isinstance(self.source, RolloutsSettings)
        lag = max(rollout.max_staleness, int(others))
        lag = 0 if "any_policy" in self.algorithm.claims else lag
        if lag == rollout.max_staleness:
            return self.stage
        lagging = rollout.model_copy(update={"max_staleness": lag})
        return self.stage.model_copy(update={"rollout": lagging})

    def recorded(self) -> Sequence[Demonstration]:
        """The plays that its source has recorded, read once; none for rollouts."""
        settings = self.source
        if self.read or isinstance(settings, RolloutsSettings):
            return self.read
        if settings.path:
            known = {problem.id: problem for problem in self.problems("train")}
            self.read.extend(read_demonstrations(Path(settings.path), known, settings.answers))
        else:
            self.read.extend(demonstrated(self.env, "train"))
        return self.read

    @property
    def weights(self) -> Mapping[str, float]:
        """How often each of several envs has its turn; nothing for a single one."""
        return self.env.weights if isinstance(self.env, Mixture) else {}

    def problems(self, split: Split) -> Sequence[Problem]:
        """The env's problems of a split, made once."""
        if split not in self.made:
            self.made[split] = self.env.problems(split)
        return self.made[split]


def demonstrated(env: Env, split: Split) -> list[Demonstration]:
    """What an env shows of its own, whole plays where it has any."""
    if isinstance(env, DemonstratesPlays):
        return shown(env, split)
    assert isinstance(env, Demonstrates), "refuse lets no other pass"
    return [Demonstration(*pair) for pair in env.demonstrations(split)]


def built(recipe: Recipe) -> list[Built]:
    """All stages; raises UserError for what cannot work whatever the model is."""
    require(recipe.sinks)
    out = list[Built]()
    for stage in recipe.stages():
        at = f"stage.{stage.name}." if recipe.stage else ""
        one = Built(
            stage,
            env_of(stage.env, f"{at}env"),
            algorithm_of(stage.algorithm, f"{at}algorithm"),
            reward_of(stage.reward, f"{at}reward"),
            audit_of(stage.audit, f"{at}audit"),
        )
        refuse(one, at)
        refuse_audit(one, at)
        refuse_two_models(stage.learner, recipe.learner, at)
        refuse_begin(critic_of(one.algorithm), critic_of(out[-1].algorithm) if out else None, at)
        out.append(one)
    return out


def refuse_two_models(own: Learner, whole: Learner, at: str) -> None:
    """All stages train one model, which has one type."""
    if (own.dtype, own.head) != (whole.dtype, whole.head):
        key = "learner.dtype" if own.dtype != whole.dtype else "learner.head"
        raise UserError(f"{at}{key} differs from {key}: the stages train one model, so set it once")


def refuse_begin(critic: Critic | None, before: Critic | None, at: str) -> None:
    """A critic that is to go on from one that is not there, or not of its shape."""
    if critic is None or critic.begins == "zero":
        return
    shapes = [(c.place, c.heads, c.width) for c in (critic, before) if c is not None]
    if len(shapes) < 2 or shapes[0] != shapes[1]:
        raise UserError(
            f'{at}algorithm.critic.begins="stage" needs a critic of the same place, twin and form '
            'in the stage before: give it one, or set it to "zero"'
        )


def refuse(one: Built, at: str) -> None:
    """Contradictions between a stage's parts."""
    stage, name = one.stage, one.stage.algorithm.type
    source = settings_of(stage.source, f"{at}source")
    refuse_importance(one, at)
    if not isinstance(source, RolloutsSettings) and "greedy" in one.algorithm.needs:
        raise UserError(
            f"{at}algorithm {name} needs a greedy reply to each problem, which {stage.source.type} "
            "data does not have: use rollouts as the source"
        )
    if isinstance(source, RolloutsSettings | MixedSettings):
        refuse_rollouts(one, source, at)
    if isinstance(source, RolloutsSettings):
        return
    if not source.path and not isinstance(one.env, Demonstrates | DemonstratesPlays):
        raise UserError(
            f"env {stage.env.type} writes no demonstrations: give {at}source.path a JSONL file"
        )
    if isinstance(one.algorithm, Wraps):
        raise UserError(
            f"{at}algorithm {name} learns from what the policy itself says, and recorded replies "
            "are others': use rollouts as the source"
        )
    if not source.path and compares(one.algorithm):
        raise UserError(
            f"{at}algorithm {name} compares the members of a group and recorded groups have one "
            f"member: use sft, rollouts as the source, or a {at}source.path to pairs or groups"
        )


def refuse_audit(one: Built, at: str) -> None:
    """An alarm that is to lead back to a checkpoint, of which there is none."""
    stage, on = one.stage, one.audit.on
    played = stage.source.type != "recorded"
    if on in ("pause", "rollback") and played and not stage.checkpoint.every:
        raise UserError(
            f'{at}audit.on="{on}" needs checkpoints to go on from, and {at}checkpoint.every is 0: '
            "set it to some steps"
        )


def refuse_importance(one: Built, at: str) -> None:
    """Settings of old / engine in a stage that weighs no token by it."""
    rollout, plain = one.looped.rollout, Rollout().model_dump()
    moved = [
        key
        for key, value in rollout.model_dump().items()
        if key.startswith("importance") and value != plain[key]
    ]
    if rollout.corrects or not moved:
        return
    name = one.stage.algorithm.type
    if "any_policy" in one.algorithm.claims:
        why = f"algorithm {name} takes answers of any policy as they are"
    elif rollout.max_staleness:
        why = f'{at}rollout.correction="bypass" takes the engine\'s for the old ones'
    else:
        why = f"{at}rollout.max_staleness=0 leaves no token stale"
    raise UserError(
        f"{at}rollout.{moved[0]} bounds the weights of stale tokens, and {why}: leave it out"
    )


def refuse_rollouts(one: Built, source: RolloutsSettings | MixedSettings, at: str) -> None:
    """What cannot be learned from rollouts, or not with weights that are loaded now and then."""
    stage, name, claims = one.stage, one.stage.algorithm.type, one.algorithm.claims
    rollouts = source.rollouts if isinstance(source, MixedSettings) else source
    if compares(one.algorithm) and stage.rollout.group == 1:
        raise UserError(
            f"{at}rollout.group=1 leaves {name} nothing to compare a reward with, so nothing "
            "would be learned: use at least 2, or the algorithm reinforce"
        )
    for depth, layer in enumerate(layers(one.algorithm)):
        if isinstance(layer, PassAtK) and stage.rollout.group <= layer.k:
            raise UserError(
                f"{at}rollout.group={stage.rollout.group} has no more than one set of "
                f"{at}algorithm{'.of' * depth}.k={layer.k}, so that nothing is compared: use a "
                "larger group"
            )
    if any(isinstance(each, SFT) for each in layers(one.algorithm)):
        raise UserError(
            f'{at}algorithm sft learns from given replies: set {at}source.type = "recorded"'
        )
    if by_group(one.algorithm) and stage.rollout.group == 1:
        raise UserError(
            f"{at}rollout.group=1 has awr measure an answer against itself, so that all would "
            f'count alike: use at least 2, or set {at}algorithm.baseline = "batch"'
        )
    if rollouts.ahead and not stage.rollout.max_staleness:
        raise UserError(
            f"{at}source.ahead={rollouts.ahead:g} has later groups used before earlier ones, and "
            f"{at}rollout.max_staleness=0 waits for all of them: set that to at least 1"
        )
    if rollouts.sync == 1:
        return
    if "any_policy" not in claims or stage.rollout.max_staleness:
        raise UserError(
            f"{at}source.sync={rollouts.sync} is for algorithms that take answers of any policy, "
            "such as dpo, without max_staleness: for others set rollout.max_staleness instead"
        )
    kept = {"evaluation": stage.evaluation.every, "checkpoint": stage.checkpoint.every}
    for key, every in kept.items():
        if every % rollouts.sync:
            raise UserError(
                f"{at}{key}.every={every} would load weights between the loads of every "
                f"{at}source.sync={rollouts.sync} steps: make it a multiple"
            )


def by_group(algorithm: Algorithm) -> bool:
    """Whether it weighs answers by how they compare with their group, one alone as any."""
    return isinstance(algorithm, AWR) and algorithm.baseline == "group"


def refuse_recorded(one: Built) -> None:
    """Plays that say too little for the algorithm that is to learn from them."""
    name, claims, groups = one.stage.algorithm.type, one.algorithm.claims, sets(one.recorded())
    if not groups:
        return
    alone = all(len(members) == 1 for members in groups)
    if by_group(one.algorithm) and alone:
        raise UserError(
            "algorithm awr measures an answer against its group and the recorded groups have one "
            'member each, so that all would count alike: set algorithm.baseline = "batch"'
        )
    if compares(one.algorithm) and alone:
        raise UserError(
            f"algorithm {name} compares the members of a group and the recorded groups have one "
            'member each: give pairs, or rows with the same "group", or use awr, raft, kto or sft'
        )
    unscored = next((one for members in groups for one in members if not one.scored), None)
    if "any_policy" not in claims and unscored:
        raise UserError(
            f"algorithm {name} weighs answers by how likely they were, and the recorded play of "
            f'problem {unscored.problem.id!r} has no "logprobs": give them, use awr, '
            "raft or dpo, or claim any_policy in an algorithm of your own that does not"
        )
