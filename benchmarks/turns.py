"""Sampling in turns: the local engine that keeps what a row has computed, and one that does not.

    python benchmarks/turns.py --turns 8 --longest 1500

Every episode begins with a prompt of its own; after each turn its env says a text of the same
length, so that after the last turn an episode has the longest length. Both sides sample the same
tokens by the same seeds and take turns, after one cold round each. CPU-seconds, as median.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from upslope.engines.local import LocalEngine
from upslope.envs.prices import Prices
from upslope.models.load import load
from upslope.types import Completion, Sampling, Usage


async def episode(
    engine: LocalEngine, first: list[int], number: int, args: argparse.Namespace
) -> list[Completion]:
    """One play, turn by turn."""
    added = (args.longest - len(first) - args.turns * args.tokens) // max(1, args.turns - 1)
    if added < 1:
        sys.exit("the longest length leaves the env nothing to say: raise --longest")
    prompt, said = first, list[Completion]()
    for turn in range(args.turns):
        more = turn + 1 < args.turns
        sampling = Sampling(args.tokens, seed=1000 * number + turn, continues=more)
        said.append(await engine.sample(prompt, sampling))
        words = [first[(turn + i) % len(first)] for i in range(added)]
        prompt = [*prompt, *said[-1].tokens.tolist(), *words]
    return said


def main() -> None:
    """Print both costs, their ratio and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--episodes", type=int, default=4, help="played at once")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="tokens sampled in each turn")
    parser.add_argument("--longest", type=int, default=1500, help="tokens of a whole episode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = replace(load(args.model), eos=())
    problems = Prices().problems("train")[: args.episodes]
    firsts = [policy.tokenizer.encode(problem.prompt) for problem in problems]
    sides = {"kept": LocalEngine(policy), "computed again": LocalEngine(policy, prefixes=0)}

    async def play(engine: LocalEngine) -> list[list[Completion]]:
        return await asyncio.gather(*(episode(engine, p, i, args) for i, p in enumerate(firsts)))

    spent: dict[str, list[float]] = {name: [] for name in sides}
    said: dict[str, list[Completion]] = {}
    for _ in range(1 + args.rounds):
        for name, engine in sides.items():
            start = time.process_time()
            said[name] = [c for plays in asyncio.run(play(engine)) for c in plays]
            spent[name].append(time.process_time() - start)
    median = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
    print("python", *sys.argv)
    for name, seconds in spent.items():
        used = sum((c.usage for c in said[name]), Usage())
        flops = (used.prefill_flops + used.decode_flops) / 1e12
        spread = f"{min(seconds[1:]):.1f} to {max(seconds[1:]):.1f}"
        print(
            f"{name:15} {median[name]:6.1f} CPU-seconds ({spread}), {flops:5.2f} TFLOP, "
            f"{used.computed} prompt tokens computed, {used.cached} not"
        )
    one, other = (np.concatenate([c.tokens for c in said[name]]) for name in sides)
    logprobs = [np.concatenate([c.logprobs for c in said[name]]) for name in sides]
    print(f"same tokens     {(one == other).mean():7.1%}")
    print(
        f"log-probs       {np.abs(logprobs[0] - logprobs[1])[one == other].max():.1e} apart at most"
    )
    print(f"ratio           {median['computed again'] / median['kept']:6.2f}")


if __name__ == "__main__":
    main()
