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


def agreement(one: list[list[Completion]], other: list[list[Completion]]) -> tuple[int, float]:
    """How many tokens episodes begin with alike, and how far their log-probabilities are apart.

    Rounding can choose the neighbour of a token that is a one in a million; what follows differs.
    """
    alike, apart = 0, 0.0
    for pair in zip(one, other, strict=True):
        a, b = (np.concatenate([c.tokens for c in play]) for play in pair)
        p, q = (np.concatenate([c.logprobs for c in play]) for play in pair)
        same = int((a == b).cumprod().sum())
        alike, apart = alike + same, max(apart, float(np.abs(p - q)[:same].max(initial=0)))
    return alike, apart


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
    said: dict[str, list[list[Completion]]] = {}
    for _ in range(1 + args.rounds):
        for name, engine in sides.items():
            start = time.process_time()
            said[name] = asyncio.run(play(engine))
            spent[name].append(time.process_time() - start)
    median = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
    print("python", *sys.argv)
    for name, seconds in spent.items():
        used = sum((c.usage for one in said[name] for c in one), Usage())
        flops = (used.prefill_flops + used.decode_flops) / 1e12
        spread = f"{min(seconds[1:]):.1f} to {max(seconds[1:]):.1f}"
        print(
            f"{name:15} {median[name]:6.1f} CPU-seconds ({spread}), {flops:5.2f} TFLOP, "
            f"{used.computed} prompt tokens computed, {used.cached} not"
        )
    alike, apart = agreement(*said.values())
    print(
        f"same tokens     {alike} of {args.episodes * args.turns * args.tokens} before any differs"
    )
    print(f"log-probs       {apart:.1e} apart at most until then")
    print(f"ratio           {median['computed again'] / median['kept']:6.2f}")


if __name__ == "__main__":
    main()
