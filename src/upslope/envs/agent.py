"""Somebody's agent in a process of its own, trained as it is: it asks an OpenAI endpoint, which is
the policy, and whatever it prints in the end is graded by another env."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from upslope.envs import ENVS
from upslope.envs.places import Places
from upslope.envs.programs import Ended, Program
from upslope.serve.asked import refusal
from upslope.serve.endpoint import Endpoint
from upslope.serve.http import Server
from upslope.serve.recording import Recording
from upslope.serve.voices import Recorded
from upslope.types import Env, Problem, Reply, Reward, Split, Trajectory, UserError

FILE = 2**20  # bytes of a kept file, at most
ABOUT = ("id", "messages", "prompt", "info")


@dataclass(frozen=True)
class Agent:
    """``command``: a program that is run for each play, in an empty folder, with OPENAI_BASE_URL
    and OPENAI_API_KEY in its environment, and the problem as JSON on its standard input and, as
    text, in place of ``{question}``. What names a file here is that file. ``of``: the env that has
    the problems and grades what the program prints, or else the last answer that it got.

    ``seconds`` of a play, ``output`` bytes and ``at_once`` programs are bounds. ``keep``: files of
    its folder that the grader finds in ``facts["files"]``. ``warm``: modules that a Python program
    imports, to be imported once and not for each play.
    """

    command: tuple[str, ...]
    of: Annotated[Env, ENVS]
    seconds: float = 60.0
    output: int = 65536
    at_once: int = 16
    keep: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.command:
            raise UserError('command is empty: give a program, as in ["python", "agent.py"]')
        if self.seconds <= 0 or self.output < 1 or self.at_once < 1:
            raise UserError("seconds, output and at_once are bounds: set each above 0")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in self.keep):
            raise UserError("keep names files of the program's own folder: leave out / and ..")
        if self.warm and not (len(self.command) > 1 and self.command[1].endswith(".py")):
            raise UserError('warm is for a Python program: command = ["python", "agent.py"]')

    def problems(self, split: Split) -> Sequence[Problem]:
        """The other env's."""
        return self.of.problems(split)

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Play]:
        """A play whose turns are the program's requests."""
        yield Play(self, problem)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The other env's; none, for a reason, where the program failed by itself."""
        failed = [str(t.facts.get("failure", "")) for t in trajectories]
        pairs = zip(trajectories, failed, strict=True)
        sound = [_printed(t) for t, failure in pairs if not failure]
        graded = iter(await self.of.rewards(problem, sound) if sound else ())
        return [
            Reward(0.0, valid=False, reason=failure) if failure else next(graded)
            for failure in failed
        ]

    @cached_property
    def places(self) -> Places:
        """For so many programs at once."""
        return Places(self.at_once)


class Play:
    """One run of the program, and what it came to."""

    def __init__(self, env: Agent, problem: Problem) -> None:
        self._env, self._problem = env, problem
        self._facts: dict[str, Any] = {}

    async def reply(self, messages: Sequence[Mapping[str, Any]]) -> Reply | None:
        """Nothing: a given answer stands for what the program printed."""
        return None

    async def facts(self) -> Mapping[str, Any]:
        """``output``, ``code``, ``calls``, ``refused``, ``cut`` (the bound that refused), ``files``
        and ``failure``: the program's own, "" where it can be graded."""
        return self._facts

    async def ask(self, recording: Recording) -> None:
        """Run the program until it ends or is ended."""
        env, key = self._env, secrets.token_urlsafe(16)
        endpoint = Endpoint(Recorded(recording), key=key)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(env.places.one())
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="upslope-agent-")))
            server = Server(endpoint.handle, refusal)
            await stack.enter_async_context(server)
            url = f"http://{server.host}:{server.port}/v1"
            program = Program(self._command(), env.warm, folder, env.output)
            given = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key}
            ended = await program.run(given, self._about(), env.seconds, recording.flooded)
            files = {name: _read(folder, name) for name in env.keep}
        self._facts = {
            "output": ended.output,
            "code": ended.code,
            "calls": recording.asked,
            "refused": recording.refused,
            "cut": recording.cut or "",
            "files": {name: text for name, text in files.items() if text is not None},
            "failure": _failure(ended, recording, env),
        }

    def _command(self) -> tuple[str, ...]:
        """Its words, with files of this folder by their whole path and the question in its place.

        A question is one word of it, whatever is in it: no shell reads this.
        """
        problem = self._problem
        question = problem.prompt or str(problem.messages[-1]["content"])
        name, *words = self._env.command
        given = [str(Path(word).resolve()) if Path(word).is_file() else word for word in words]
        return (name, *(word.replace("{question}", question) for word in given))

    def _about(self) -> bytes:
        """What the program may know: the problem without its answer."""
        problem = self._problem
        asked = [dict(message) for message in problem.messages]
        known = (problem.id, asked, problem.prompt, dict(problem.info))
        return json.dumps(dict(zip(ABOUT, known, strict=True)), default=str).encode() + b"\n"


def _failure(ended: Ended, recording: Recording, env: Agent) -> str:
    """Why nothing is known of the policy: to use up its turns or its room is none of these."""
    if recording.flooded.is_set():
        return f"the agent asked {recording.refused} times beyond the bounds of its play"
    if ended.reason:
        return ended.reason
    if ended.code and recording.cut is None:
        return f"the agent ended with code {ended.code}: {ended.words or 'it said no error'}"
    if not recording.asked:
        return "the agent never asked the policy"
    return ""


def _printed(trajectory: Trajectory) -> Trajectory:
    """With what the program printed as the last word; a grader takes that for the answer."""
    output = str(trajectory.facts.get("output", "")).strip()
    if not output:
        return trajectory
    said = {"role": "assistant", "content": output}
    return replace(trajectory, messages=(*trajectory.messages, said))


def _read(folder: Path, name: str) -> str | None:
    """A file's text; None where there is none, or it leads out of the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(FILE).decode("utf-8", "replace")
