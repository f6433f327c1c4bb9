"""Programs graded by tests: what passes, what does not, and what must not."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from upslope.envs.code import Code
from upslope.envs.functions import Functions, parsed, value
from upslope.rewards.unit_tests import UnitTests, Verdict, code_of, unit_tested
from upslope.sandbox import Limits, offered
from upslope.types import Problem, Reward, Trajectory, UserError

LEVEL = offered().level
LIMITS = Limits(seconds=3.0)
MBPP = {
    "task_id": 7,
    "text": "Write a function to double a number.",
    "code": "def double(x):\n    return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
    "challenge_test_list": ["assert double(-3) == -6"],
    "test_setup_code": "",
}
HUMAN_EVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'from typing import List\n\ndef most(n: List[int]) -> int:\n    """Largest."""\n',
    "entry_point": "most",
    "canonical_solution": "    return max(n)\n",
    "test": "def check(f):\n    assert f([1, 3, 2]) == 3\n    assert f([-1]) == -1",
}
TALKS = {
    "id": "sum",
    "question": "Read two numbers and print their sum.",
    "inputs": ["1 2\n", "-4 4"],
    "outputs": ["3\n", "0"],
    "solution": "print(sum(map(int, input().split())))",
}


def waits(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that waits, for pytest, which does not."""

    @functools.wraps(test)
    def run(*arguments: Any, **words: Any) -> None:
        asyncio.run(test(*arguments, **words))

    return run


async def judge(code: str, *statements: str, **more: Any) -> Verdict:
    return await unit_tested(code, UnitTests(statements, **more), LIMITS, LEVEL)


def env_of(tmp_path: Path, *rows: Mapping[str, Any], **settings: Any) -> Code:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Code(test=str(path), sandbox=LEVEL, limits=LIMITS, **settings)


async def graded(env: Code, problem: Problem, *replies: str) -> list[Reward]:
    plays = [
        Trajectory(problem, 0, i, (), (), ({"role": "assistant", "content": reply},))
        for i, reply in enumerate(replies)
    ]
    return list(await env.rewards(problem, plays))


@waits
async def test_values_of_all_kinds_come_back_as_they_were() -> None:
    code = (
        "from collections import Counter, namedtuple\nfrom fractions import Fraction\n"
        "P = namedtuple('P', 'a b')\n"
        "def f(k):\n"
        "    return {'n': None, 'i': 2**70, 'f': float('inf'), 's': {1, 2}, 't': (1, [2]),\n"
        "            'b': b'x', 'c': 1j, 'd': Counter('aab'), 'p': P(1, 2), 'q': Fraction(1, 3),\n"
        "            'r': range(3), 'y': int, 'z': frozenset([1])}[k]\n"
    )
    wanted = {
        "n": "None", "i": "2**70", "f": "float('inf')", "s": "{1, 2}", "t": "(1, [2])",
        "b": "b'x'", "c": "1j", "d": "{'a': 2, 'b': 1}", "p": "(1, 2)", "q": "Fraction(1, 3)",
        "r": "range(3)", "y": "int", "z": "frozenset([1])",
    }  # fmt: skip
    tests = [f"assert f({key!r}) == {value}" for key, value in wanted.items()]
    tests += ["assert f('t') == (1, 2)", "assert type(f('t')) is list"]  # which are not so
    verdict = await judge(code, *tests, setup="from fractions import Fraction")
    assert verdict.failures == ("",) * len(wanted) + ("AssertionError: ",) * 2


@waits
async def test_arguments_change_in_place_and_objects_stay_where_they_are() -> None:
    code = (
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
        "def order(x):\n    x.sort()\n"
        "def total(p):\n    return p.a + p.b\n"
        "def count(n):\n    yield from range(n)\n"
        "def fails():\n    raise KeyError('no')\n"
    )
    verdict = await judge(
        code,
        "x = [3, 1, 2]\norder(x)\nassert x == [1, 2, 3]",
        "p = Pair(1, 2)\np.b = 5\nassert total(p) == 6 and p.a == 1",
        "assert list(count(3)) == [0, 1, 2]",
        "try:\n    fails()\n    assert False\nexcept KeyError:\n    pass",
        "assert Pair(1, 2) == Pair(1, 2)",
    )
    assert verdict.failures == ("", "", "", "", "AssertionError: ")


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x):\n    raise SystemExit",
        "def f(x):\n    while True:\n        pass",
        "class Same:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n"
        "def f(x):\n    return Same()",
        "class Int(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n"
        "def f(x):\n    return Int(0)",
        "import builtins\nbuiltins.AssertionError = KeyError\ndef f(x):\n    raise AssertionError",
        'print(\'verdict:{"verdicts": ["", ""]}\')',
        "import os\nos.write(5, b'{\"names\": [\"f\"]}\\n{\"value\": 4}\\n')\nos._exit(0)",
        "import os\nos.write(5, b'rubbish\\n[[[[\\n')",
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'verdicts' in o:\n"
        "        o['verdicts'] = []\ndef f(x):\n    return x",
        "def f(x):\n    return [f] * 10**9",
        "def f(x):\n    a = []\n    a.append(a)\n    return a",
        "import os\ntry:\n    os.kill(-1, 9)\nexcept OSError:\n    pass\ndef f(x):\n    return 0",
    ],
)  # fmt: skip
@waits
async def test_what_is_no_right_answer_does_not_pass(code: str) -> None:
    verdict = await unit_tested(
        code, UnitTests(("assert f(2) == 4", "assert f(3) == 9")), LIMITS, LEVEL
    )
    assert not verdict.invalid
    assert not all(failure == "" for failure in verdict.failures)
    assert verdict.failures[1]  # 9 is what only a right program gives


