"""Programs to write, graded by tests in the sandbox: rows in the form of MBPP, of HumanEval, or of
programs that read and print.

MBPP's rows have {"text" or "prompt", "code", "test_list"}; HumanEval's {"prompt", "entry_point",
"test"}; the others {"question", "inputs", "outputs"}, a solution in "solution". A row that is none
of these is an error that names its line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from upslope.envs.datasets import Row, hub_files, read_rows
from upslope.envs.episodes import single_turn
from upslope.rewards.unit_tests import UnitTests, Verdict, code_of, unit_tested
from upslope.sandbox import Level, Limits, sandbox
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

INSTRUCTION = "Write it in Python, in one fenced block."
DEFINED = re.compile(r"^\s*def\s+(\w+)", re.M)


@dataclass(frozen=True)
class Code:
    """``train``, ``validation``, ``test``: a JSONL or Parquet file each, as far as there are any;
    or ``path``: one file, split by a hash of each question, or a hub data set such as
    ``google-research-datasets/mbpp``, and its ``subset`` where it has several.

    ``shown``: how many tests a prompt shows; those count as the part ``visible``, the others as
    ``hidden``. ``reward``: "all" or nothing, or the "share" of tests that pass. ``limits`` are of
    a program with its tests; ``sandbox``: the least that must hold it.
    """

    train: str = ""
    validation: str = ""
    test: str = ""
    path: str = ""
    subset: str = ""
    shown: int = 1
    reward: Literal["all", "share"] = "all"
    instruction: str = INSTRUCTION
    sandbox: Level = "isolated"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.train or self.validation or self.test):
            raise UserError(
                "name the questions: either path, or one or more of train, validation and test"
            )
        if self.subset and not self.path:
            raise UserError("subset is the folder of a hub data set: it needs path = owner/name")
        if self.shown < 0:
            raise UserError(f"shown is how many tests a prompt shows, got {self.shown}")
        sandbox(self.sandbox)

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's problems in the order of the file; empty where there is no such file."""
        ids, homes, found = dict[str, str](), dict[str, Split](), list[Problem]()
        for home, row in self._rows():
            problem = self._problem(row)
            if (first := ids.setdefault(problem.id, row.where)) != row.where:
                raise UserError(f"{row.where} has the same id as {first}: remove one of them")
            # MBPP asks some questions twice; only in two splits would that tell of the answer.
            if homes.setdefault(str(problem.info["question"]), home) != home:
                raise UserError(f"{row.where} asks what another split does: remove one of them")
            if home == split:
                found.append(problem)
        return found

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem that has one with the solution that its data set gives."""
        return ((p, p.solution) for p in self.problems(split) if p.solution)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for a program that passes all tests; equal programs of a group are run once."""
        programs = [_program(problem, t.text) for t in trajectories]
        each = list(dict.fromkeys(programs))
        tests = problem.info["tests"]
        ran = await asyncio.gather(
            *(unit_tested(p, tests, self.limits, self.sandbox) for p in each)
        )
        known = dict(zip(each, ran, strict=True))
        return [self._reward(problem, program, known[program]) for program in programs]

    def _reward(self, problem: Problem, program: str, verdict: Verdict) -> Reward:
        if verdict.invalid:
            return Reward(0.0, valid=False, reason=verdict.invalid)
        tests, shown = len(problem.info["tests"]), int(problem.info["shown"])
        passed = [not failure for failure in verdict.failures]
        right = float(all(passed))
        total = right if self.reward == "all" else verdict.passed / tests
        parts = {"correct": right, "passed": verdict.passed / tests}
        if 0 < shown < tests:
            parts["visible"] = sum(passed[:shown]) / shown
            parts["hidden"] = sum(passed[shown:]) / (tests - shown)
        why = next((failure for failure in verdict.failures if failure), "")
        return Reward(total, parts, reason=why, answer=program.strip())

    def _rows(self) -> Iterator[tuple[Split, Row]]:
        if Path(self.path).suffix in (".jsonl", ".gz", ".parquet") or Path(self.path).is_file():
            for row in read_rows(self.path):
                yield split_of(_question(row)), row
            return
        files = hub_files(self.path, self.subset) if self.path else self._files()
        for split, paths in files.items():
            for path in paths:
                for row in read_rows(path):
                    away = split == "train" and not files["validation"]
                    away = away and split_of(_question(row)) == "validation"
                    yield ("validation" if away else split), row

    def _files(self) -> dict[Split, list[Path]]:
        given: dict[Split, str] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return {split: [Path(path)] if path else [] for split, path in given.items()}

    def _problem(self, row: Row) -> Problem:
        question, tests, solution, begun = _parts(row)
        shown = min(self.shown, len(tests))
        given = row.fields.get("task_id", row.fields.get("id"))
        name = f"{seed_of('question', question):016x}" if given is None else str(given)
        asked = "\n\n".join(filter(None, [question, *_shown(tests, shown), self.instruction]))
        info = {"question": question, "tests": tests, "shown": shown, "begun": begun}
        reply = f"```python\n{solution.strip()}\n```" if solution else ""
        return Problem(name, ({"role": "user", "content": asked},), solution=reply, info=info)


