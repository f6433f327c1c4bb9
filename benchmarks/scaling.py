"""How the cost of a step grows: sampling and update against batch, lengths, group and model.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --steps 500 --model ladder:0.6m

One quantity at a time is doubled, up to 16 times its least, and the others stay. An update's cost
should be a straight line in the tokens it computes: R^2 is printed of each. With ``--steps`` one
shape is sampled and trained on again and again instead, and what the process holds is printed after
each fifth of the steps. CPU-seconds of warm runs, each the least of some.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from upslope import machine
from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch
from upslope.engines.local import LocalEngine
from upslope.learner import Learner
from upslope.models.load import load
from upslope.models.packing import pack
from upslope.models.policy import Policy
from upslope.settings import Learner as Settings
from upslope.types import (
    Completion,
    Group,
    Problem,
    Reward,
    Sampling,
    Segment,
    Trajectory,
    Turn,
)


@dataclass(frozen=True)
class Shape:
    """A step's sizes."""

    problems: int = 4
    group: int = 4
    prompt: int = 16  # 16 times that is half of a ladder model's context
    reply: int = 16


class Steps:
    """Steps on prompts of random tokens; replies are forced to their full length."""

    def __init__(self, policy: Policy, micro_tokens: int) -> None:
        self.engine = LocalEngine(replace(policy, eos=()), 256)  # nothing ends a reply early
        settings = Settings(lr=1e-6, micro_tokens=micro_tokens)
        self.learner = Learner(policy, settings, lambda phase, flops, tokens: None)
        self.size = int(policy.model.get_input_embeddings().num_embeddings)

    def run(self, shape: Shape, seed: int) -> tuple[float, float, int]:
        """CPU-seconds of sampling and of the update, and tokens that the update computes."""
        start = time.process_time()
        groups = asyncio.run(self._sampled(shape, seed))
        sampled = time.process_time()
        batch = Batch.of(groups)
        self.learner.update(replace(batch, advantages=GRPO().advantages(batch)), GRPO())
        updated = time.process_time()
        tokens = len(pack(batch.tokens, batch.length).tokens)
        return sampled - start, updated - sampled, tokens

    async def _sampled(self, shape: Shape, seed: int) -> list[Group]:
        draw = np.random.default_rng(seed)
        prompts = draw.integers(3, self.size, (shape.problems, shape.prompt))
        return await asyncio.gather(*(self._group(prompt, shape, seed) for prompt in prompts))

    async def _group(self, prompt: np.ndarray, shape: Shape, seed: int) -> Group:
        asked = [Sampling(shape.reply, seed=seed + m) for m in range(shape.group)]
        said = await asyncio.gather(*(self.engine.sample(prompt.tolist(), s) for s in asked))
        problem = Problem(str(prompt[:8].tolist()), prompt="random tokens")
        return Group(problem, tuple(_played(problem, m, prompt, c) for m, c in enumerate(said)))


def _played(problem: Problem, member: int, prompt: np.ndarray, said: Completion) -> Trajectory:
    tokens = np.array([*prompt, *said.tokens])
    trained = np.arange(len(tokens)) >= len(prompt)
    logprobs = np.zeros(len(tokens))
    logprobs[trained] = said.logprobs
    turn = Turn(0, len(prompt), len(tokens), said.stop)
    segment = Segment(tokens, trained, logprobs, np.zeros(len(tokens)))
    return Trajectory(problem, 0, member, (segment,), (turn,), (), Reward(float(member % 2)))


def squared_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """R^2 of a straight line."""
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def grow(args: argparse.Namespace) -> None:
    """Print a table for each quantity."""
    steps = Steps(load(args.model), args.micro_tokens)
    for name in ("problems", "group", "prompt", "reply"):
        least = vars(Shape())[name]
        seen = []
        print(f"{name:>9}   tokens  sampling    update   (CPU-seconds, {args.model})")
        for value in (least * 2**k for k in range(5)):
            shape = replace(Shape(), **{name: value})
            tries = [steps.run(shape, seed) for seed in range(args.repeats + 1)][1:]
            sampled, updated = (min(t[i] for t in tries) for i in range(2))
            seen.append((tries[0][2], sampled, updated))
            print(f"{value:9} {tries[0][2]:8} {sampled:9.3f} {updated:9.3f}", flush=True)
        tokens, sampled, updated = zip(*seen, strict=True)
        print(
            f"      R^2 in tokens computed: update {squared_correlation(tokens, updated):.4f}, "
            f"whole step {squared_correlation(tokens, np.add(sampled, updated)):.4f}"
        )
    print("    model   CPU-seconds of sampling and of an update of the least shape")
    for model in args.models:
        tries = [Steps(load(model), args.micro_tokens).run(Shape(), 0) for _ in range(2)]
        print(f"{model:>14} {tries[1][0]:9.3f} {tries[1][1]:9.3f}", flush=True)


def stay(args: argparse.Namespace) -> None:
    """Print what the process holds after each fifth of the steps."""
    steps, shape = Steps(load(args.model), args.micro_tokens), Shape(16, 8, 16, 16)
    for step in range(args.steps):
        steps.run(shape, step)
        if (step + 1) % (args.steps // 5) == 0:
            print(f"after {step + 1:5} steps {machine.used()[1] / 2**20:7.1f} MiB", flush=True)


def main() -> None:
    """Parse arguments, print the command and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ladder:0.6m")
    parser.add_argument("--models", nargs="*", default=["ladder:0.1m", "ladder:0.6m", "ladder:2m"])
    parser.add_argument("--steps", type=int, default=0, help="look for growth of memory instead")
    parser.add_argument("--micro-tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine.prepare_memory()
    print("python", *sys.argv)
    if args.steps:
        stay(args)
    else:
        grow(args)


if __name__ == "__main__":
    main()
