"""Sampling: the local engine against transformers' generate, on the same rows.

    python benchmarks/engine.py --prompts 16 --group 4 --prompt-tokens 92 --tokens 64
    python benchmarks/engine.py --sides upslope --model ladder:0.6m --prompts 64 --group 8 \
        --prompt-tokens 12 --tokens 5
    python benchmarks/engine.py --sides upslope --prompts 256 --group 1 --prompt-tokens 100 \
        --tokens 200 --rounds 0

Every row is sampled to its full length at temperature 1; the sides take turns, after one cold round
each. CPU-seconds, which a busy machine bends less than elapsed ones; the median is shown. The
limits are those of this machine, measured between the rounds: the FLOPs at the speed of its best
product, and weights, keys and values read from memory once a step. Peak memory is the process's:
give one side alone to see its own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import logging

from upslope.engines.local import LocalEngine
from upslope.envs.prices import Prices
from upslope.machine import peak_memory
from upslope.models.load import load
from upslope.models.policy import Policy
from upslope.models.products import product
from upslope.types import Sampling

Sampler = Callable[[], int]
Rows = Sequence[Sequence[int]]
SIDES = ("upslope", "dynamic", "static")


def rows_of(policy: Policy, args: argparse.Namespace) -> list[list[int]]:
    """Price lists, one after another, cut to a length; no two prompts begin alike."""
    lists = [p.prompt.split("\n\n")[-1] for p in Prices().problems("train")]
    tokens = policy.tokenizer.encode("0\n\n".join(lists))
    length = args.prompt_tokens
    prompts = [
        [(i + 1) % 90, *tokens[i * length : (i + 1) * length - 1]] for i in range(args.prompts)
    ]
    return [prompt for prompt in prompts for _ in range(args.group)]


def local(policy: Policy, rows: Rows, args: argparse.Namespace) -> Sampler:
    """Upslope's side: how many tokens the engine sampled."""
    engine = LocalEngine(replace(policy, eos=()), rows=len(rows))

    async def sample() -> int:
        asked = [engine.sample(r, Sampling(args.tokens, seed=i)) for i, r in enumerate(rows)]
        return sum(len(completion.tokens) for completion in await asyncio.gather(*asked))

    return lambda: asyncio.run(sample())


def generate(policy: Policy, rows: Rows, tokens: int, cache: str) -> Sampler:
    """The other side: how many tokens ``generate`` sampled, all rows in one batch."""
    model, batch = policy.model, torch.tensor(rows)
    model.generation_config.eos_token_id = None

    def sample() -> int:
        out = model.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        return int(out[:, batch.shape[1] :].numel())

    return sample


def seconds(work: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def speeds() -> tuple[float, float]:
    """FLOPs of a product and bytes read from memory, for each CPU-second, about."""
    a, b, long = torch.randn(2048, 1024), torch.randn(1024, 1024), torch.ones(2**27)
    least = min(seconds(lambda: product(a, b)) for _ in range(5))
    return 2 * a.numel() * 1024 / least, long.nbytes / min(seconds(long.sum) for _ in range(3))


def limits(policy: Policy, args: argparse.Namespace) -> tuple[float, float]:
    """CPU-seconds that the FLOPs and that the bytes of a round take at the least."""
    flops, read = map(max, zip(*(speeds() for _ in range(3)), strict=True))
    rows, prompts, tokens = args.prompts * args.group, args.prompts, args.tokens
    length, steps = args.prompt_tokens, args.tokens - 1
    pairs = prompts * length * (length + 1) / 2 + rows * steps * (length + tokens / 2)
    needed = policy.cost.forward(prompts * length + rows * steps, pairs, prompts + rows * steps)
    weights = sum(tensor.nbytes for _, tensor in policy.tensors())
    stored = policy.token_bytes * (prompts * length + rows * tokens / 2)
    print(f"machine   {flops / 1e9:.0f} GFLOP and {read / 1e9:.1f} GB read a CPU-second")
    return needed / flops, (weights * (1 + steps) + stored * steps) / read


def rounds(sides: dict[str, Sampler], count: int, wanted: int) -> dict[str, list[float]]:
    """Tokens for each CPU-second, of every round and side."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + count):
        for name, sample in sides.items():
            start = time.process_time()
            sampled = sample()
            seen[name].append(sampled / (time.process_time() - start))
            if sampled != wanted:
                sys.exit(f"{name} sampled {sampled} tokens in place of {wanted}: not the same work")
    return {name: rates[1:] or rates for name, rates in seen.items()}


def main() -> None:
    """Print all rates, their ratios, the distance to the limits, and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=4, help="rows of each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=92)
    parser.add_argument("--tokens", type=int, default=64, help="tokens sampled in each row")
    parser.add_argument("--rounds", type=int, default=5, help="warm ones")
    parser.add_argument("--bound", default="", help="what the ratio is held to, printed with it")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    policy = load(args.model)
    rows = rows_of(policy, args)
    made: dict[str, Callable[[], Sampler]] = {
        "upslope": lambda: local(policy, rows, args),
        "dynamic": lambda: generate(policy, rows, args.tokens, "dynamic"),
        "static": lambda: generate(policy, rows, args.tokens, "static"),
    }
    wanted = len(rows) * args.tokens
    seen = rounds({name: made[name]() for name in args.sides}, args.rounds, wanted)
    median = {name: statistics.median(rates) for name, rates in seen.items()}
    print("python", *sys.argv)
    for name, rates in seen.items():
        ratio = f"{median['upslope'] / median[name]:.2f}" if "upslope" in median else ""
        print(f"{name:9} {median[name]:7.0f} tokens a CPU-second", end=" ")
        print(f"({min(rates):.0f} to {max(rates):.0f})  {ratio}")
    if "upslope" in median:
        spent = wanted / median["upslope"]
        compute, memory = limits(policy, args)
        print(
            f"upslope   {compute / spent:.0%} of the FLOP limit, {memory / spent:.0%} of bandwidth"
        )
    print(f"memory    {peak_memory() / 2**30:.2f} GiB at the peak")
    peers = [rate for name, rate in median.items() if name != "upslope"]
    if "upslope" in median and peers:
        ratio = median["upslope"] / max(peers)
        print(f"ratio     {ratio:.2f} to the faster one{args.bound and f', bound {args.bound}'}")


if __name__ == "__main__":
    main()
