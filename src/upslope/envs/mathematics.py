"""Mathematical questions from a data set in the form of GSM8K or of MATH, graded by their answer.

GSM8K's rows are {"question", "answer"}, the answer ending in "#### 42"; those of MATH are
{"problem", "solution"} with a \\boxed{} in the solution, or {"problem", "answer"}. A row that is
neither, or whose gold answer nothing could be compared with, is an error that names its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from upslope.envs.datasets import Row, hub_files, read_rows
from upslope.envs.episodes import single_turn
from upslope.rewards.math_answer import Form, boxed, fault, math_answers, simply_equal
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

CALCULATIONS = re.compile(r"<<[^<>]*>>")
STOP = ("\nQuestion:",)
EXAMPLES = """\
Question: A tray holds 4 rows of 6 eggs. Nine of them are used. How many eggs are left?
Answer: The tray holds 4 * 6 = 24 eggs. After nine are used, 24 - 9 = 15 are left. The answer is 15.

Question: What is $\\frac{1}{2} + \\frac{1}{3}$?
Answer: Over the common denominator 6, this is $\\frac{3}{6} + \\frac{2}{6}$. \
The answer is $\\frac{5}{6}$.

Question: A shop sells pens at $3 each. Ada pays with $20 and gets $8 back. How many pens were sold?
Answer: She spent 20 - 8 = 12 dollars, which buys 12 / 3 = 4 pens. The answer is 4.

"""


@dataclass(frozen=True)
class Mathematics:
    """``train``, ``validation``, ``test``: a JSONL or Parquet file each, as far as there are any.

    Or ``path``: one file, split by a hash of each question, or a hub data set such as
    ``openai/gsm8k``, and its ``subset`` where it has several. Where there are questions to train
    on and none to validate on, 8% of them are held out for that. ``form``: "chat", with the
    ``instruction`` after the question, or "text": after three examples.
    """

    train: str = ""
    validation: str = ""
    test: str = ""
    path: str = ""
    subset: str = ""
    form: Literal["chat", "text"] = "chat"
    instruction: str = "Think step by step, and put the final answer in \\boxed{}."

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.train or self.validation or self.test):
            raise UserError(
                "name the questions: either path, or one or more of train, validation and test"
            )
        if self.subset and not self.path:
            raise UserError("subset is the folder of a hub data set: it needs path = owner/name")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's problems in the order of the file; empty where there is no such file."""
        questions, ids = dict[str, str](), dict[str, str]()
        found: list[Problem] = []
        for home, row in self._rows():
            problem = self._problem(row)
            _once(questions, str(problem.info["question"]), "question", row)
            _once(ids, problem.id, f"id {problem.id!r}", row)
            if home == split:
                found.append(problem)
        return found

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with the solution that its data set gives."""
        return ((problem, problem.solution) for problem in self.problems(split))

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for the right answer; ``format`` says whether the reply marked its answer."""
        form: Form = "gsm8k" if problem.info["form"] == "gsm8k" else "math"
        return await math_answers([t.text for t in trajectories], problem.answer, form)

    def _rows(self) -> Iterator[tuple[Split, Row]]:
        """Every row with its split."""
        if Path(self.path).suffix in (".jsonl", ".parquet") or Path(self.path).is_file():
            for row in read_rows(self.path):
                yield split_of(_question(row)), row
            return
        files = self._files()
        for split, paths in files.items():
            for path in paths:
                for row in read_rows(path):
                    held_out = split == "train" and not files["validation"]
                    yield ("validation" if held_out and _held_out(row) else split), row

    def _files(self) -> dict[Split, list[Path]]:
        if self.path:
            return hub_files(self.path, self.subset)
        given: dict[Split, str] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return {split: [Path(path)] if path else [] for split, path in given.items()}

    def _problem(self, row: Row) -> Problem:
        question, gold, solution, form = _parts(row)
        if wrong := fault(gold, form):
            raise UserError(f"{row.where}: the gold answer {wrong}, so mend or remove the row")
        given = row.fields.get("id", row.fields.get("unique_id"))
        name = f"{seed_of('question', question):016x}" if given is None else str(given)
        info = {"question": question, "form": form}
        if self.form == "text":
            prompt = f"{EXAMPLES}Question: {question}\nAnswer:"
            return Problem(name, (), prompt, STOP, gold, f" {solution}", info)
        asked = f"{question}\n\n{self.instruction}" if self.instruction else question
        message = {"role": "user", "content": asked}
        return Problem(name, (message,), answer=gold, solution=solution, info=info)


def _once(seen: dict[str, str], key: str, what: str, row: Row) -> None:
    if (first := seen.setdefault(key, row.where)) != row.where:
        raise UserError(f"{row.where} has the same {what} as {first}: remove one of them")


def _question(row: Row) -> str:
    return row.text("problem" if "problem" in row.fields else "question").strip()


def _held_out(row: Row) -> bool:
    return split_of(_question(row)) == "validation"


def _parts(row: Row) -> tuple[str, str, str, Form]:
    """Question, gold answer, a solution that says it, and which form the row has."""
    question = _question(row)
    if "problem" not in row.fields:
        reasoning, hashes, gold = row.text("answer").rpartition("####")
        if not hashes:
            raise UserError(
                f'{row.where}: "answer" does not end in "#### " and a number: add that, or name '
                'the fields "problem" and "answer"'
            )
        solution = f"{CALCULATIONS.sub('', reasoning)}#### {gold.strip()}"
        return question, gold.strip(), solution, "gsm8k"
    given = row.fields.get("answer") is not None
    solution = row.text("solution") if "solution" in row.fields or not given else ""
    said = boxed(solution) or ""
    gold = row.text("answer").strip() if given else said.strip()
    if not gold:
        raise UserError(
            f'{row.where}: "solution" has no \\boxed{{}} that closes: mend it, or add the field '
            '"answer"'
        )
    if not simply_equal(gold, said):
        solution = f"{solution} \\boxed{{{gold}}}".strip()
    return question, gold, solution, "math"
