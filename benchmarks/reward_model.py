"""Reward models: held-out accuracy and calibration over seeds, the gradient, and shared prompts.

    python benchmarks/reward_model.py --seeds 3

Trains ``recipes/reward_model.toml`` (2,000 pairs labelled by the larger gold reward) once for each
seed and judges it on pairs of questions that it never saw. The gradient is that of the losses
against central differences in double precision. Tokens are those of scoring groups of 16 replies of
4 tokens to prompts of 68, each prompt computed once, against each row alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
import torch

from upslope.estimates import t_interval
from upslope.models.load import load
from upslope.models.logprobs import unpacked
from upslope.models.packing import pack
from upslope.models.reward_model import padded, reward_model_of
from upslope.preferences.losses import bradley_terry
from upslope.preferences.made import train_recipe
from upslope.preferences.recipe import read_recipe


def trained(recipe: str, seeds: int, changes: list[str]) -> None:
    """Print each seed's figures, and their mean with its interval."""
    accuracy, ece, seconds = list[float](), list[float](), list[float]()
    for seed in range(seeds):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            given = read_recipe(recipe, [f"seed={seed}", f"out={folder}/judge", *changes])
            _, seen = train_recipe(given, lambda line: None)
        seconds.append(time.process_time() - began)
        accuracy.append(seen.accuracy.mean)
        ece.append(seen.ece)
        low, high = seen.accuracy.low, seen.accuracy.high
        print(
            f"seed {seed}: accuracy {seen.accuracy.mean:.3f} ({low:.3f} to {high:.3f}) of "
            f"{seen.pairs} held-out pairs, error {seen.ece:.3f}, {seconds[-1]:.0f} CPU-seconds"
        )
    for name, values in (("accuracy", accuracy), ("expected calibration error", ece)):
        mean, low, high = t_interval(values)
        print(f"{name} over seeds: {mean:.3f} ({low:.3f} to {high:.3f})")


def gradient() -> float:
    """How far the analytic gradient is from central differences, at most."""
    torch.manual_seed(0)
    at = 3 * torch.randn(2, 64, dtype=torch.float64)
    margin, step, worst = torch.rand(64, dtype=torch.float64), 1e-6, 0.0

    def loss(x: torch.Tensor) -> torch.Tensor:
        return bradley_terry(x[0], x[1], margin, centring=0.01, smoothing=0.1)

    x = at.clone().requires_grad_(True)
    loss(x).sum().backward()
    assert x.grad is not None
    for side in range(2):
        moved = torch.zeros_like(at)
        moved[side] = step
        found = (loss(at + moved) - loss(at - moved)) / (2 * step)
        worst = max(worst, float((x.grad[side] - found).abs().max()))
    return worst


def shared(model: str, groups: int, size: int, prompt: int, reply: int) -> None:
    """Print tokens, FLOPs and time of scoring with prompts shared and apart."""
    one = reward_model_of(load(model), ["reward"])
    torch.manual_seed(0)
    torch.nn.init.normal_(one.head.weight, std=0.05)
    draw, rows = np.random.default_rng(0), []
    for _ in range(groups):
        asked = draw.integers(7, 100, prompt).tolist()
        rows += [[*asked, *draw.integers(7, 100, reply).tolist()] for _ in range(size)]
    tokens, length = padded(rows)
    packed = pack(torch.nn.functional.pad(tokens, (0, 1)), length + 1)
    found, seconds = [], []
    for way in ("shared", "apart"):
        with unpacked(one.policy) if way == "apart" else torch.no_grad():
            one.scores(tokens, length)
            began = time.process_time()
            found.append(one.scores(tokens, length))
            seconds.append(time.process_time() - began)
    (raw, work), (other, more) = found
    print(
        f"{groups} groups of {size}, prompt {prompt}, reply {reply}: {len(packed.tokens)} tokens in"
        f" place of {int(length.sum())}, {int(length.sum()) / len(packed.tokens):.1f}x fewer; "
        f"{more.forward / work.forward:.1f}x fewer FLOPs, {seconds[1] / seconds[0]:.1f}x less CPU "
        f"time; scores apart by {float((raw - other).abs().max()):.1e}"
    )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="recipes/reward_model.toml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="ladder:0.6m")
    parser.add_argument("changes", nargs="*", help="settings to change: training.lr=1e-3")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"gradient of Bradley-Terry, analytic against differences: {gradient():.1e} at most")
    shared(args.model, 16, 16, 68, 4)
    shared(args.model, 4, 16, 92, 64)
    trained(args.recipe, args.seeds, args.changes)


if __name__ == "__main__":
    main()
