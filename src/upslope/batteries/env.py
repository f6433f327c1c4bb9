"""What must hold of every env: its problems, its splits and its grader, without a model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from upslope.batteries.settings import prove_settings
from upslope.dialogues import repeated, replies_of
from upslope.grading import grade
from upslope.selfcheck import Proof, prove_held_out
from upslope.types import Env, Message, Problem, Reward, Segment, Split, Trajectory, Turn, UserError

MEGABYTE = 2**20
GARBAGE: Mapping[str, str] = {
    "nothing": "",
    "spaces and new lines": " \n\t\r\n" * 20,
    "NUL bytes": "\0" * 1000 + "7\0",
    "a megabyte of one letter": "a" * MEGABYTE,
    "a megabyte of digits": "9" * MEGABYTE,
    "a megabyte of short lines": "1\n" * (MEGABYTE // 2),
    "a megabyte of open brackets": "([{" * (MEGABYTE // 3),
    "nested commands": "\\boxed{" * 20_000 + "1" + "}" * 20_000,
    "unclosed tags": "<answer>" * 20_000,
    "digits of other alphabets": "４２ ٤٢ 𝟜𝟚 ⁴² Ⅳ −5 ½",
    "half a surrogate pair": "\ud800 5",
    "NaN": "NaN",
    "infinity": "inf",
    "a huge power": "9**9**9**9",
    "a huge exponent": "1e999999999",
    "a division by zero": "1/0",
    "code": "__import__('os').abort()",
}
SHORT = ("nothing", "NaN", "infinity", "digits of other alphabets")


def check_env(env: Env, problems: int = 4, seconds: float = 10.0) -> list[Proof]:
    """Everything an env owes; raises UserError, one sentence, at the first that fails.

    ``problems`` of each split are graded; no grading may take more than ``seconds``.
    """
    proofs = [prove_settings(env, "env")]
    splits, again = _splits(env), _splits(replace(env))  # type: ignore[type-var]
    proofs += [_ids(env, splits, again), _disjoint(env, splits)]
    held_out = [*splits["validation"], *splits["test"]]
    proofs.append(prove_held_out(type(env).__name__, splits["train"], held_out))
    some = [p for held in splits.values() for p in held[:problems]]
    proofs += [_solutions(env, some, seconds), _repeatable(env, some, seconds)]
    return [*proofs, _garbage(env, some[0], seconds)]


def _splits(env: Env) -> dict[Split, Sequence[Problem]]:
    return {split: env.problems(split) for split in get_args(Split)}


def _question(problem: Problem) -> str:
    """What the policy is asked: two problems with the same question are one."""
    return problem.prompt or json.dumps([dict(m) for m in problem.messages], sort_keys=True)


def _identity(problem: Problem) -> tuple[str, str, str, str]:
    return problem.id, _question(problem), problem.answer, problem.solution


def _ids(
    env: Env, splits: Mapping[Split, Sequence[Problem]], again: Mapping[Split, Sequence[Problem]]
) -> Proof:
    """Ids are unique over all splits, and a second env of the same settings has the same."""
    name, seen = type(env).__name__, set[str]()
    for split, held in splits.items():
        if not held and split != "validation":
            raise UserError(f"{name} has no problems in its {split} split")
        for problem in held:
            if problem.id in seen:
                raise UserError(f"{name} gives the id {problem.id!r} to two problems")
            seen.add(problem.id)
        if [_identity(p) for p in held] != [_identity(p) for p in again[split]]:
            raise UserError(
                f"{name} has other problems, or another order, in {split} when it is made again: "
                "derive them from its settings alone"
            )
    return Proof("ids are unique, and the same when made again", f"{len(seen)} problems")


def _disjoint(env: Env, splits: Mapping[Split, Sequence[Problem]]) -> Proof:
    """No question is in two splits."""
    home: dict[str, Split] = {}
    for split, held in splits.items():
        for problem in held:
            if home.setdefault(_question(problem), split) != split:
                raise UserError(
                    f"{type(env).__name__} asks problem {problem.id!r} in {split} and in "
                    f"{home[_question(problem)]}: split by a hash of the question (seeds.split_of)"
                )
    return Proof("no question is in two splits", f"{len(home)} questions")


def _solutions(env: Env, problems: Sequence[Problem], seconds: float) -> Proof:
    """Where a solution is known it earns the most of all replies, and an empty reply less."""
    known = [p for p in problems if p.solution]
    for problem in known:
        given = [replies_of(env, problem), *(repeated(GARBAGE[kind]) for kind in SHORT)]
        gold, *others = _graded(env, problem, given, seconds)
        if not gold.valid:
            raise UserError(f"the solution of {problem.id!r} could not be graded: {gold.reason}")
        if abs(gold.correct - 1) > 1e-6:
            raise UserError(
                f"the solution {problem.solution!r} of problem {problem.id!r} is graded "
                f"{gold.correct:g} for correctness instead of 1"
            )
        best = max((r.total for r in others if r.valid), default=-math.inf)
        if best > gold.total or (others[0].valid and others[0].total >= gold.total):
            raise UserError(
                f"the solution of problem {problem.id!r} earns {gold.total:g}, an empty reply "
                f"{others[0].total:g} and some garbage {best:g}: the reward is wrong, or inverted"
            )
    seen = f"{len(known)} of {len(problems)} problems have one"
    return Proof("solutions earn the most, empty replies do not", seen)


def _repeatable(env: Env, problems: Sequence[Problem], seconds: float) -> Proof:
    """The same replies earn the same: again, in another order, and from another copy of the env."""
    for problem in problems:
        gold = replies_of(env, problem) if problem.solution else ("1",)
        given = [gold, *(repeated(GARBAGE[kind]) for kind in SHORT)]
        first = _graded(env, problem, given, seconds)
        again = _graded(env, problem, given, seconds)
        other = _graded(replace(env), problem, given[::-1], seconds)[::-1]  # type: ignore[type-var]
        if not first == again == other:
            raise UserError(
                f"{type(env).__name__} grades the same replies to problem {problem.id!r} "
                "differently each time, or by their order: rewards must be deterministic"
            )
    return Proof("rewards are deterministic", f"{len(problems)} problems, 3 times")


def _garbage(env: Env, problem: Problem, seconds: float) -> Proof:
    """Whatever is said gets, in bounded time, a finite reward or a reason why there is none."""
    known = replies_of(env, problem) if problem.solution else ("",)
    (gold,) = _graded(env, problem, [known], seconds)
    for kind, text in GARBAGE.items():
        (reward,) = _graded(env, problem, [repeated(text)], seconds, f"a reply of {kind}")
        if problem.solution and reward.valid and reward.total > gold.total:
            raise UserError(f"a reply of {kind} earns {reward.total:g}, more than the solution")
    return Proof("rewards survive garbage", f"{len(GARBAGE)} kinds")


def _graded(
    env: Env,
    problem: Problem,
    given: Sequence[Sequence[str]],
    seconds: float,
    said: str = "a reply",
) -> list[Reward]:
    """One sound reward for each play's replies, played as one group."""

    async def graded() -> Sequence[Reward]:
        plays = [await played(env, problem, one, member) for member, one in enumerate(given)]
        return await grade(env, problem, plays, seconds)

    try:
        rewards = list(asyncio.run(graded()))
    except UserError as error:
        raise UserError(f"{said}: {error}") from error
    for reward in rewards:
        where = f"{type(env).__name__} gives {said} to problem {problem.id!r}"
        if not reward.valid and not reward.reason:
            raise UserError(f"{where} an invalid reward without a reason")
        if reward.valid and not all(math.isfinite(value) for _, _, value in reward.at):
            raise UserError(f"{where} a process reward that is not finite")
    return rewards


async def played(env: Env, problem: Problem, replies: Sequence[str], member: int) -> Trajectory:
    """A play in which the policy says these, a reply a turn; a byte is a token."""
    messages: list[Message] = [*problem.messages] or [{"role": "raw", "content": problem.prompt}]
    tokens, turns = b"\0", list[Turn]()
    async with env.play(problem) as episode:
        for text in replies:
            messages.append({"role": "assistant", "content": text})
            spoken = text.encode("utf-8", "surrogatepass")
            turns.append(Turn(0, len(tokens), len(tokens) + len(spoken), "stop"))
            tokens += spoken
            reply = await episode.reply(tuple(messages))
            if reply is None:
                break
            turns[-1] = replace(turns[-1], reward=reply.reward, state=reply.state)
            messages = [*messages[: reply.keep], *reply.messages]
        facts = dict(await episode.facts())
    trained = np.arange(len(tokens)) > 0
    segment = Segment(
        np.frombuffer(tokens, np.uint8).astype(np.int32),
        trained,
        np.zeros(len(tokens), np.float32),
        trained.astype(np.int32) - 1,
    )
    return Trajectory(problem, 0, member, (segment,), tuple(turns), tuple(messages), facts=facts)
