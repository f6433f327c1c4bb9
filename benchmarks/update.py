"""Training: the learner's update against padded transformers, on the same rows.

    python benchmarks/update.py --prompts 4 --group 4 --prompt-tokens 92 --tokens 64
    python benchmarks/update.py --prompts 8 --group 16 --prompt-tokens 68 --tokens 4

GRPO's gradient and one AdamW step. The other side pads rows, keeps the completions' logits
(``logits_to_keep``) and takes log-probabilities of them as TRL's trainers do; what TRL does
besides, such as entropies and gradient checkpointing, is left out. Each side runs in processes of
its own, in turns, so that its peak memory is its own, and its first, cold update is not counted.

The limit is what the arithmetic alone takes at the speed of this machine's matrix products, as seen
in the same process: forward and backward of each token that differs from the others or has others
before it, causal pairs, and the head once.
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
from upslope.devices import fitting_tokens
from upslope.envs.prices import Prices
from upslope.learner import Learner
from upslope.machine import peak_memory
from upslope.models.flops import activation_bytes
from upslope.models.layers import known
from upslope.models.load import load
from upslope.models.packing import pack
from upslope.models.policy import Policy
from upslope.models.products import product
from upslope.settings import Learner as Settings
from upslope.types import Group, Problem, Reward, Segment, Trajectory, Turn

LR = 1e-6
Update = Callable[[], float]


def prompts(policy: Policy, args: argparse.Namespace) -> list[list[int]]:
    """The quickstart's; or its questions without their examples, cut into pieces of one length."""
    found = [p.prompt for p in Prices().problems("train")]
    if not args.prompt_tokens:
        return [policy.tokenizer.encode(text) for text in found[: args.prompts]]
    questions = "\n\n".join(text.rpartition("\n\n")[2] for text in found)
    tokens = policy.tokenizer.encode(questions)
    starts = range(0, args.prompts * args.prompt_tokens, args.prompt_tokens)
    return [tokens[start : start + args.prompt_tokens] for start in starts]


def batch_of(policy: Policy, args: argparse.Namespace) -> Batch:
    """Prompts with completions of random tokens; in each group every other one is rewarded."""
    draw = np.random.default_rng(0)
    size = int(policy.model.get_input_embeddings().num_embeddings)

    def played(problem: Problem, prompt: list[int], member: int) -> Trajectory:
        tokens = np.array([*prompt, *draw.integers(3, size, args.tokens)])
        trained, zeros = np.arange(len(tokens)) >= len(prompt), np.zeros(len(tokens))
        turn = Turn(0, len(prompt), len(tokens), "length")
        segments = (Segment(tokens, trained, zeros, zeros),)
        return Trajectory(problem, 0, member, segments, (turn,), (), Reward(float(member % 2)))

    groups = []
    for i, prompt in enumerate(prompts(policy, args)):
        problem = Problem(str(i), prompt=policy.tokenizer.decode(prompt))
        groups.append(Group(problem, tuple(played(problem, prompt, m) for m in range(args.group))))
    batch = Batch.of(groups)
    return replace(batch, advantages=GRPO().advantages(batch))


def limit(policy: Policy, batch: Batch) -> float:
    """Seconds that an update's arithmetic takes at the speed of matrix products now."""
    packed, cost = pack(batch.tokens, batch.length), policy.cost
    pairs = float((packed.positions + 1).sum())
    flops = 3 * cost.forward(len(packed.tokens), pairs, int(batch.trained.sum()))
    x, w = torch.ones(512, 576), torch.ones(576, 1536)
    seen = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(20):
            product(x, w)
        seen.append(20 * 2 * x.shape[0] * w.numel() / (time.process_time() - start))
    return flops / statistics.median(seen)


def packed(policy: Policy, batch: Batch, args: argparse.Namespace) -> Update:
    """Upslope's side: one update, and its gradient's norm."""
    each = activation_bytes(policy.model.config, lean=known(policy.model))
    tokens = args.micro_tokens or fitting_tokens("cpu", each)
    settings = Settings(lr=LR, micro_tokens=tokens)
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
        logits = out.logits[:, :-1]
        chosen = logits.gather(-1, tokens[:, -keep:, None])[..., 0]
        logps = chosen - torch.stack([row.logsumexp(-1) for row in logits])
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
    batch = batch_of(policy, args)
    update = SIDES[args.side](policy, batch, args)
    norm, least, seconds = update(), limit(policy, batch), []
    for _ in range(args.repeats):
        start = time.process_time()
        update()
        seconds.append(time.process_time() - start)
    figures = {"seconds": statistics.median(seconds), "limit": least, "norm": norm}
    print(json.dumps({**figures, "memory": peak_memory() / 2**30}))


def main() -> None:
    """Print both sides' figures, their ratio and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=4, help="rows of each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=0, help="0: as the quickstart's are")
    parser.add_argument("--tokens", type=int, default=64, help="tokens trained in each row")
    parser.add_argument("--micro-tokens", type=int, default=0, help="0: as a run finds them")
    parser.add_argument("--repeats", type=int, default=1, help="warm updates of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bound", default="", help="what the ratio is held to, printed with it")
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
    middle = {
        side: {name: statistics.median(f[name] for f in found) for name in found[0]}
        for side, found in seen.items()
    }
    for side, of in middle.items():
        print(
            f"{side:8} {of['seconds']:6.2f} CPU-seconds an update, "
            f"{of['seconds'] / of['limit']:.2f} of the limit, peak {of['memory']:.2f} GiB, "
            f"gradient norm {of['norm']:.5f}"
        )
    ours, theirs = middle["upslope"], middle["padded"]
    pairs = zip(*seen.values(), strict=True)
    ratios = sorted(t["seconds"] / u["seconds"] for u, t in pairs)
    print(f"ratio    {theirs['seconds'] / ours['seconds']:6.2f} (rounds {ratios[0]:.2f} to", end="")
    share = f"memory {100 * ours['memory'] / theirs['memory']:.0f}%"
    print(f" {ratios[-1]:.2f}), {share}{args.bound and f', bound {args.bound}'}")


if __name__ == "__main__":
    main()
