"""A run proves its own numbers on the user's own recipe, before its first step.

Each proof raises UserError with the cause it found. What must hold in every step is watched there:
equal and changed weights after each load (``sync.py``), drift (``drift/max``) and ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from upslope.batch import Algorithm, Batch
from upslope.chat import Chat
from upslope.costs import missing
from upslope.dialogues import performed, repeated, replies_of
from upslope.grading import grade
from upslope.learner import Learner
from upslope.models.logprobs import unpacked
from upslope.overlap import overlap
from upslope.recite import acted
from upslope.tally import Tally
from upslope.types import Env, Group, Problem, UserError

# How far engine and learner may be apart in a log-probability: rounding, and nothing else.
DRIFT = {torch.float32: 1e-4, torch.bfloat16: 0.25}
# Relative distance of one gradient computed in two ways.
GRADIENT = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
MANY = 50_000  # train problems that held-out ones are looked for in: some seconds


@dataclass(frozen=True)
class Proof:
    """What was proven, and the figure seen."""

    claim: str
    seen: str


async def prove_env(env: Env, problems: Sequence[Problem], chat: Chat) -> list[Proof]:
    """Gold answers earn the full reward and empty ones do not; prompts are tokenised once."""
    for problem in problems:
        prove_prompt(chat, problem)
    known = [p for p in problems if p.solution]
    for problem in known:
        given = (replies_of(env, problem), repeated(""))
        plays = [acted(chat, await performed(env, problem, replies)) for replies in given]
        gold, empty = await grade(env, problem, plays)
        if not gold.valid:
            raise UserError(
                f"self-check: the gold answer of problem {problem.id!r} could not be graded: "
                f"{gold.reason or 'no reason given'}"
            )
        if gold.correct < 1 - 1e-6 or gold.total <= empty.total:
            raise UserError(
                f"self-check: the gold answer {problem.solution!r} of problem {problem.id!r} "
                f"earns {gold.total:g} and an empty answer {empty.total:g}: the reward is wrong, "
                "perhaps inverted"
            )
    seen = f"{len(known)} of {len(problems)} problems have one" if known else "none is known"
    return [
        Proof("gold answers earn the full reward, empty ones do not", seen),
        Proof("prompts are tokenised once", f"{len(problems)} problems"),
    ]


def prove_held_out(name: str, train: Sequence[Problem], held_out: Sequence[Problem]) -> Proof:
    """Held-out problems are not trained on: none has the words and the answer of a train problem.

    What is only alike is a figure, no fault: procedural problems resemble each other. Of many train
    problems the first ``MANY`` are looked at.
    """
    seen = overlap(train[:MANY], held_out)
    if seen.same:
        here, there = seen.same[0]
        raise UserError(
            f"self-check: {len(seen.same)} of {len(held_out)} held-out problems of {name} are in "
            f"its train split, such as {here!r} (there {there!r}): accuracy on them would be "
            "memory, so take them out of one of the two, or split by a hash of the question "
            "(seeds.split_of)"
        )
    return Proof(
        "held-out problems are not in the train split",
        f"{seen.held_out} and {seen.train}; {len(seen.near)} share most of their wording",
    )


def prove_prompt(chat: Chat, problem: Problem) -> None:
    """The prompt's tokens say the prompt's text, with at most one beginning-of-sequence token."""
    messages = chat.messages(problem)
    tokens = chat.encode(messages)
    wanted, said = chat.text(messages), chat.tokenizer.decode(tokens)
    first = chat.tokenizer.bos_token_id
    twice = first is not None and first not in chat.eos and tokens[:2] == [first, first]
    begin = chat.tokenizer.bos_token or ""
    # Spaces aside: some tokenizers put their own around special tokens when they decode.
    same = _dense(said.removeprefix(begin)) == _dense(wanted.removeprefix(begin))
    missing = sorted(set(wanted) - set(said) - set(" \n\t"))
    if missing and chat.tokenizer.unk_token_id in tokens:
        raise UserError(
            f"self-check: the model's tokenizer has no token for {''.join(missing)!r}, which the "
            f"prompt of problem {problem.id!r} needs: choose another model, or another form"
        )
    if twice or not same:
        raise UserError(
            f"self-check: the prompt of problem {problem.id!r} is not what its tokens say: "
            f"{_cut(said)!r} for {_cut(wanted)!r}; it was tokenised twice, or cut"
        )


def prove_trained(group: Group, chat: Chat) -> None:
    """Exactly the sampled tokens are trained, after exactly the prompt's tokens.

    Who asks the policy itself (``serve.recording``) may begin with other words than the problem's.
    """
    asked = chat.messages(group.problem)
    prompt = np.array(chat.encode(asked))
    for trajectory in group.trajectories:
        for number, segment in enumerate(trajectory.segments):
            sampled = np.zeros(len(segment.tokens), dtype=bool)
            for turn in trajectory.turns:
                if turn.segment == number:
                    sampled[turn.start : turn.stop] = True
            if not np.array_equal(sampled, segment.trained):
                raise UserError(
                    f"self-check: a trajectory of problem {group.problem.id!r} marks "
                    f"{int(segment.trained.sum())} tokens as trained and the engine sampled "
                    f"{int(sampled.sum())}: prompts and replies of the env must not be trained"
                )
        if trajectory.messages[: len(asked)] != asked or not trajectory.segments:
            continue
        begun = [segment.tokens[: len(prompt)] for segment in trajectory.segments]
        if not any(np.array_equal(tokens, prompt) for tokens in begun):
            raise UserError(
                f"self-check: a trajectory of problem {group.problem.id!r} does not begin with "
                "the tokens of its prompt"
            )


def prove_costs(groups: Sequence[Group], wanted: frozenset[str]) -> None:
    """Rewards report every cost that is held to a budget."""
    valid = [r for group in groups for r in group.rewards if r.valid]
    seen = {name: 0.0 for reward in valid for name in reward.costs}
    for name in sorted(wanted - seen.keys()) if valid else ():
        raise UserError(f"self-check: {missing(name, seen)}")


def prove_logprobs(learner: Learner, batch: Batch) -> Proof:
    """The engine's log-probabilities of what it sampled are the learner's."""
    ours = learner.fill(batch, ["old_logprobs"]).old_logprobs
    assert ours is not None
    apart = (ours - batch.engine_logprobs)[batch.trained].abs()
    bound = DRIFT[learner.policy.model.dtype]
    if not bool((apart <= bound).all()):
        raise UserError(
            f"self-check: the engine's log-probabilities are up to {float(apart.max()):.2g} from "
            f"the learner's (at most {bound:g} is rounding): its weights are stale, its "
            "temperature is another one, or the tokens differ"
        )
    return Proof("engine log-probabilities equal the learner's", f"within {float(apart.max()):.1e}")


def prove_graded(groups: Sequence[Group]) -> None:
    """Something was graded: a judge that is down from the start is not what a run should find."""
    rewards = [reward for group in groups for reward in group.rewards]
    if not any(reward.valid for reward in rewards):
        why = next((reward.reason for reward in rewards), "")
        raise UserError(
            f"self-check: none of the first trajectories could be graded ({why or 'no reason'}): "
            "mend the reward, or what it asks"
        )


def prove_gradient(learner: Learner, batch: Batch, algorithm: Algorithm) -> list[Proof]:
    """One gradient in two ways: packed in one piece, and row by row, unpacked, with rubbish where
    nothing may count."""
    if not batch.trained.any():
        raise UserError(
            "self-check: none of the first trajectories could be graded: see why their rewards are "
            "all invalid"
        )
    # Old values filled beforehand, not live ones, whose ratio could not but be 1.
    batch = learner.fill(batch, sorted({*algorithm.needs, "old_logprobs"}))
    batch = replace(
        batch,
        reward=batch.trajectory % 2 * 1.0,  # any signal will do
        truncated=torch.zeros_like(batch.truncated),  # and nothing masked away
    )
    # The same reply with a high and a low reward has no gradient, and noise in place of one.
    uneven = 1 + batch.trajectory[:, None] / len(batch)
    signal = algorithm.advantages(batch)
    if not signal.any():  # groups are smaller here than a run's, perhaps too small to compare
        signal = batch.trained.float()
    batch = replace(batch, advantages=signal * uneven)
    tally, whole = _gradient(learner, batch, algorithm, budget=2**30)
    seen = tally.metrics()
    off = max(abs(seen["ratio/mean"] - 1), abs(seen["ratio/max"] - 1))
    if not off <= DRIFT[learner.policy.model.dtype]:
        raise UserError(
            f"self-check: the ratio is up to {off:.2g} from 1 before the first update: the policy "
            "scores the same tokens differently each time, perhaps by dropout"
        )
    bound = GRADIENT[learner.policy.model.dtype]
    with unpacked(learner.policy):
        _, split = _gradient(learner, batch, algorithm, budget=1)
        apart = _distance(whole, split)
        if apart > bound:
            raise UserError(
                f"self-check: the gradient changes by {apart:.2g} of itself when the batch is "
                "split into single rows: the loss depends on the micro-batch, so weights must be "
                "set over the whole update"
            )
        del whole  # two gradients at a time: each is as large as the model
        _, masked = _gradient(learner, _with_rubbish(batch), algorithm, budget=1)
    if _distance(split, masked) > bound:
        raise UserError(
            "self-check: tokens that are not trained change the gradient: the loss reads columns "
            "outside the trained mask, or padding is attended to"
        )
    return [
        Proof("the ratio is 1 before the first update", f"within {off:.1e}"),
        Proof("the gradient does not change with split, padding or packing", f"within {apart:.1e}"),
        Proof("tokens that are not trained have no influence", "gradient unchanged"),
    ]


def _gradient(
    learner: Learner, batch: Batch, algorithm: Algorithm, budget: int
) -> tuple[Tally, list[Tensor]]:
    tally = learner.accumulate(batch, algorithm, budget)
    every = [parameter for own in learner.parameters for parameter in own]
    grads = [p.grad for p in every if p.grad is not None]
    learner.optimiser.zero_grad()
    return tally, grads


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """|a - b| / |a|"""
    apart = sum(float((x - y).float().square().sum()) for x, y in zip(a, b, strict=True))
    size = sum(float(x.float().square().sum()) for x in a)
    return float((apart / max(size, 1e-30)) ** 0.5)


def _with_rubbish(batch: Batch) -> Batch:
    """Other tokens in the padding, and large numbers in every column off the trained tokens."""
    padding = torch.arange(batch.tokens.shape[1])[None] >= batch.length[:, None]
    assert batch.advantages is not None
    return replace(
        batch,
        tokens=torch.where(padding, 3, batch.tokens),
        engine_logprobs=torch.where(batch.trained, batch.engine_logprobs, -77.0),
        advantages=torch.where(batch.trained, batch.advantages, 1e3),
    )


def _dense(text: str) -> str:
    return "".join(text.split())


def _cut(text: str) -> str:
    return text if len(text) < 60 else f"{text[:40]}...{text[-15:]}"
