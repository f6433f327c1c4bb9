"""Sampling: the local engine against transformers' generate, on the same rows.

    python benchmarks/engine.py --prompts 16 --group 4 --tokens 64

Every row is sampled to its full length at temperature 1; both sides take turns, after one cold
round each. CPU-seconds, which a busy machine bends less than elapsed ones; the median is shown.
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

from upslope.engines.local import LocalEngine
from upslope.envs.prices import Prices
from upslope.models.load import load
from upslope.models.policy import Policy
from upslope.types import Sampling

Sampler = Callable[[], int]


def local(policy: Policy, prompts: Sequence[str], args: argparse.Namespace) -> Sampler:
    """Upslope's side: how many tokens the engine sampled."""
    engine = LocalEngine(replace(policy, eos=()), rows=args.prompts * args.group)
    rows = [policy.tokenizer.encode(p) for p in prompts for _ in range(args.group)]

    async def sample() -> int:
        asked = [engine.sample(r, Sampling(args.tokens, seed=i)) for i, r in enumerate(rows)]
        return sum(len(completion.tokens) for completion in await asyncio.gather(*asked))

    return lambda: asyncio.run(sample())


def generate(policy: Policy, prompts: Sequence[str], args: argparse.Namespace) -> Sampler:
    """The other side: how many tokens ``generate`` sampled, all rows in one batch."""
    tokenizer, model = policy.tokenizer, policy.model
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = tokenizer([p for p in prompts for _ in range(args.group)], padding=True)
    batch = {name: torch.tensor(rows[name]) for name in ("input_ids", "attention_mask")}
    model.generation_config.eos_token_id = None

    def sample() -> int:
        out = model.generate(
            **batch,
            max_new_tokens=args.tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=tokenizer.pad_token_id,
        )
        return int(out[:, batch["input_ids"].shape[1] :].numel())

    return sample


def rate(sample: Sampler, wanted: int) -> float:
    """Tokens for each CPU-second of one round."""
    start = time.process_time()
    sampled = sample()
    spent = time.process_time() - start
    if sampled != wanted:
        sys.exit(f"sampled {sampled} tokens in place of {wanted}: not the same work")
    return sampled / spent


def main() -> None:
    """Print both rates, their ratio and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=4, help="rows of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens sampled in each row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = load(args.model)
    prompts = [p.prompt for p in Prices().problems("train")[: args.prompts]]
    sides = {"upslope": local(policy, prompts, args), "generate": generate(policy, prompts, args)}
    wanted = args.prompts * args.group * args.tokens
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + args.rounds):
        for name, sample in sides.items():
            seen[name].append(rate(sample, wanted))
    median = {name: statistics.median(rates[1:]) for name, rates in seen.items()}
    print("python", *sys.argv)
    for name, rates in seen.items():
        spread = f"{min(rates[1:]):.0f} to {max(rates[1:]):.0f}"
        print(f"{name:9} {median[name]:7.0f} tokens per CPU-second ({spread})")
    print(f"ratio     {median['upslope'] / median['generate']:7.2f}")


if __name__ == "__main__":
    main()
