"""Programs graded by tests, in the sandbox: by what their functions return, or by what they print.

Tests run in a process of their own and the program in another, which can neither see nor reach the
first: it answers calls, with data. So nothing that it changes, prints or ends makes a test pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.sandbox import Level, Limits, Program, Ran, sandbox
from upslope.sandbox.programs import source

FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.S | re.I)
MARK = "verdict:"


@dataclass(frozen=True, slots=True)
class UnitTests:
    """Statements that raise where they fail, after ``setup``; ``entry``: what they call
    ``candidate``. Or, for programs that read and print, pairs of what they are told and must say.
    """

    statements: tuple[str, ...] = ()
    setup: str = ""
    entry: str = ""
    talks: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.statements) + len(self.talks)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why each test failed, "" where it passed. ``invalid``: why nothing is known of any."""

    failures: tuple[str, ...]
    invalid: str = ""

    @property
    def passed(self) -> int:
        """How many tests it passed."""
        return sum(not failure for failure in self.failures)


def code_of(reply: str) -> str:
    """The program in a reply: its last fenced block that is not empty, or all of it."""
    blocks = [block for block in FENCE.findall(reply) if block.strip()]
    return str(blocks[-1]) if blocks else reply


async def unit_tested(code: str, tests: UnitTests, limits: Limits, level: Level) -> Verdict:
    """Run a program against its tests; ``limits`` are of all statements, and of each talk."""
    failures: list[str] = []
    if tests.statements:
        program = f"{source('wire', 'tested')}\nserve({code!r})\n"
        asked = f"{tests.setup!r}, {list(tests.statements)!r}, {tests.entry!r}"
        judge = f"{source('wire', 'judge')}\nprint({MARK!r} + json.dumps(judged({asked})))\n"
        judging, running = await sandbox(level).joined(Program(judge), Program(program), limits)
        verdict = _verdict(judging, running, len(tests.statements))
        if verdict.invalid:
            return verdict
        failures += verdict.failures
    for told, wanted in tests.talks:
        ran = await sandbox(level).run(Program(code, stdin=told), limits)
        if ran.ending == "failed":
            return Verdict((), ran.reason)
        failures.append(_talked(ran, wanted))
    return Verdict(tuple(failures))


def _verdict(judging: Ran, running: Ran, number: int) -> Verdict:
    """What the judge printed; or, where it came to no end, what ended it."""
    for ran in (judging, running):
        if ran.ending == "failed":
            return Verdict((), ran.reason)
    lines = [line for line in judging.text.splitlines() if line.startswith(MARK)]
    over = next((ran.ending for ran in (running, judging) if ran.ending != "ended"), "")
    if not lines:
        why = f"the program was ended by its limit of {over}" if over else "the program broke off"
        return Verdict((why,) * number)
    told = json.loads(lines[-1][len(MARK) :])
    if "broken" in told:
        return Verdict((), f"the tests do not run: {told['broken']}")
    return Verdict(tuple(told["verdicts"]))


def _talked(ran: Ran, wanted: str) -> str:
    """Why what a program printed is not what was wanted; lines may end in spaces."""
    if ran.ending != "ended":
        return f"the program was ended by its limit of {ran.ending}"
    if ran.code:
        return ran.text.strip().rpartition("\n")[2][:300] or f"exit status {ran.code}"
    if _lines(ran.text) == _lines(wanted):
        return ""
    return f"printed {ran.text[:100]!r}, not {wanted[:100]!r}"


def _lines(text: str) -> Sequence[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
