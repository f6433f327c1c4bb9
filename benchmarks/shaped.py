"""Work of a given shape, for the benchmarks: prompts of so many tokens, replies at full length.

Not a benchmark: what several of them run, named in a recipe as ``benchmarks/shaped.py:Shaped``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from upslope.engines.apart import ApartEngine
from upslope.engines.local import LocalEngine
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.episodes import single_turn
from upslope.envs.prices import ITEMS, PRICES, Prices
from upslope.models.hub import folder_of
from upslope.models.ladder import PREFIX
from upslope.models.policy import Policy
from upslope.types import Problem, Reward, Split, Trajectory

LR = 1e-6


@dataclass(frozen=True)
class Shape:
    """``prompts`` groups of ``group`` replies of ``tokens`` tokens; prompts of ``length``, or
    those of ``Shaped`` where that is 0. ``dead`` of each two groups earn nothing.
    """

    prompts: int
    group: int
    length: int
    tokens: int
    dead: int = 0

    def recipe(self, model: str, runs: Path, steps: int) -> dict[str, Any]:
        """A run of so many steps of this shape: what a run does, but no proofs before it."""
        env = {"type": f"{__file__}:Shaped", "model": model, "tokens": self.length}
        return {
            "model": model,
            "runs": str(runs),
            "env": env | {"count": self.prompts, "dead": self.dead},
            "algorithm": {"type": "grpo", "aggregation": "token"},
            "engine": {"type": f"{__file__}:FullLength"},
            "rollout": {
                "problems": self.prompts,
                "group": self.group,
                "max_tokens": self.tokens,
                "rows": self.prompts * self.group,
            },
            "learner": {"lr": LR},
            "evaluation": {"problems": 1},
            "checkpoint": {"every": 0},
            "stop": {"steps": steps},
            "check": {"enabled": False},
        }


@dataclass(frozen=True)
class Shaped:
    """``count`` problems whose prompts of ``tokens`` tokens begin differently; 0 tokens are the
    quickstart's prompts, which all begin with the same examples, or sums for a ladder model.

    In each group every other trajectory earns 1, but in ``dead`` of each two groups none does.
    """

    model: str
    tokens: int
    count: int = 16
    dead: int = 0

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """The same for every split."""
        texts = prompts(self.model, self.tokens, self.count)
        return [Problem(f"{split}-{i}", prompt=text, answer="") for i, text in enumerate(texts)]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """By the trajectory's place alone."""
        live = int(problem.id.rpartition("-")[2]) % 2 >= self.dead
        return [Reward(float(live and t.member % 2)) for t in trajectories]


@dataclass(frozen=True)
class FullLength:
    """The local engine, on a policy that knows no end of a reply."""

    def open(self, policy: Policy, rows: int) -> LocalEngine:
        """An engine with the policy's weights."""
        return LocalEngine(replace(policy, eos=()), rows)

    def apart(self, policy: Policy, rows: int, threads: int) -> ApartEngine:
        """An engine like that in a process of its own."""
        return ApartEngine(replace(policy, eos=()), rows, threads)


@cache
def prompts(model: str, tokens: int, count: int) -> list[str]:
    """Price lists cut to exactly so many of the model's tokens; 0 is as ``Shaped`` says."""
    if not tokens:
        env = Arithmetic(reverse=True) if model.startswith(PREFIX) else Prices()
        return [p.prompt for p in env.problems("train")[:count]]
    tokenizer = AutoTokenizer.from_pretrained(folder_of(model))
    return [_prompt(tokenizer, tokens, random.Random(i)) for i in range(count)]


def _prompt(tokenizer: PreTrainedTokenizerBase, tokens: int, draw: random.Random) -> str:
    while True:
        text = ", ".join(f"{draw.choice(ITEMS)} ${draw.choice(PRICES)}" for _ in range(tokens))
        cut = tokenizer.decode(tokenizer.encode(text)[:tokens])
        if len(tokenizer.encode(cut)) == tokens:
            return cut
