"""Where groups come from: ``Rollouts`` plays problems, ``Recorded`` reads what was played."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from typing import Any

from upslope.chat import Chat
from upslope.curriculum import Curriculum, Heat, order
from upslope.demonstrations import Demonstration, sets
from upslope.recite import recited
from upslope.rewards import Says
from upslope.rollout import Player
from upslope.types import Group, Metrics, Problem, Reward, UserError
from upslope.underway import Underway


class Rollouts:
    """Plays groups of the problems that a curriculum picks.

    ``max_staleness`` k keeps k + 1 steps' worth of groups under way; 0 starts only what is asked
    for, so that every group was sampled with the newest weights. A group staler than that is
    dropped and counted in ``dropped``, one that ``keep`` refuses in ``refused``. ``sync``: the
    engine has new weights every so many steps, and groups are as old. ``ahead``: the share of what
    is under way that may be taken before the oldest of it is done.
    """

    def __init__(
        self,
        player: Player,
        curriculum: Curriculum,
        *,
        size: int,
        seed: int,
        max_staleness: int = 0,
        tries: int = 4,
        sync: int = 1,
        ahead: float = 0.0,
        finished: Callable[[Group], None] = lambda group: None,
        heat: Heat = Heat(),
    ) -> None:
        self.player, self.curriculum, self.size, self.seed = player, curriculum, size, seed
        self.max_staleness, self.tries, self.finished = max_staleness, tries, finished
        self.sync, self.ahead, self.heat = sync, ahead, heat
        self.dropped = self.refused = self.steps = 0
        self.underway = Underway()
        self.again: deque[tuple[Problem, int]] = deque()

    async def groups(self, n: int, version: int, keep: Callable[[Group], bool]) -> list[Group]:
        """The next ``n`` usable groups, in order of dispatch but for ``ahead``, of ``tries * n``.

        Fewer where no more were found in these, or where all problems are retired.
        """
        taken: list[Group] = []
        for _ in range(n * self.tries):
            self._dispatch(n * (self.max_staleness + 1) - len(taken))
            if not self.underway:
                break
            group = await self.underway.first(self.window(n))
            self.finished(group)
            self.curriculum.learn(group)
            silent = group.version < 0  # none of its plays has a sampled token
            if silent or version - group.version > self.max_staleness + self.sync - 1:
                self.dropped += 1
            elif not keep(group):
                self.refused += 1
            else:
                taken.append(group)
            if len(taken) == n:
                break
        self.steps += 1
        return taken

    def window(self, n: int) -> int:
        """How many from the oldest on may be taken, of those under way for steps of ``n``."""
        return max(1, round(self.ahead * n * (self.max_staleness + 1)))

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing more: pass rates were counted as groups were finished, also of refused ones."""

    def metrics(self) -> Metrics:
        """Groups that were played and not used, so far, problems retired, and the reward's."""
        seen = {"groups/dropped": float(self.dropped), "groups/refused": float(self.refused)}
        if self.curriculum.retire:
            known = self.curriculum.known.values()
            seen["groups/retired"] = float(sum(map(self.curriculum.retired, known)))
        if isinstance(self.player.reward, Says):
            seen |= self.player.reward.metrics()
        return seen

    def state(self) -> Mapping[str, Any]:
        """The curriculum's, and what was dispatched but not used."""
        return {
            "curriculum": self.curriculum.state(),
            "again": [[p.id, visit] for p, visit in (*self.underway.unused, *self.again)],
            "dropped": self.dropped,
            "refused": self.refused,
            "steps": self.steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue: what was underway is played again with the same seeds."""
        self.curriculum.load_state(state["curriculum"])
        self.again.extend((self.curriculum.known[name], visit) for name, visit in state["again"])
        self.dropped, self.refused = int(state["dropped"]), int(state["refused"])
        self.steps = int(state["steps"])

    async def close(self) -> None:
        """Cancel what is underway and wait until it has ended."""
        await self.underway.close()

    def _dispatch(self, wanted: int) -> None:
        while len(self.underway) < wanted:
            chosen = self.again.popleft() if self.again else self.curriculum.next()
            if chosen is None:
                return
            hot = self.heat.at(self.steps, self.player.temperature)
            player = replace(self.player, temperature=hot) if self.heat.steps else self.player
            self.underway.add(*chosen, player.group(*chosen, self.size, self.seed, "train"))


class Recorded:
    """Groups of recorded plays, each epoch in another order.

    Prompts are context; what was said (with the token or string that ends it) is trained.
    """

    sync = 0

    def __init__(self, demonstrations: Sequence[Demonstration], chat: Chat, seed: int) -> None:
        if not demonstrations:
            raise UserError("the recorded source is empty: give it at least one reply")
        self.sets, self.chat, self.seed = sets(demonstrations), chat, seed
        self.taken = 0
        self._refuse_tokens()

    async def groups(self, n: int, version: int, keep: Callable[[Group], bool]) -> list[Group]:
        """The next ``n`` groups that ``keep`` accepts, within one pass over all of them."""
        groups: list[Group] = []
        for _ in range(len(self.sets) + n):
            visit, place = divmod(self.taken, len(self.sets))
            chosen = order(len(self.sets), self.seed, visit)[place]
            self.taken += 1
            group = self._group(self.sets[chosen], visit, version)
            if keep(group):
                groups.append(group)
            if len(groups) == n:
                return groups
        raise UserError(f"only {len(groups)} of {n} recorded groups were accepted in a whole pass")

    def all(self) -> list[Group]:
        """Every group once, in the order of the data."""
        return [self._group(members, 0, 0) for members in self.sets]

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing to learn."""

    def metrics(self) -> Metrics:
        """Nothing to say."""
        return {}

    def state(self) -> Mapping[str, Any]:
        """How many groups were taken, and of which."""
        return {"taken": self.taken, "replies": self._name}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue after that many; UserError where the replies are not the same ones."""
        if state["replies"] != self._name:
            raise UserError(
                "the recorded replies are not those that the run was begun with: give it the same "
                "data and settings, or train without --resume"
            )
        self.taken = int(state["taken"])

    async def close(self) -> None:
        """Nothing is underway."""

    @cached_property
    def _name(self) -> int:
        """Of all that is learned from, the same in every process."""
        found = hashlib.blake2b(digest_size=8)
        for members in self.sets:
            found.update(b"%d plays" % len(members))
            for one in members:
                _told(one, found.update)
        return int.from_bytes(found.digest(), "big") >> 1

    def _group(self, shown: Sequence[Demonstration], visit: int, version: int) -> Group:
        problem = shown[0].problem
        plays = [
            replace(
                recited(self.chat, one, visit, version),
                problem=problem,
                member=member,
                reward=Reward(one.reward),
            )
            for member, one in enumerate(shown)
        ]
        return Group(problem, tuple(plays))

    def _refuse_tokens(self) -> None:
        """Tokens of another model's vocabulary."""
        known = len(self.chat.tokenizer)
        for one in (one for members in self.sets for one in members):
            most = max((int(segment.tokens.max()) for segment in one.segments), default=0)
            if most >= known:
                raise UserError(
                    f"a recorded play of problem {one.problem.id!r} has the token {most}, and the "
                    f"model knows {known}: it was recorded with another tokenizer"
                )


def _told(one: Demonstration, tell: Callable[[bytes], None]) -> None:
    """All that training reads of a play; per-token arrays as the bytes that they are."""
    problem, arrays = one.problem, []
    for s in one.segments:
        arrays += [s.tokens.tobytes(), s.trained.tobytes(), s.engine_logprobs.tobytes()]
    words = [
        [problem.id, problem.env, problem.prompt, problem.stop],
        [dict(message) for message in (*problem.messages, *one.said)],
        [len(problem.messages), one.reply, one.reward, one.cut],
        [astuple(turn) for turn in one.turns],
        [len(array) for array in arrays],
    ]
    tell(json.dumps(words, sort_keys=True, default=str).encode())
    for array in arrays:
        tell(array)