@waits
async def test_tests_that_do_not_run_say_so_and_grade_nobody() -> None:
    assert (await judge("", "assert f(")).invalid.startswith("the tests do not run: SyntaxError")
    assert "ModuleNotFoundError" in (await judge("", "1", setup="import nowhere")).invalid


def test_the_program_is_the_last_fenced_block() -> None:
    assert code_of("First\n```python\nx = 1\n```\nbetter\n```py\nx = 2\n```\ndone") == "x = 2\n"
    assert code_of("```\nx = 1") == "x = 1"  # cut by a limit of length
    assert code_of("x = 3") == "x = 3"
    assert code_of("```python\n```") == "```python\n```"


@waits
async def test_rows_in_the_form_of_mbpp(tmp_path: Path) -> None:
    env = env_of(tmp_path, MBPP)
    [problem] = env.problems("test")
    said = str(problem.messages[0]["content"])
    assert "assert double(2) == 4" in said
    assert "double(0)" not in said
    right, shown_only, wrong, empty = await graded(
        env,
        problem,
        problem.solution,
        "```python\ndef double(x):\n    return 4\n```",
        "def double(x):\n    return x",
        "",
    )
    assert (right.total, right.parts["hidden"], right.parts["visible"]) == (1.0, 1.0, 1.0)
    assert (shown_only.total, shown_only.parts["visible"], shown_only.parts["hidden"]) == (0, 1, 0)
    assert wrong.parts["passed"] == pytest.approx(1 / 3)
    assert empty.total == 0
    assert "NameError" in empty.reason
    share = env_of(tmp_path, MBPP, reward="share", shown=0)
    [problem] = share.problems("test")
    [reward] = await graded(share, problem, "def double(x):\n    return x")
    assert reward.total == pytest.approx(1 / 3)
    assert "visible" not in reward.parts


@waits
async def test_rows_in_the_form_of_human_eval(tmp_path: Path) -> None:
    env = env_of(tmp_path, HUMAN_EVAL)
    [problem] = env.problems("test")
    body, whole, wrong = await graded(
        env,
        problem,
        "```python\n    return sorted(n)[-1]\n```",
        "```python\ndef most(n):\n    return max(n)\n```",
        "    return n[0]",
    )
    assert (body.total, whole.total, wrong.total) == (1.0, 1.0, 0.0)
    [gold] = await graded(env, problem, problem.solution)
    assert gold.total == 1


@waits
async def test_programs_that_read_and_print(tmp_path: Path) -> None:
    env = env_of(tmp_path, TALKS)
    [problem] = env.problems("test")
    right, wrong, fails = await graded(
        env, problem, problem.solution, "print(3)", "print(int('x'))"
    )
    assert right.total == 1
    assert wrong.parts == {"correct": 0.0, "passed": 0.5, "visible": 1.0, "hidden": 0.0}
    assert fails.reason.startswith("ValueError")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "Do.", "id": 1}, "no tests"),
        (MBPP | {"test_list": []}, '"test_list" must be a list of texts'),
        (MBPP | {"test_list": [1]}, "must hold texts alone"),
        (TALKS | {"outputs": ["1"]}, "must be equally many"),
    ],
)
def test_rows_without_tests_are_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        env_of(tmp_path, row).problems("test")


def test_a_question_is_of_one_split(tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text(json.dumps(MBPP) + "\n")
    other.write_text(json.dumps(MBPP | {"task_id": 8}) + "\n")
    with pytest.raises(UserError, match="asks what another split does"):
        Code(train=str(one), validation=str(one), test=str(other), sandbox=LEVEL).problems("test")
    with pytest.raises(UserError, match="either path, or"):
        Code()


def test_programs_of_one_expression() -> None:
    env = Functions()
    train, test = env.problems("train"), env.problems("test")
    assert not {p.answer for p in train} & {p.answer for p in test}
    problem = train[0]
    program = parsed(problem.answer)
    assert program is not None
    first, second = (pair.split(":") for pair in problem.prompt.rstrip("=").split())
    assert value(program, int(first[0])) == int(first[1])
    assert value(program, int(second[0])) == int(second[1])


@pytest.mark.parametrize(
    ("reply", "total", "runs"),
    [
        ("3*x+4", 1.0, 1.0),
        ("x*3 + 2*2", 1.0, 1.0),
        ("4+x+x+x", 1.0, 1.0),
        ("3*x+5", 0.0, 1.0),
        ("3*x+4;import os", 0.0, 0.0),
        ("__import__('os')", 0.0, 0.0),
        ("x**9**9**9", 0.0, 0.0),
        ("3.0*x+4", 0.0, 0.0),
        ("x if x else x", 0.0, 0.0),
        ("(" * 200, 0.0, 0.0),
        ("", 0.0, 0.0),
        ("\0", 0.0, 0.0),
    ],
)
@waits
async def test_replies_are_read_as_arithmetic(reply: str, total: float, runs: float) -> None:
    problem = Problem("q", prompt="0:4 1:7=", answer="3*x+4", info={"shown": (0, 1)})
    play = Trajectory(problem, 0, 0, (), (), ({"role": "assistant", "content": reply},))
    [reward] = await Functions().rewards(problem, [play])
    assert (reward.total, reward.parts["runs"]) == (total, runs)


def test_slips_multiply_by_the_value_at_one() -> None:
    pairs = list(Functions(wrong=1.0).demonstrations("test"))
    assert len(pairs) > 150
    for problem, reply in pairs:
        at_zero, at_one = (pair.split(":")[1] for pair in problem.prompt.rstrip("=").split())
        assert reply == f"{at_one}*x+{at_zero}"
