"""A language model's verdict on each reply: the policy's own, or any OpenAI-compatible server's.

It rates each reply by a number, or says which of two is better, in both orders. Without an
``endpoint`` the judge is the policy itself with the weights of the step: as it is trained so is its
judge, and what both of them come to like is no gain. Audit it by the env, or have a server hold
weights that do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from upslope.rewards import Grades, Host
from upslope.rewards.asking import Asks, Judging, Own, Served
from upslope.rewards.endpoint import Endpoint
from upslope.rewards.failures import Failures, VerdictError
from upslope.rewards.nested import together
from upslope.rewards.verdicts import COMPARE, RATE, better, filled, number, question_of
from upslope.seeds import seed_of
from upslope.types import Problem, Reward, Trajectory

ALONE = "a judge of pairs has nothing to compare a reply alone with"


@dataclass(frozen=True)
class Judge:
    """``verdict`` "number" asks for one from ``low`` to ``high``, and a reply earns where between
    them it is, 0 to 1. "pair" compares a reply ``against`` the next ``opponents`` of its group, or
    the problem's solution as the "reference": it earns the share of comparisons that it won.

    ``template``: what is asked; {question}, {reply}, {reference}, {low} and {high} are filled in,
    {a} and {b} for pairs; "" is a plain one. A verdict is the word after the last "Verdict:".
    Failures are invalid rewards; the run stops where of the last 100 more than ``failures`` are.
    ``endpoint``: who is asked, by default the policy itself.
    """

    verdict: Literal["number", "pair"] = "number"
    against: Literal["group", "reference"] = "group"
    opponents: int = 1
    low: float = 0.0
    high: float = 10.0
    template: str = ""
    max_tokens: int = 256
    temperature: float = 0.0
    failures: float = 0.5
    endpoint: Endpoint | None = None

    def __post_init__(self) -> None:
        needed = ("{reply}",) if self.verdict == "number" else ("{a}", "{b}")
        for field in needed:
            if self.template and field not in self.template:
                raise ValueError(f"template must have {field}, or the judge does not see it")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.max_tokens < 1 or self.opponents < 1 or not self.temperature >= 0:
            raise ValueError("max_tokens and opponents must be at least 1, temperature 0")
        if not 0 <= self.failures <= 1:
            raise ValueError(f"failures must be between 0 and 1, got {self.failures:g}")

    def open(self, host: Host) -> Grades:
        """Its client; UserError where the key is missing."""
        asks: Asks = Served(self.endpoint.client(), host) if self.endpoint else Own(host)
        if not self.endpoint:
            host.say(
                "the judge is the policy itself, whose weights change as it is trained: what both "
                "of them come to like is no gain, so audit it, or give it an endpoint"
            )
        whose = self.endpoint.url if self.endpoint else "the policy's own judge"
        return Bench(self, asks, Failures(self.failures, whose), host.seed)


@dataclass(frozen=True)
class Bench:
    """An opened judge. ``seed`` draws its verdicts, where it has a temperature."""

    settings: Judge
    judge: Asks
    failures: Failures
    seed: int

    @property
    def earns(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def compares(self) -> bool:
        """Whether replies are compared with their group's."""
        return self.settings.verdict == "pair" and self.settings.against == "group"

    async def begin(self, folder: object) -> None:
        """Nothing to make."""

    async def close(self) -> None:
        """End what asks."""
        self.judge.close()

    def metrics(self) -> dict[str, float]:
        """Verdicts, and failures by kind."""
        return self.failures.metrics()

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """A verdict for each, or several, all asked for at once."""
        if self.settings.verdict == "number":
            return await together([self.rated(problem, t) for t in trajectories])
        if self.settings.against == "group":
            return await self.ranked(problem, trajectories)
        return await together([self.matched(problem, t) for t in trajectories])

    async def rated(self, problem: Problem, t: Trajectory) -> Reward:
        """Where between low and high the number is."""
        s = self.settings
        fields = {
            "question": question_of(t.messages),
            "reply": t.text,
            "reference": reference(problem),
            "low": f"{s.low:g}",
            "high": f"{s.high:g}",
        }
        prompt, key = filled(s.template or RATE, fields), (problem.id, t.visit, t.member)
        said = await self.verdict(prompt, key, lambda text: number(text, s.low, s.high))
        if isinstance(said, VerdictError):
            return failed([said])
        return Reward((said - s.low) / (s.high - s.low), {"verdict": said})

    async def matched(self, problem: Problem, t: Trajectory) -> Reward:
        """Against the problem's own solution."""
        against = reference(problem)
        if not against:
            return Reward(0.0, valid=False, reason="the problem has no solution to compare with")
        return share(await self.both(problem, t, against, "reference"))

    async def ranked(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Each against those that follow it in its group, the last by the first again."""
        n = len(trajectories)
        if n < 2:
            return [Reward(0.0, valid=False, reason=ALONE) for _ in trajectories]
        pairs = {
            frozenset((i, (i + step) % n))
            for step in range(1, min(self.settings.opponents, n - 1) + 1)
            for i in range(n)
        }
        ordered = sorted(tuple(sorted(pair)) for pair in pairs)
        found = await together(
            [self.both(problem, trajectories[i], trajectories[j].text, f"{j}") for i, j in ordered]
        )
        won: list[list[float | VerdictError]] = [[] for _ in trajectories]
        for (i, j), verdicts in zip(ordered, found, strict=True):
            won[i] += verdicts
            won[j] += [v if isinstance(v, VerdictError) else 1 - v for v in verdicts]
        return [share(each) for each in won]

    async def both(
        self, problem: Problem, t: Trajectory, other: str, whose: str
    ) -> list[float | VerdictError]:
        """In both orders, what the reply wins: 1, 0 or 0.5. The same words are a tie."""
        if t.text == other:
            return [0.5, 0.5]
        fields = {"question": question_of(t.messages), "reference": reference(problem)}
        template, key = self.settings.template or COMPARE, (problem.id, t.visit, t.member, whose)
        ways = [(t.text, other), (other, t.text)]
        asked = [filled(template, {**fields, "a": a, "b": b}) for a, b in ways]
        first, second = await together(
            [self.verdict(prompt, (*key, way), better) for way, prompt in enumerate(asked)]
        )
        return [first, second if isinstance(second, VerdictError) else 1 - second]

    async def verdict(
        self, prompt: str, key: tuple[int | str, ...], read: Judging
    ) -> float | VerdictError:
        """What is read in the judge's words, or how that failed; counted."""
        s, said = self.settings, VerdictError("unparsable", "nothing was said")
        try:
            seed = seed_of(self.seed, "judge", *key)
            value = read(await self.judge.ask(prompt, s.max_tokens, s.temperature, seed))
        except VerdictError as error:
            said = error
        else:
            self.failures.count(None)
            return value
        self.failures.count(said)
        return said


def reference(problem: Problem) -> str:
    """What is known to be right."""
    return problem.solution or problem.answer


def failed(of: Sequence[VerdictError]) -> Reward:
    """Invalid, by the first failure."""
    return Reward(0.0, valid=False, reason=str(of[0]))


def share(verdicts: Sequence[float | VerdictError]) -> Reward:
    """The mean of those that were given; invalid where none was."""
    given = [v for v in verdicts if not isinstance(v, VerdictError)]
    if not given:
        return failed([v for v in verdicts if isinstance(v, VerdictError)])
    return Reward(sum(given) / len(given))
