"""Verifier fuzzing: adversarial replies to some problems, and what is wrong with their grading.

What a grader should make of a reply is ``cases.py``'s to say.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from upslope.audit.cases import Case, cases
from upslope.batteries.env import played
from upslope.dialogues import repeated
from upslope.grading import grade
from upslope.types import Env, Problem, Reward, UserError

Wrong = Literal[
    "exploit", "false positive", "false negative", "crash", "slow", "unstable", "differs"
]
SERIOUS: tuple[Wrong, ...] = ("exploit", "false positive", "crash", "unstable")
AT_ONCE = 32  # replies graded as one group
SHOWN = 60  # characters of a reply in a report


@runtime_checkable
class Accepts(Protocol):
    """An env that knows other right replies beside a problem's solution."""

    def accepted(self, problem: Problem) -> Sequence[str]:
        """Each must earn what the solution does."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with how a reply is graded. ``got`` says what it earned, or what happened."""

    wrong: Wrong
    problem: str
    case: Case
    got: str

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "wrong": self.wrong,
            "problem": self.problem,
            "kind": self.case.kind,
            "reply": self.case.text[:1000].encode("utf-8", "replace").decode(),
            "length": len(self.case.text),
            "must_pass": self.case.passes,
            "why": self.case.why,
            "got": self.got,
        }


@dataclass(frozen=True)
class Report:
    """``cases`` graded on so many ``problems``, by expectation; ``faults``, and ``seconds``."""

    name: str
    problems: int
    cases: Mapping[str, int]
    faults: Sequence[Fault]
    seconds: float
    slowest: float

    @property
    def failed(self) -> bool:
        """Whether anything found can be exploited, or graded in two ways."""
        return any(fault.wrong in SERIOUS for fault in self.faults)

    def lines(self, most: int = 5) -> list[str]:
        """In words: of each kind of fault a few."""
        told = ", ".join(f"{n} {kind}" for kind, n in self.cases.items())
        said = [
            f"{self.name}: {sum(self.cases.values())} replies to {self.problems} problems ({told}) "
            f"in {self.seconds:.1f} s, the slowest {self.slowest:.2f} s"
        ]
        for wrong, count in Counter(fault.wrong for fault in self.faults).items():
            said.append(f"  {count} x {wrong}")
            own = [fault for fault in self.faults if fault.wrong == wrong]
            for fault in {fault.case.kind: fault for fault in reversed(own)}.values():
                most_shown = fault.case.text[:SHOWN]
                said.append(
                    f"    {fault.case.kind}: {most_shown!r} to {fault.problem!r} {fault.got}; "
                    f"{fault.case.why}"
                )
        return said if self.faults else [*said, "  nothing is wrong"]

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "grader": self.name,
            "problems": self.problems,
            "cases": dict(self.cases),
            "seconds": self.seconds,
            "slowest": self.slowest,
            "failed": self.failed,
            "faults": [fault.row() for fault in self.faults],
        }


@dataclass
class Graded:
    """One reply: its reward, None where grading failed, which ``crash`` tells; seconds it took."""

    case: Case
    reward: Reward | None = None
    crash: str = ""
    seconds: float = 0.0
    again: Reward | None = None


@dataclass
class Fuzz:
    """One env under test. ``slow``: seconds that one reply may take; ``limit``: after which it is
    given up."""

    env: Env
    slow: float = 10.0
    limit: float = 60.0
    costly: int = 1
    seen: dict[str, list[Graded]] = field(default_factory=dict)

    def run(self, problems: Sequence[Problem]) -> None:
        """Grade all replies to these problems, twice where they are cheap."""
        for place, problem in enumerate(problems):
            more = self.env.accepted(problem) if isinstance(self.env, Accepts) else ()
            made = cases(problem, [p for p in problems if p.id != problem.id], more)
            wanted = [c for c in made if not c.costly or place < self.costly]
            self.seen[problem.id] = asyncio.run(self._graded(problem, wanted))

    async def _graded(self, problem: Problem, made: Sequence[Case]) -> list[Graded]:
        out = []
        cheap = [Graded(case) for case in made if not case.costly]
        for start in range(0, len(cheap), AT_ONCE):
            await self._together(problem, cheap[start : start + AT_ONCE])
        for start in range(0, len(cheap), AT_ONCE):
            await self._again(problem, cheap[start : start + AT_ONCE][::-1])
        for case in made:
            if case.costly:
                out.append(Graded(case))
                await self._together(problem, out[-1:])
        return cheap + out

    async def _together(self, problem: Problem, some: Sequence[Graded]) -> None:
        """Grade some as one group; each alone where that fails or takes long."""
        began = time.perf_counter()
        try:
            rewards = await self._rewards(problem, some)
        except UserError as error:
            if len(some) == 1:
                some[0].crash, some[0].seconds = str(error), time.perf_counter() - began
                return
            for one in some:
                await self._together(problem, [one])
            return
        took = time.perf_counter() - began
        if took > self.slow and len(some) > 1:
            for one in some:
                await self._together(problem, [one])
            return
        for one, reward in zip(some, rewards, strict=True):
            one.reward, one.seconds = reward, took / len(some)

    async def _again(self, problem: Problem, some: Sequence[Graded]) -> None:
        """The same replies in another order and group."""
        sound = [one for one in some if one.reward is not None]
        if not sound:
            return
        try:
            rewards = await self._rewards(problem, sound)
        except UserError as error:
            sound[0].crash = str(error)
            return
        for one, reward in zip(sound, rewards, strict=True):
            one.again = reward

    async def _rewards(self, problem: Problem, some: Sequence[Graded]) -> Sequence[Reward]:
        plays = [
            await played(self.env, problem, repeated(one.case.text), i)
            for i, one in enumerate(some)
        ]
        return await grade(self.env, problem, plays, self.limit)


