"""Training: the learner's update against padded transformers, on the same rows.

    python benchmarks/update.py --prompts 4 --group 4 --tokens 64

GRPO's gradient and one AdamW step. The other side pads rows and keeps the completions' logits
(``logits_to_keep``), as trainers on transformers do. Each side runs in processes of its own, in
turns, so that its peak memory is its own, and its first, cold update is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch
from upslope.envs.prices import Prices
from upslope.learner import Learner
from upslope.machine import peak_memory
from upslope.models.load import load
from upslope.models.policy import Policy
from upslope.settings import Learner as Settings
from upslope.types import Group, Problem, Reward, Segment, Trajectory, Turn

LR = 1e-6
Update = Callable[[], float]


def batch_of(policy: Policy, args: argparse.Namespace) -> Batch:
    """Prompts with completions of random tokens; in each group every other one is rewarded."""
    draw = np.random.default_rng(0)
    size = int(policy.model.get_input_embeddings().num_embeddings)

    def played(problem: Problem, member: int) -> Trajectory:
        prompt = policy.tokenizer.encode(problem.prompt)
        tokens = np.array([*prompt, *draw.integers(3, size, args.tokens)])
        trained, zeros = np.arange(len(tokens)) >= len(prompt), np.zeros(len(tokens))
        turn = Turn(0, len(prompt), len(tokens), "length")
        segments = (Segment(tokens, trained, zeros, zeros),)
        return Trajectory(problem, 0, member, segments, (turn,), (), Reward(float(member % 2)))

    problems = Prices().problems("train")[: args.prompts]
    groups = [Group(p, tuple(played(p, m) for m in range(args.group))) for p in problems]
    batch = Batch.of(groups)
    return replace(batch, advantages=GRPO().advantages(batch))


def packed(policy: Policy, batch: Batch, args: argparse.Namespace) -> Update:
    """Upslope's side: one update, and its gradient's norm."""
    settings = Settings(lr=LR, micro_tokens=args.micro_tokens)
    learner = Learner(policy, settings, lambda phase, flops, tokens: None)
    return lambda: learner.update(batch, GRPO())["update/grad_norm"]


def padded(policy: Policy, batch: Batch, args: argparse.Namespace) -> Update:
    """The other side: the same update by hand, all rows in one pass, padded on the left."""
    model, keep = policy.model.train(), args.tokens
    pads = batch.tokens.shape[1] - batch.length
    tokens = torch.stack([row.roll(int(p)) for row, p in zip(batch.tokens, pads, strict=True)])
    mask = torch.arange(tokens.shape[1])[None] >= pads[:, None]
    assert batch.advantages is not None
    advantages = batch.advantages.sum(1) / keep
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )

    def update() -> float:
        out = model(tokens, attention_mask=mask.long(), logits_to_keep=keep + 1, use_cache=False)
        logps = out.logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, -keep:, None])[..., 0]
        loss = -((logps - logps.detach()).exp() * advantages[:, None]).mean()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimiser.step()
        optimiser.zero_grad()
        return norm

    return update


SIDES = {"upslope": packed, "padded": padded}


def measure(args: argparse.Namespace) -> None:
    """In a process of one side: print its figures as JSON."""
    policy = load(args.model)
    update = SIDES[args.side](policy, batch_of(policy, args), args)
    norm, start = update(), time.process_time()
    update()
    spent = time.process_time() - start
    print(json.dumps({"seconds": spent, "memory": peak_memory() / 2**30, "norm": norm}))


def main() -> None:
    """Print both sides' figures, their ratio and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=4, help="rows of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens trained in each row")
    parser.add_argument("--micro-tokens", type=int, default=4096, help="Upslope's micro-batches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.side:
        measure(args)
        return
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side, found in seen.items():
            command = [sys.executable, *sys.argv, "--side", side]
            found.append(json.loads(subprocess.check_output(command)))
    print("python", *sys.argv)
    seconds = {side: statistics.median(f["seconds"] for f in found) for side, found in seen.items()}
    for side, found in seen.items():
        peak, norm = max(f["memory"] for f in found), found[0]["norm"]
        print(f"{side:8} {seconds[side]:6.2f} CPU-seconds an update, peak {peak:.2f} GiB", end="")
        print(f", gradient norm {norm:.5f}")
    print(f"ratio    {seconds['padded'] / seconds['upslope']:6.2f}")


if __name__ == "__main__":
    main()
