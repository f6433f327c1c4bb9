"""A reward model's score of each reply, from a folder that ``upslope reward-model`` wrote.

It reads text, which it encodes itself: its tokenizer may be another than the policy's. Replies of
all groups that wait are scored in one pass, in a thread of its own beside sampling, and what they
begin with alike is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from upslope.rewards import Grades, Host
from upslope.rewards.microbatch import Microbatch, Row
from upslope.rewards.steps import Together, earned, pieces, running
from upslope.types import Message, Problem, Reward, Trajectory, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from upslope.chat import Chat
    from upslope.models.trunk import Work


class Scorer(Protocol):
    """What ``models.reward_model.RewardModel`` is to whoever scores with it."""

    @property
    def chat(self) -> Chat: ...

    @property
    def tokenizer(self) -> Any: ...

    def place(self, name: str) -> int:
        """Of a head; UserError where there is none of that name."""

    def encode(self, dialogue: Sequence[Message]) -> list[int]:
        """Up to the end of the last reply; UserError where it has none, or is too long."""

    def read(
        self, tokens: Tensor, length: Tensor, at: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], Work]:
        """Raw scores [n head] after the tokens ``at`` [row token], and the rows of these."""

    def normalised(self, raw: Tensor) -> Tensor:
        """[n head] less the mean, over the deviation, of what it was whitened on."""


@dataclass(frozen=True)
class Model:
    """``path``: the folder. ``head``: of several, the first by default. ``scale``: "normalised" on
    what the model was whitened on, or "raw". ``tokens``: the most in a pass, or a single longer
    reply. ``threads``: of a pass, beside those that sample.

    ``steps``: text that ends a step, such as a new line, for a process reward model: its scores at
    the ends of steps are chances, taken ``together`` as the worst, the product or the last, and
    what each step changes is earned where it ends. "" scores whole replies.
    """

    path: str
    head: str = ""
    scale: Literal["normalised", "raw"] = "normalised"
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens: int = 16384
    threads: int = 1
    steps: str = ""
    together: Together = "min"

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.threads < 1:
            raise ValueError("tokens and threads must be at least 1")

    def open(self, host: Host) -> Grades:
        """The model, loaded; UserError where the folder holds none."""
        import torch

        from upslope.models.reward_folder import load_reward_model

        dtype = torch.float32 if self.dtype == "float32" else torch.bfloat16
        device = str(host.policy.model.device)
        return Scores(self, load_reward_model(self.path, dtype, device, host.say), host)


class Scores:
    """A loaded reward model."""

    def __init__(self, settings: Model, scorer: Scorer, host: Host) -> None:
        self.settings, self.scorer, self.host = settings, scorer, host
        self.place = scorer.place(settings.head) if settings.head else 0
        self.batch: Microbatch[tuple[float, ...]] = Microbatch(self.score, settings.tokens)
        decode: Callable[..., str] = host.policy.tokenizer.decode
        self.decode = decode
        if scorer.tokenizer.get_vocab() != host.policy.tokenizer.get_vocab():
            host.say(
                f"the reward model {settings.path} has another tokenizer than the policy: it is "
                "given the text of replies, which it encodes itself"
            )

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """One for each; invalid where it cannot read a reply."""
        steps = [pieces(t.text, self.settings.steps) for t in trajectories]
        rows = [self.row(t, s) for t, s in zip(trajectories, steps, strict=True)]
        known = [row for row in rows if isinstance(row, Row)]
        found = iter(await self.batch.scores(known))
        return [
            self.graded(t, s, next(found)) if isinstance(row, Row) else row
            for t, s, row in zip(trajectories, steps, rows, strict=True)
        ]

    def row(self, trajectory: Trajectory, steps: Sequence[str]) -> Row | Reward:
        """A reply's tokens and the ends of its steps, or why there are none."""
        try:
            tokens = self.scorer.encode(trajectory.messages)
        except UserError as error:
            return Reward(0.0, valid=False, reason=str(error))
        ends = [len(tokens) - 1]
        if len(steps) > 1:
            said = max(i for i, m in enumerate(trajectory.messages) if m["role"] == "assistant")
            tokens, ends = self.scorer.chat.encode(trajectory.messages[:said]), []
            for i, step in enumerate(steps, 1):  # as it was trained: each step's by themselves
                tokens += self.scorer.chat.reply(step, () if i == len(steps) else ("",))
                ends.append(len(tokens) - 1)
        return Row(tuple(tokens), tuple(ends))

    def graded(self, t: Trajectory, steps: Sequence[str], scores: tuple[float, ...]) -> Reward:
        """The whole reply's score, or its steps' taken together."""
        if not np.isfinite(scores).all():
            return Reward(0.0, valid=False, reason="the reward model's score is not finite")
        if not self.settings.steps:
            return Reward(scores[-1])
        chances = np.exp(-np.logaddexp(0.0, -np.array(scores))).tolist()
        worth = running(chances, self.settings.together)
        return Reward(worth[-1], at=earned(t, steps, worth, self.decode))

    def score(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """One pass, in a thread of its own: scores at each row's places; its work to the ledger."""
        import torch

        from upslope.models.packing import pack

        torch.set_num_threads(self.settings.threads)  # of this thread alone
        length = torch.tensor([len(row.tokens) for row in rows])
        tokens = torch.zeros(len(rows), int(length.max()), dtype=torch.long)
        at = torch.zeros_like(tokens, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
            at[i, list(row.at)] = True
        with torch.no_grad():
            raw, _, work = self.scorer.read(tokens, length, at)
            bare = self.settings.scale == "raw" or self.settings.steps
            scored = raw.cpu() if bare else self.scorer.normalised(raw.cpu())
            seen = scored[:, self.place].tolist()
        # A row's last token is computed, too; where nothing can be packed more is than this says.
        longer = torch.nn.functional.pad(tokens, (0, 1))
        self.host.spend(work.forward, len(pack(longer, length + 1).tokens))
        places = np.cumsum([0, *(len(row.at) for row in rows)]).tolist()
        return [tuple(seen[a:b]) for a, b in pairwise(places)]

    async def begin(self, folder: object) -> None:
        """Nothing to make."""

    async def close(self) -> None:
        """End its thread."""
        self.batch.close()