def fuzz(
    env: Env,
    problems: Sequence[Problem],
    name: str = "",
    against: Env | None = None,
    costly: int = 1,
) -> Report:
    """Everything that is wrong with an env's grader on these problems.

    ``against``: another env's grader of the same problems; where one lets pass what the other does
    not, they differ. ``costly``: on how many problems replies that are to exhaust it are tried.
    """
    if not any(p.solution or p.answer for p in problems):
        raise UserError(f"{name} knows no answers: there is nothing to make adversarial replies of")
    began = time.perf_counter()
    known = [p for p in problems if p.solution or p.answer]
    one = Fuzz(env, costly=costly)
    one.run(known)
    faults = [fault for problem in known for fault in _faults(one, problem)]
    if against is not None:
        other = Fuzz(against, costly=costly)
        other.run(known)
        faults += [fault for problem in known for fault in _differing(one, other, problem)]
    graded = [g for found in one.seen.values() for g in found]
    kinds = Counter(
        {True: "must pass", False: "must not", None: "may"}[g.case.passes] for g in graded
    )
    slowest = max(g.seconds for g in graded)
    took = time.perf_counter() - began
    return Report(name or type(env).__name__, len(known), kinds, faults, took, slowest)


def passes(reward: Reward | None, full: float) -> bool:
    """Whether a reply is taken for right: correct, or earning as much as the solution."""
    return reward is not None and reward.valid and (reward.correct >= 1 or reward.total >= full)


def _faults(fuzzed: Fuzz, problem: Problem) -> Iterator[Fault]:
    found = fuzzed.seen[problem.id]
    gold = found[0].reward
    full = gold.total if gold is not None and gold.valid and gold.correct >= 1 else float("inf")
    for one in found:
        case, reward = one.case, one.reward
        if one.crash:
            yield Fault("crash", problem.id, case, f"fails: {one.crash[:200]}")
            continue
        if one.seconds > fuzzed.slow:
            yield Fault("slow", problem.id, case, f"takes {one.seconds:.1f} s")
        assert reward is not None
        got = _told(reward)
        if one.again is not None and (one.again.total, one.again.valid) != (
            reward.total,
            reward.valid,
        ):
            yield Fault("unstable", problem.id, case, f"{got}, and then {_told(one.again)}")
        if case.passes is False and passes(reward, full):
            yield Fault("false positive" if case.holds else "exploit", problem.id, case, got)
        if case.passes is True and not passes(reward, full):
            yield Fault("false negative", problem.id, case, got)


def _differing(one: Fuzz, other: Fuzz, problem: Problem) -> Iterator[Fault]:
    """Where exactly one of two graders lets a reply pass."""
    theirs = {g.case.text: g.reward for g in other.seen[problem.id]}
    for graded in one.seen[problem.id]:
        reward, second = graded.reward, theirs.get(graded.case.text)
        if reward is None or second is None:
            continue
        if passes(reward, 1.0) != passes(second, 1.0):
            got = f"{_told(reward)}, by the other {_told(second)}"
            yield Fault("differs", problem.id, graded.case, got)


def _told(reward: Reward) -> str:
    return f"earns {reward.total:g}" if reward.valid else f"is invalid ({reward.reason[:80]})"
