"""The ladder recipe's own cost: tokens sampled for each CPU-second, CPU-seconds of a step by phase.

    python benchmarks/ladder.py recipes/ladder_addition.toml

Models this small cost as much in what is around their products as in these. After some steps of the
recipe's first stage, which make replies as long as a run's, three things take turns: the engine
alone, asked for every reply of a step at once, to its full length; whole groups, from problems to
graded trajectories, as a step samples them; and steps of the recipe's last stage with all that a
step of a run does. CPU-seconds of one thread: the median, and the best. The speed of the
machine's best product is measured between the rounds, because another program on the same core
takes from all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from upslope.checkpoints import Place
from upslope.engines.local import LocalEngine
from upslope.launch import train_stage
from upslope.machine import prepare_memory, settled
from upslope.models import products
from upslope.recipe import dump, read
from upslope.rollout import Player
from upslope.runs import Run
from upslope.session import Session
from upslope.stages import Built
from upslope.train import Parts, learn
from upslope.types import Group, Metrics, Problem, Sampling

RATE, STEP = 40_000, 0.2  # tokens a CPU-second of sampling, and CPU-seconds of a step
PHASES = ("sampling", "update", "weights", "metrics and files")


class Clock:
    """CPU-seconds of one thing's rounds, and of the parts of each."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self.now: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block to a part of this round."""
        began = time.process_time()
        try:
            yield
        finally:
            self.now[name] = self.now.get(name, 0.0) + time.process_time() - began

    def end(self) -> None:
        """The round has ended."""
        self.rounds.append(self.now)
        self.now = {}

    def seconds(self, name: str) -> tuple[float, float]:
        """The median of all rounds but the first, and the best."""
        spent = [one[name] for one in self.rounds[1:]]
        return statistics.median(spent), min(spent)


class Steps:
    """The recipe's last stage, a step at a time; ``clock`` knows what each spends where."""

    def __init__(self, session: Session, run: Run) -> None:
        self.one, self.clock = session.stages[-1], Clock()
        spent, state, step = (
            session.ledger.totals(),
            self.one.algorithm.start(),
            session.sync.version,
        )
        self.at = Place(step=step, first=step, spent=spent, state=dict(state))
        parts = session.parts(self.one, session.assessment(self.one, run), self.at, ())

        async def beside(work: Callable[[], Metrics]) -> Metrics:
            with self.clock.part("update"):
                return await parts.beside(work)

        async def synchronise(version: int, moved: bool) -> None:
            with self.clock.part("weights"):
                await parts.synchronise(version, moved)

        self.parts: Parts = replace(parts, beside=beside, synchronise=synchronise)

    async def step(self) -> None:
        """One step, as ``train.train`` makes it."""
        clock = self.clock
        with clock.part("step"):
            with clock.part("sampling"):
                count = self.one.stage.rollout.problems
                keep = self.parts.algorithm.keep
                groups = await self.parts.source.groups(count, self.at.step, keep)
            self.at = await learn(self.parts, self.at, groups)
        named = sum(clock.now[name] for name in PHASES[:-1])
        clock.now[PHASES[-1]] = clock.now["step"] - named
        clock.end()


async def alone(engine: LocalEngine, prompts: Sequence[Sequence[int]], one: Built) -> int:
    """Every reply of a step, asked of the engine at once; how many tokens it sampled."""
    rollout = one.stage.rollout
    seeds = range(rollout.group)
    asked = [
        engine.sample_group(
            prompt, [Sampling(rollout.max_tokens, seed=i * len(seeds) + seed) for seed in seeds]
        )
        for i, prompt in enumerate(prompts)
    ]
    return sum(len(c.tokens) for said in await asyncio.gather(*asked) for c in said)


async def whole(player: Player, problems: Sequence[Problem], one: Built, seed: int) -> int:
    """Groups of these problems; how many tokens were sampled."""
    size = one.stage.rollout.group
    plays = [player.group(problem, 0, size, seed, "benchmark") for problem in problems]
    groups: Sequence[Group] = await asyncio.gather(*plays)
    return sum(t.usage.decoded for group in groups for t in group.trajectories)


def product() -> float:
    """FLOPs for each CPU-second of a product, the best of some."""
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    seen = []
    for _ in range(3):
        began = time.process_time()
        products.product(a, b)
        seen.append(2 * a.numel() * 1024 / (time.process_time() - began))
    return max(seen)


async def demonstrated(session: Session, run: Run) -> None:
    """Train the recipe's first stage, as a run does."""
    one = session.stages[0]
    state = dict(one.algorithm.start())
    at = Place(step=0, first=0, spent=session.ledger.totals(), state=state)
    await train_stage(session, run, one, at, (), None)


async def measure(session: Session, run: Run, rounds: int) -> dict[str, Any]:
    """Let the three take turns; tokens and clocks."""
    if len(session.stages) > 1:
        await demonstrated(session, run)
    steps = Steps(session, run)
    one, player = steps.one, session.player(steps.one)
    problems = one.problems("train")[: one.stage.rollout.problems]
    prompts = [session.chat.encode(session.chat.messages(problem)) for problem in problems]
    endless = LocalEngine(replace(session.policy, eos=()), one.stage.rollout.rows)
    rates: dict[str, list[float]] = {"engine": [], "groups": [], "product": []}
    await steps.parts.synchronise(steps.at.step, False)
    steps.clock.now.clear()

    async def timed(name: str, work: Awaitable[int]) -> None:
        began = time.process_time()
        tokens = await work
        rates[name].append(tokens / (time.process_time() - began))

    for number in range(1 + rounds):
        await timed("engine", alone(endless, prompts, one))
        await timed("groups", whole(player, problems, one, number))
        await steps.step()
        rates["product"].append(product())
    await steps.parts.source.close()
    return {"rates": {name: seen[1:] for name, seen in rates.items()}, "clock": steps.clock}


def report(seen: dict[str, Any]) -> None:
    """Print rates and shares with their bounds."""
    rates, clock = seen["rates"], seen["clock"]
    print("python", *sys.argv)
    print(
        f"machine   {max(rates['product']) / 1e9:.0f} GFLOP a CPU-second at best, "
        f"{statistics.median(rates['product']) / 1e9:.0f} in the middle"
    )
    for name in ("engine", "groups"):
        middle, best = statistics.median(rates[name]), max(rates[name])
        print(f"{name:9} {middle:6.0f} tokens a CPU-second ({best:.0f} at best), bound {RATE}")
    whole_step, best = clock.seconds("step")
    print(f"step      {whole_step:.3f} CPU-seconds ({best:.3f} at best), bound {STEP}")
    for name in PHASES:
        middle, best = clock.seconds(name)
        print(f"  {name:18} {middle:.3f} ({best:.3f}), {middle / whole_step:4.0%}")


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--demonstrated", type=int, default=60, help="steps of the first stage")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("changes", nargs="*", help="of the recipe, such as seed=1")
    args = parser.parse_args()
    prepare_memory()
    first = read(args.recipe).stages()[0].name
    with tempfile.TemporaryDirectory() as folder:
        changes = [
            "machine.threads=1",
            f"runs={folder}",
            "evaluation.problems=10",
            f"stage.{first}.stop.steps={args.demonstrated}",
        ]
        recipe = read(Path(args.recipe), [*changes, *args.changes])
        session = Session(recipe, lambda line: None)
        saved = dump(session.recipe)
        with Run.create(recipe.runs, recipe.name, saved, recipe.seed) as run, settled():
            report(asyncio.run(measure(session, run, args.rounds)))


if __name__ == "__main__":
    main()
