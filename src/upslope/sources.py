"""Where groups come from: ``Rollouts`` plays problems, ``Recorded`` reads replies."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from upslope.chat import Chat
from upslope.rollout import Player
from upslope.seeds import seed_of
from upslope.types import Group, Metrics, Problem, Reward, Segment, Trajectory, Turn, UserError


class Rollouts:
    """Plays groups of a fixed list of problems, each epoch in another order.

    ``max_staleness`` k keeps k + 1 steps' worth of groups under way; 0 starts only what is asked
    for, so that every group was sampled with the newest weights. A group staler than that is
    dropped and counted in ``dropped``, one that ``keep`` refuses in ``refused``.
    """

    live = True

    def __init__(
        self,
        player: Player,
        problems: Sequence[Problem],
        *,
        size: int,
        seed: int,
        max_staleness: int = 0,
        tries: int = 4,
        finished: Callable[[Group], None] = lambda group: None,
    ) -> None:
        if not problems:
            raise UserError("the env has no problems in its train split: give it more")
        self.player, self.problems, self.size, self.seed = player, problems, size, seed
        self.max_staleness, self.tries, self.finished = max_staleness, tries, finished
        self.dispatched = self.dropped = self.refused = 0
        self.underway: deque[tuple[int, asyncio.Task[Group]]] = deque()

    async def groups(self, n: int, version: int, keep: Callable[[Group], bool]) -> list[Group]:
        """The next ``n`` usable groups, in order of dispatch, within ``tries * n`` plays."""
        taken: list[Group] = []
        for _ in range(n * self.tries):
            self._dispatch(n * (self.max_staleness + 1) - len(taken))
            _, task = self.underway[0]
            group = await task
            self.underway.popleft()
            self.finished(group)
            if version - group.version > self.max_staleness:
                self.dropped += 1
            elif not keep(group):
                self.refused += 1
            else:
                taken.append(group)
            if len(taken) == n:
                return taken
        raise UserError(
            f"only {len(taken)} of {n} groups were usable after {n * self.tries} tries "
            f"({self.refused} refused, {self.dropped} too stale): choose problems of middling "
            "difficulty, or raise rollout.tries"
        )

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing to learn: every problem is played equally often."""

    def metrics(self) -> Metrics:
        """Groups that were played and not used, so far."""
        return {"groups/dropped": float(self.dropped), "groups/refused": float(self.refused)}

    def state(self) -> Mapping[str, Any]:
        """The next place in the order, counting groups underway as not yet played."""
        first = self.underway[0][0] if self.underway else self.dispatched
        return {"dispatched": first, "dropped": self.dropped, "refused": self.refused}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue: what was underway is played again with the same seeds."""
        self.dispatched = int(state["dispatched"])
        self.dropped, self.refused = int(state["dropped"]), int(state["refused"])

    async def close(self) -> None:
        """Cancel what is underway and wait until it has ended."""
        tasks = [task for _, task in self.underway]
        self.underway.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _dispatch(self, wanted: int) -> None:
        while len(self.underway) < wanted:
            visit, place = divmod(self.dispatched, len(self.problems))
            problem = self.problems[order(len(self.problems), self.seed, visit)[place]]
            play = self.player.group(problem, visit, self.size, self.seed, "train")
            self.underway.append((self.dispatched, asyncio.ensure_future(play)))
            self.dispatched += 1


def order(n: int, seed: int, visit: int) -> list[int]:
    """The order of ``n`` things in one epoch."""
    key = (n, seed, visit)
    if key not in _orders:
        _orders.clear()  # one epoch's order is asked for at a time
        shuffle = np.random.Generator(np.random.Philox(seed_of(seed, "order", visit)))
        _orders[key] = shuffle.permutation(n).tolist()
    return _orders[key]


_orders: dict[tuple[int, int, int], list[int]] = {}


@dataclass(frozen=True)
class Demonstration:
    """A recorded reply to a problem, and what it earned if that is known."""

    problem: Problem
    reply: str
    reward: float = 1.0


class Recorded:
    """Groups of one from recorded replies, each epoch in another order.

    The prompt is context, the reply (with the token or string that ends it) is the trained span.
    """

    live = False

    def __init__(self, demonstrations: Sequence[Demonstration], chat: Chat, seed: int) -> None:
        if not demonstrations:
            raise UserError("the recorded source is empty: give it at least one reply")
        self.demonstrations, self.chat, self.seed = demonstrations, chat, seed
        self.taken = 0

    async def groups(self, n: int, version: int, keep: Callable[[Group], bool]) -> list[Group]:
        """The next ``n`` replies that ``keep`` accepts, within one pass over all of them."""
        groups: list[Group] = []
        for _ in range(len(self.demonstrations) + n):
            visit, place = divmod(self.taken, len(self.demonstrations))
            chosen = order(len(self.demonstrations), self.seed, visit)[place]
            self.taken += 1
            group = self._group(self.demonstrations[chosen], visit, version)
            if keep(group):
                groups.append(group)
            if len(groups) == n:
                return groups
        raise UserError(f"only {len(groups)} of {n} recorded groups were accepted in a whole pass")

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing to learn."""

    def metrics(self) -> Metrics:
        """Nothing to say."""
        return {}

    def state(self) -> Mapping[str, Any]:
        """How many replies were taken."""
        return {"taken": self.taken}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue after that many."""
        self.taken = int(state["taken"])

    async def close(self) -> None:
        """Nothing is underway."""

    def _group(self, shown: Demonstration, visit: int, version: int) -> Group:
        play = spoken(self.chat, shown.problem, shown.reply, visit, version)
        return Group(shown.problem, (replace(play, reward=Reward(shown.reward)),))


def spoken(
    chat: Chat, problem: Problem, reply: str, visit: int = 0, version: int = 0
) -> Trajectory:
    """A trajectory in which a given reply was said; its tokens are trained."""
    messages = chat.messages(problem)
    prompt = chat.encode(messages)
    tokens = [*prompt, *chat.reply(reply, problem.stop)]
    trained = np.arange(len(tokens)) >= len(prompt)
    segment = Segment(
        np.array(tokens, dtype=np.int32),
        trained,
        np.where(trained, np.nan, 0.0).astype(np.float32),
        np.where(trained, version, -1).astype(np.int32),
    )
    turn = Turn(0, len(prompt), len(tokens), "stop")
    said = {"role": "assistant", "content": reply}
    return Trajectory(problem, visit, 0, (segment,), (turn,), (*messages, said))


def read_demonstrations(path: Path) -> list[Demonstration]:
    """JSONL rows {"prompt" or "messages", "reply", "reward"?, "stop"?, "id"?}."""
    return [
        _demonstration(row, f"{path}, line {number}", number) for number, row in _json_rows(path)
    ]


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read source.path {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from error


def _demonstration(row: Any, where: str, number: int) -> Demonstration:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with a prompt and a reply")
    reply, reward, stop = row.get("reply"), row.get("reward", 1.0), row.get("stop", [])
    if not isinstance(reply, str) or not reply:
        raise UserError(f'{where}: "reply" must be a non-empty string')
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not isfinite(reward):
        raise UserError(f'{where}: "reward" must be a number, got {reward!r}')
    prompt, messages = row.get("prompt", ""), row.get("messages", [])
    if not isinstance(prompt, str) or not isinstance(messages, list):
        raise UserError(f'{where}: "prompt" must be a string and "messages" a list')
    if bool(prompt) == bool(messages):
        raise UserError(f'{where}: give either "prompt" or "messages"')
    if not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
        raise UserError(f'{where}: each of "messages" must be an object with a role and content')
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
        raise UserError(f'{where}: "stop" must be a list of strings')
    name = str(row.get("id", number))
    problem = Problem(name, tuple(messages), prompt, tuple(stop), answer=reply)
    return Demonstration(problem, reply, float(reward))
