"""Programs of one expression, procedural: what a function gives for two numbers, and which it is.

``0:3 1:5=`` may be answered by ``2*x+3``, or whatever gives the same for every number: a reply is
read as arithmetic in x and tried on numbers that the prompt does not show. Nothing is run: replies
are expressions, and what is no arithmetic is no program.
"""

from __future__ import annotations

import ast
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.envs.slips import with_slips
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
LONGEST = 60  # characters of a reply that are read
HIDDEN = (2, 5, 7, 11)  # numbers that a program is tried on, beside those that were shown


@dataclass(frozen=True)
class Functions:
    """Functions a*x+b with a up to ``largest`` and b up to ``added``, and their values at 0 and 1.

    ``wrong``: the share of demonstrations that multiply by the value at 1, as if b were 0.
    ``train`` and ``test`` bound how many problems a split holds.
    """

    largest: int = 19
    added: int = 99
    wrong: float = 0.0
    train: int = 4000
    test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.largest < 2:
            raise UserError(
                f"largest is of what x is multiplied by: at least 2, got {self.largest}"
            )
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if self.train < 1 or self.test < 1:
            raise UserError("train and test are numbers of problems: set each to at least 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct functions with two of their values each."""
        wanted = self.train if split == "train" else self.test
        made = [
            _problem(a, b)
            for a in range(1, self.largest + 1)
            for b in range(self.added + 1)
            if split_of(f"{a}*x+{b}") == split
        ]
        random.Random(seed_of("functions", self.seed, split)).shuffle(made)
        return made[:wanted]

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with its program or, for a share ``wrong``, one that multiplies too much."""
        return with_slips(self.problems(split), self.wrong, self.seed)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for a program that is right everywhere; ``visible``: on the numbers shown."""
        return [_graded(problem, t.text) for t in trajectories]


def _problem(a: int, b: int) -> Problem:
    shown = {x: a * x + b for x in (0, 1)}
    question = " ".join(f"{x}:{y}" for x, y in shown.items()) + "="
    info = {"shown": tuple(shown), "slip": f"{a + b}*x+{b}"}
    return Problem(question, prompt=question, answer=f"{a}*x+{b}", solution=f"{a}*x+{b}", info=info)


def _graded(problem: Problem, text: str) -> Reward:
    program, right = parsed(text), parsed(problem.answer)
    assert right is not None
    if program is None:
        return Reward(0.0, {"correct": 0.0, "runs": 0.0, "visible": 0.0}, reason="not arithmetic")

    def same(numbers: Sequence[int]) -> float:
        return float(all(value(program, x) == value(right, x) for x in numbers))

    shown: Sequence[int] = problem.info["shown"]
    correct = same((*shown, *HIDDEN))
    parts = {"correct": correct, "runs": 1.0, "visible": same(shown)}
    return Reward(correct, parts, answer=ast.unparse(program))


def parsed(text: str) -> ast.expr | None:
    """A program, if it is arithmetic in x with whole numbers; else None."""
    try:
        tree = ast.parse(text[:LONGEST].strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return tree if all(_arithmetic(node) for node in ast.walk(tree)) else None


def _arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id == "x"
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    if isinstance(node, ast.BinOp):
        return type(node.op) in OPERATIONS
    return isinstance(node, (*OPERATIONS, ast.UnaryOp, ast.USub, ast.Load))


def value(program: ast.expr, x: int) -> int:
    """What a program gives for a number."""
    match program:
        case ast.BinOp(left, op, right):
            return OPERATIONS[type(op)](value(left, x), value(right, x))
        case ast.UnaryOp(ast.USub(), operand):
            return -value(operand, x)
        case ast.Constant(int(number)):
            return number
    return x
