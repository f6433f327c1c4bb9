"""Puzzles of the reasoning-gym package, procedural: ``type = "reasoning_gym:<name>"``.

docs/reasoning-gym.md lists the generators that keep an env's contract, and why others do not. Item
i of seed s is item i - 1 of seed s + 1, and some generators know few questions, so questions are
told apart by their text, and their split is a hash of it. Scorers are others' code: they run in
worker processes, and one that fails or does not end makes a reward invalid.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from upslope.envs.episodes import single_turn
from upslope.rewards.hedges import hedged
from upslope.rewards.workers import Outcome, Workers
from upslope.seeds import SPLITS, seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

OPEN, CLOSE = "<answer>", "</answer>"
ASKED = f"Think step by step, and give the final answer between {OPEN} and {CLOSE}."
STOP = ("\n\nQuestion:",)
LONGEST = 10_000
SHOTS = 2
PATIENCE = 5  # draws for each one that a split should take, before it counts as exhausted
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class ReasoningGym:
    """``name`` of the generator, and what its own ``config`` changes, as in ``{min_terms = 3}``.

    ``form``: "chat", answering between tags, or "text": after two examples, which are not asked.
    ``train`` and ``test`` are how many problems the splits hold (validation: as many as test).
    The scorer's value is the reward; only 1 is ``correct``.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    form: Literal["chat", "text"] = "chat"
    train: int = 1000
    test: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train < 1 or self.test < 1:
            raise UserError("train and test are numbers of problems: set each to at least 1")
        if importlib.util.find_spec("reasoning_gym") is None:
            raise UserError("this env needs reasoning-gym: pip install 'upslope[envs]'")
        made(self.name, json.dumps(self.config), 1, self.seed)

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split; UserError where the generator has too few."""
        examples = self._found("train", SHOTS) if self.form == "text" else {}
        wanted = self.train if split == "train" else self.test
        shown = len(examples) if split == "train" else 0
        found = self._found(split, wanted + shown)
        before = "".join(
            f"Question: {question}\nAnswer: {entry['answer']}\n\n"
            for question, entry in examples.items()
        )
        asked = {q: e for q, e in found.items() if q not in examples}
        return [self._problem(question, entry, before) for question, entry in asked.items()]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The scorer's value of each answer, from 0 to 1.

        Parts: ``correct``, and ``format``: whether the answer was where it should be.
        """
        answers = [self._answer(t.text) for t in trajectories]
        config = json.dumps(self.config)
        items = [(self.name, config, problem.info["entry"], said) for said, _ in answers if said]
        outcomes = iter(await workers().grade(items) if items else ())
        return [
            _reward(next(outcomes) if said else Outcome(0.0), problem.answer, said, marked)
            for said, marked in answers
        ]

    def _answer(self, text: str) -> tuple[str, bool]:
        """What a reply answers, and whether it was marked as the answer."""
        if self.form == "text":
            said, marked = text.strip(), bool(text.strip())
        else:
            inside, closed, _ = text.rpartition(CLOSE)
            _, opened, said = (inside if closed else text).rpartition(OPEN)
            marked = bool(opened and closed)
            said = (said if marked else text).strip()
        return (said, marked) if len(said) <= LONGEST else ("", False)

    def _found(self, split: Split, wanted: int) -> dict[str, Entry]:
        """The first ``wanted`` different questions of a split, each with its entry."""
        tries = int(PATIENCE * wanted / SPLITS[split]) + 100
        found: dict[str, Entry] = {}
        for entry in self._entries(tries):
            question = str(entry["question"]).strip()
            if split_of(question) == split:
                found.setdefault(question, entry)
            if len(found) == wanted:
                return found
        key = "train" if split == "train" else "test"
        raise UserError(
            f"reasoning_gym:{self.name} gave {len(found)} different {split} questions in {tries} "
            f"draws, not {wanted}: lower {key}, or change its config"
        )

    def _entries(self, count: int) -> Iterator[Entry]:
        dataset = made(self.name, json.dumps(self.config), count, self.seed)
        for index in range(count):
            try:
                yield dataset[index]
            except Exception as error:
                raise UserError(
                    f"reasoning_gym:{self.name} failed at item {index} of seed {self.seed}: "
                    f"{type(error).__name__}: {error}"
                ) from error

    def _problem(self, question: str, entry: Entry, before: str) -> Problem:
        name = f"{self.name}-{seed_of('question', question):016x}"
        answer = entry["answer"] if isinstance(entry["answer"], str) else ""
        info = {"entry": entry}
        if self.form == "text":
            prompt = f"{before}Question: {question}\nAnswer:"
            return Problem(name, (), prompt, STOP, answer, answer and f" {answer}", info)
        message = {"role": "user", "content": f"{question}\n\n{ASKED}"}
        solution = answer and f"{OPEN}{answer}{CLOSE}"
        return Problem(name, (message,), "", (), answer, solution, info)


def made(name: str, config: str, size: int, seed: int) -> ProceduralDataset:
    """A generator of ``size`` items; UserError for an unknown name or a wrong config."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UserError(f"reasoning-gym has no generator {name!r}: see docs/reasoning-gym.md")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **json.loads(config))
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise UserError(f"reasoning_gym:{name} refuses its config: {error}") from error


@cache
def _scorer(name: str, config: str) -> ProceduralDataset:
    return made(name, config, 1, 0)


def score(name: str, config: str, entry: Entry, answer: str) -> float:
    """What the generator's own scorer gives an answer; runs in a worker."""
    return float(_scorer(name, config).score_answer(answer, dict(entry)))


def _reward(outcome: Outcome, gold: str, said: str, marked: bool) -> Reward:
    if outcome.reason or not math.isfinite(outcome.value):
        reason = outcome.reason or f"the scorer gave {outcome.value}"
        return Reward(0.0, valid=False, reason=reason, answer=said)
    value = min(1.0, max(0.0, outcome.value))
    if value == 1 and hedged(gold, said):
        value = 0.0  # some scorers look at the beginning alone
    return Reward(value, {"correct": float(value == 1), "format": float(marked)}, answer=said)


@cache
def workers() -> Workers:
    """The processes that all puzzles of this one are scored in."""
    warm = ("chain_sum", "{}", {"question": "1 + 1", "answer": "2", "metadata": {}}, "2")
    return Workers(f"{__name__}:score", warm)
