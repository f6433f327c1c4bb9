"""A reward model that is learned when its stage begins, from what is preferred among the policy's
own replies: reinforcement learning from human feedback in one recipe.

Replies to a problem are compared by the env's own reward, in a person's place, or pairs that people
have judged are read from a file. A later stage asks about the policy that it finds, and learns from
the pairs of earlier ones, too (iterated RLHF, arXiv:2204.05862). Training is ``preferences``'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from upslope.preferences.pair import ALL, Pair, Selection
from upslope.rewards import Grades, Host, OpensReward
from upslope.rewards.ensemble import Ensemble
from upslope.rewards.model import Model
from upslope.rewards.nested import together, within
from upslope.types import Problem, Reward, Trajectory, UserError

if TYPE_CHECKING:
    from upslope.models.reward_model import RewardModel
    from upslope.preferences.gathered import Gathered

PAIRS = "pairs.jsonl"


@dataclass(frozen=True)
class Learned:
    """``pairs``: how many the env is asked about, of train problems drawn at random; pairs that
    earn the same teach nothing. ``labels``: a file or a store of judged pairs to read in place of
    asking; ``answers``: which of a store's count. ``noise``: the temperature of Bradley-Terry at
    which the env answers, ``flips``: the share of its answers turned around, but where they judge
    the model.
    ``earlier``: learn, too, from the pairs of this reward in earlier stages. ``held_out``: the
    share of questions to stop by and to be judged by, half of it each.

    ``model``: what the reward model begins as; "" is the policy as the stage finds it. ``scale``:
    of its scores, as in the reward ``model``. ``members`` of an ensemble, which see other draws of
    the pairs; ``how`` and ``k`` are the ensemble's. ``lr``, ``warmup``, ``epochs``, ``batch``,
    ``centring``, ``smoothing``: as in a reward model's recipe.
    """

    pairs: int = 2000
    labels: str = ""
    answers: Selection = ALL
    noise: float = 0.0
    flips: float = 0.0
    earlier: bool = True
    held_out: float = 0.2
    model: str = ""
    scale: Literal["normalised", "raw"] = "normalised"
    members: int = 1
    how: Literal["mean", "worst", "variance", "deviation"] = "mean"
    k: float = 0.5
    lr: float = 1e-5
    warmup: int = 20
    epochs: int = 3
    batch: int = 64
    centring: float = 0.001
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if min(self.pairs, self.members, self.epochs, self.batch) < 1:
            raise ValueError("pairs, members, epochs and batch must each be at least 1")
        for name, share in (("flips", self.flips), ("smoothing", self.smoothing)):
            if not 0 <= share < 0.5:
                raise ValueError(f"{name} is a share of at least 0 and below 1/2, got {share:g}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is a share between 0 and 1, got {self.held_out:g}")
        if not self.lr > 0 or self.warmup < 0 or not self.centring >= 0 or not self.k >= 0:
            raise ValueError("lr must be above 0, and warmup, centring and k not below it")
        if self.labels and (self.flips or self.noise):
            raise ValueError(
                "flips and noise are of the env's answers; judged pairs stay as they are"
            )
        if not 0 <= self.noise < inf:
            raise ValueError(f"noise is a temperature of at least 0, got {self.noise:g}")
        if self.members == 1 and self.how != "mean":
            raise ValueError(f'how="{self.how}" is of several members: set members, or leave it')

    def open(self, host: Host) -> Grades:
        """Without a model yet; UserError where the file of pairs or the model cannot be read."""
        if host.policy.rank and not self.model:
            raise UserError(
                "reward learned begins as the policy, which has an adapter: name what it is to "
                "begin as in reward.model"
            )
        if self.model:
            begun(self, host, 0)
        if self.labels:
            from upslope.preferences.moved import pairs_of

            apart(self, host, [whole(pair) for pair in pairs_of(self.labels, self.answers)])
        return Taught(self, host)

    def graders(self, places: Sequence[Path]) -> OpensReward:
        """What grades with the models in these folders."""
        members = {place.name: Model(str(place), scale=self.scale) for place in places}
        return Ensemble(members, self.how, self.k) if len(members) > 1 else members[places[0].name]


class Taught:
    """Grades with what was learned in ``begin``; before that, as the env does."""

    def __init__(self, settings: Learned, host: Host) -> None:
        self.settings, self.host = settings, host
        self.made: Grades | None = None
        self.before: Sequence[Path] = ()

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The learned model's."""
        self.refuse_turns(trajectories)
        return await (self.made or self.host.env).rewards(problem, trajectories)

    def recall(self, folders: Sequence[Path]) -> None:
        """Where earlier stages have kept their pairs."""
        self.before = folders

    async def begin(self, folder: Path) -> None:
        """Ask about the policy's replies, learn, and keep pairs and models in the folder; a resumed
        stage takes what is there."""
        from upslope.files import explained

        places = [folder / f"model-{member}" for member in range(self.settings.members)]
        if not all(place.is_dir() for place in places):
            with explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
            self.learn(await self.compared(folder), places)
        self.made = self.settings.graders(places).open(self.host)

    async def close(self) -> None:
        """End the models' threads."""
        from upslope.rewards import Lasts

        for _, one in within(self.made) if self.made else ():
            if isinstance(one, Lasts):
                await one.close()

    async def compared(self, folder: Path) -> list[Pair]:
        """This stage's pairs, which are written, and those of stages before it."""
        from upslope.preferences.moved import pairs_of
        from upslope.preferences.pair import question

        file, which = self.settings.labels, self.settings.answers
        own = [whole(pair) for pair in pairs_of(file, which)] if file else await self.asked()
        write(folder / PAIRS, own)
        known = {(question(p.problem), p.chosen, p.rejected) for p in own}
        files = [one / PAIRS for one in self.before] if self.settings.earlier else []
        others = [pair for file in files if file.is_file() for pair in pairs_of(file)]
        # The same file of labels may be given to several stages.
        others = [p for p in others if (question(p.problem), p.chosen, p.rejected) not in known]
        earlier = f", and {len(others)} of earlier stages" if others else ""
        self.host.say(f"  reward: learning from {len(own)} pairs{earlier}")
        return [*own, *others]

    async def asked(self) -> list[Pair]:
        """Replies of the policy to each problem, two by two, that the env's reward tells apart."""
        from upslope.preferences.annotators import Annotator
        from upslope.preferences.gathered import compared, labelled, shuffled

        settings, seed = self.settings, self.host.seed
        problems = shuffled(self.host.env.problems("train"), seed)[: settings.pairs]
        each = -(-settings.pairs // len(problems))
        groups = await together([self.host.play(problem, 2 * each) for problem in problems])
        said = []
        for group in groups:
            self.refuse_turns(group.trajectories)
            answers = [*zip((t.text for t in group.trajectories), group.rewards, strict=True)]
            said += [(group.problem, answers[i : i + 2]) for i in range(0, 2 * each, 2)]
        pairs = map(whole, compared(said[: settings.pairs], "policy"))
        found = [pair for pair in pairs if pair.chosen != pair.rejected]
        parts = apart(settings, self.host, found)
        by = Annotator(temperature=settings.noise, flips=settings.flips, seed=seed)
        return [*labelled((*parts.train, *parts.validation), by), *parts.test]

    def refuse_turns(self, trajectories: Sequence[Trajectory]) -> None:
        """A pair has one reply on each side; people may have judged the last one of many."""
        for t in trajectories:
            if len(t.turns) > 1 and not self.settings.labels:
                raise UserError(
                    f"reward learned asks about single replies, and a play of problem "
                    f"{t.problem.id!r} has {len(t.turns)}: give it judged pairs in reward.labels"
                )

    def learn(self, pairs: Sequence[Pair], places: Sequence[Path]) -> None:
        """Train and save each member, and say how right it is on pairs that none has seen."""
        from upslope.models.reward_folder import save_reward_model
        from upslope.preferences.made import Material, fitting, of_pairs
        from upslope.preferences.picture import figure
        from upslope.seeds import seed_of

        parts = apart(self.settings, self.host, pairs)
        for member, place in enumerate(places):
            seed = seed_of(self.host.seed, "reward", member)
            model = begun(self.settings, self.host, seed)
            fit = fitting(model, Material(parts), self.host.say).pairs
            model = trained(self.settings, self.host, model, fit, seed)
            save_reward_model(model, place)
            if fit.test:
                right = figure(of_pairs(model, fit.test).accuracy)
                self.host.say(
                    f"  reward: {place.name} is right on {right} of {len(fit.test)} pairs"
                )


def begun(settings: Learned, host: Host, seed: int) -> RewardModel:
    """What a member begins as."""
    import copy
    from dataclasses import replace

    from upslope.models.load import load
    from upslope.models.reward_model import reward_model_of
    from upslope.scorers import model_in

    policy = host.policy
    if settings.model:
        name, device = model_in(settings.model), str(policy.model.device)
        trunk = load(name, seed % 2**31, policy.model.dtype, device, host.say)
    else:
        trunk = replace(policy, model=copy.deepcopy(policy.model))
    return reward_model_of(trunk, ["reward"])


def apart(settings: Learned, host: Host, pairs: Sequence[Pair]) -> Gathered:
    """To learn from, to stop by and to be judged by; UserError where one of the first two is too
    few."""
    from upslope.preferences.gathered import split_apart
    from upslope.preferences.learned import FEWEST
    from upslope.preferences.recipe import Pairs

    parts = split_apart(pairs, Pairs(train=0, held_out=settings.held_out), host.seed)
    if min(len(parts.train), len(parts.validation)) < FEWEST:
        raise UserError(
            f"reward learned has {len(parts.train)} pairs with a winner to learn from and "
            f"{len(parts.validation)} to stop by, and needs {FEWEST} of each: "
            + ("give more in reward.labels" if settings.labels else "raise reward.pairs")
        )
    return parts


def trained(
    settings: Learned, host: Host, model: RewardModel, parts: Gathered, seed: int
) -> RewardModel:
    """A member, of its own draw of the pairs where there are several; its work is the reward's."""
    import random

    from upslope.ledger import Ledger
    from upslope.preferences.learned import Compared, PairLoss
    from upslope.preferences.training import Training, scaled, tempered, train

    ledger, drawn = Ledger(), [*parts.train]
    if settings.members > 1:
        drawn = random.Random(seed).choices(drawn, k=len(drawn))
    how = PairLoss(centring=settings.centring, smoothing=settings.smoothing)
    lesson, held = (Compared.of(model, some, how) for some in (drawn, parts.validation))
    training = Training(
        lr=settings.lr, warmup=settings.warmup, epochs=settings.epochs, batch=settings.batch
    )
    found = train(model, lesson, held, training, seed, ledger, lambda line: None).model
    totals = ledger.totals()
    host.spend(totals.flops, totals.tokens)
    tempered(found, held, training.micro_tokens)
    return scaled(found, lesson, training.micro_tokens)


def whole(pair: Pair) -> Pair:
    """As it is read from the file that it is written to, where what was asked is messages: a
    question has one part of the pairs to be in, in every stage."""
    from dataclasses import replace

    from upslope.preferences.pair import dialogue

    messages = [*map(dict, dialogue(pair.problem, "")[:-1])]
    return pair._replace(problem=replace(pair.problem, messages=tuple(messages), prompt=""))


def write(file: Path, pairs: Sequence[Pair]) -> None:
    """Pairs as ``pairs_of`` reads them: both sides as dialogues, which may end in nothing."""
    from upslope.files import append_rows, explained
    from upslope.preferences.pair import dialogue

    rows = []
    for pair in pairs:
        sides = {"chosen": pair.chosen, "rejected": pair.rejected}
        both = {side: dialogue(pair.problem, text) for side, text in sides.items()}
        own = {key: value for key, value in pair.info.items() if key not in ("prompt", "messages")}
        rows.append({**own, "id": pair.problem.id, **both})
    with explained(file):
        file.unlink(missing_ok=True)
        append_rows(file, rows)