def _program(problem: Problem, reply: str) -> str:
    """The reply's program, after what the prompt began where it only goes on from there."""
    code, begun = code_of(reply), str(problem.info["begun"])
    entry = problem.info["tests"].entry
    return code if not begun or entry in DEFINED.findall(code) else f"{begun}{code}"


def _shown(tests: UnitTests, number: int) -> Iterator[str]:
    """What a prompt says of its first tests."""
    if not number:
        return
    if tests.statements:
        yield "It must pass:\n" + "\n".join(tests.statements[:number])
        return
    for told, wanted in tests.talks[:number]:
        yield f"Given:\n{told.strip()}\nit prints:\n{wanted.strip()}"


def _question(row: Row) -> str:
    names = ("text", "question", "prompt", "problem")
    return row.text(next((n for n in names if n in row.fields), "question")).strip()


def _texts(row: Row, name: str) -> tuple[str, ...]:
    """A field that is a list of texts."""
    held: Any = row.fields.get(name)
    if not isinstance(held, Sequence) or isinstance(held, str) or not len(held):
        raise UserError(f'{row.where}: the field "{name}" must be a list of texts')
    if not all(isinstance(one, str) for one in held):
        raise UserError(f'{row.where}: the field "{name}" must hold texts alone')
    return tuple(held)


def _parts(row: Row) -> tuple[str, UnitTests, str, str]:
    """Question, tests, a solution where there is one, and what the prompt began."""
    fields, question = row.fields, _question(row)
    if "test_list" in fields:
        more = _texts(row, "challenge_test_list") if fields.get("challenge_test_list") else ()
        setup = fields.get("test_setup_code") or "\n".join(fields.get("test_imports") or ())
        tests = UnitTests((*_texts(row, "test_list"), *more), str(setup))
        return question, tests, str(fields.get("code") or ""), ""
    if "entry_point" in fields:
        begun = str(fields["prompt"])
        tests = UnitTests(("check(candidate)",), row.text("test"), row.text("entry_point"))
        body = str(fields.get("canonical_solution") or "")
        return f"Complete this function:\n\n{begun.strip()}", tests, begun + body, begun
    if "inputs" in fields:
        told, wanted = _texts(row, "inputs"), _texts(row, "outputs")
        if len(told) != len(wanted):
            raise UserError(f'{row.where}: "inputs" and "outputs" must be equally many')
        talks = tuple(zip(told, wanted, strict=True))
        return question, UnitTests(talks=talks), str(fields.get("solution") or ""), ""
    raise UserError(
        f'{row.where}: no tests: name the fields "test_list", or "entry_point" and "test", or '
        '"inputs" and "outputs"'
    )
