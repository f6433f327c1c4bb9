"""Labels that a reward model needs when it chooses its own pairs, against pairs at random.

    python benchmarks/active.py --seeds 3

Pairs are of demonstrations of ``notes``, labelled by the larger gold reward. Each way of choosing
begins with the same random pairs. After each batch a new committee of reward models learns from all
labels so far, from the weights of a policy that imitated the demonstrations (``--sft 0``: from
those of ``--model``), and says what to ask next. Accuracy is the committee's, on pairs of questions
that nobody learned from; 300 more pairs say when to stop, for all ways alike. Accuracy against the
logarithm of labels is a line for each way and seed; labels needed are read off where the line
reaches what random pairs reach at the end. Exit status 1 where ``--by`` needs more than 70% of
them, on average.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

import upslope
from upslope.envs.notes import Notes, gold
from upslope.estimates import t_interval
from upslope.ledger import Ledger
from upslope.models.load import load
from upslope.models.reward_model import RewardModel, reward_model_of
from upslope.preferences.acquisition import WAYS, By
from upslope.preferences.learned import Compared, PairLoss
from upslope.preferences.made import raw_of
from upslope.preferences.pair import Pair
from upslope.preferences.proposing import Asking, Comparisons, choose
from upslope.preferences.training import Training, train
from upslope.seeds import seed_of
from upslope.types import Problem, Split

BOUND = 0.7
LESSON = PairLoss(centring=0.001)
TRAINING = Training(lr=2e-3, warmup=20, epochs=6, batch=32, patience=4)


def pairs_of(split: Split, problems: int, replies: int, apart: bool, seed: int) -> list[Pair]:
    """Every two demonstrations of a problem that gold tells apart; ``apart``: each in one pair."""
    shown: dict[str, tuple[Problem, list[str]]] = {}
    env = Notes(replies=replies, train=problems, test=problems, seed=seed)
    for problem, text in env.demonstrations(split):
        shown.setdefault(problem.id, (problem, []))[1].append(text)
    found = []
    for problem, texts in shown.values():
        halves = [*zip(texts[::2], texts[1::2], strict=True)]
        for two in halves if apart else combinations(dict.fromkeys(texts), 2):
            (low, worse), (high, better) = sorted((gold(problem.answer, t).total, t) for t in two)
            if low < high:
                found.append(Pair(problem, better, worse, {}))
    return found


def imitated(model: str, steps: int, folder: str) -> str:
    """A policy's folder, after supervised fine-tuning on the demonstrations."""
    given = {
        "model": model,
        "runs": folder,
        "env": {"type": "notes", "replies": 4},
        "algorithm": {"type": "sft"},
        "source": {"type": "recorded"},
        "rollout": {"problems": 128, "max_tokens": 32},
        "learner": {"lr": 1e-3, "warmup": 50},
        "evaluation": {"problems": 20},
        "checkpoint": {"every": 0},
        "machine": {"threads": 1},
        "stop": {"steps": steps},
    }
    return str(upslope.train(given).path / "model")


def fitted(model: str, pairs: Sequence[Pair], held: Sequence[Pair], seed: int) -> RewardModel:
    """A new model that learned from these."""
    made = reward_model_of(load(model, seed % 2**31), ["reward"])
    lesson, other = (Compared.of(made, some, LESSON) for some in (pairs, held))
    return train(made, lesson, other, TRAINING, seed, Ledger(), lambda line: None).model


def committee(args: argparse.Namespace, own: list[Pair], held: list[Pair], seed: int) -> (
    list[RewardModel]
):  # fmt: skip
    """Models with weights of their own, each of its own draw of the labels but the first."""
    found = [fitted(args.model, own, held, seed)]
    for one in range(1, args.members):
        drawn = random.Random(seed_of("member", seed, one)).choices(own, k=len(own))
        found.append(fitted(args.model, drawn, held, seed_of("member's start", seed, one)))
    return found


def curve(args: argparse.Namespace, by: By, seed: int) -> list[tuple[int, float]]:
    """Accuracy after each batch of labels."""
    pool = pairs_of("train", args.problems, args.replies, False, seed)
    held = pairs_of("validation", 400, 2, True, seed)[:300]
    test = pairs_of("test", 800, 10, True, seed)
    order = random.Random(seed_of("pool", seed)).sample(range(len(pool)), len(pool))
    pool = [pool[i] for i in order]
    taken, seen = [*range(args.batch)], list[tuple[int, float]]()
    while True:
        own = [pool[i] for i in taken]
        models = committee(args, own, held, seed_of("fit", seed, len(taken)))
        raw = np.mean([raw_of(model, test, 16384)[:, :, 0] for model in models], 0)
        seen.append((len(taken), float(np.mean(raw[:, 0] > raw[:, 1]))))
        if len(taken) >= args.labels:
            return seen
        left = sorted(set(range(len(pool))) - set(taken))
        needs = {"random": 0, "information": 1}.get(by, len(models))
        asking = Asking(args.batch, by, ("",) * needs, seed=seed_of(seed, len(taken)))
        found = choose(asking, compared(pool, left), compared(pool, taken), models)
        taken += [left[place] for place, _ in found]


def compared(pool: Sequence[Pair], places: Sequence[int]) -> Comparisons:
    """These pairs as questions of one comparison."""
    two = [(pool[i].problem, pool[i].chosen, pool[i].rejected) for i in places]
    return Comparisons(two, np.arange(len(two)))


def needed(seen: Sequence[tuple[int, float]], accuracy: float) -> float:
    """Labels at which the line of accuracy over log labels reaches so much."""
    slope, start = np.polyfit(np.log([n for n, _ in seen]), [a for _, a in seen], 1)
    return float(np.exp((accuracy - start) / slope))


def main() -> int:
    """Print curves, and what each way needs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ladder:0.1m")
    parser.add_argument("--sft", type=int, default=300, help="steps of imitation before")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--labels", type=int, default=600)
    parser.add_argument("--batch", type=int, default=150)
    parser.add_argument("--problems", type=int, default=1500)
    parser.add_argument("--members", type=int, default=2, help="of a committee")
    parser.add_argument("--replies", type=int, default=4)
    parser.add_argument("--ways", nargs="*", default=WAYS[1:])
    parser.add_argument("--by", default="disagreement", help="the way that is held to the bound")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.sft:
        args.model = imitated(args.model, args.sft, tempfile.mkdtemp())
    shares = {by: list[float]() for by in args.ways}
    for seed in range(args.first, args.first + args.seeds):
        base = curve(args, "random", seed)
        slope, start = np.polyfit(np.log([n for n, _ in base]), [a for _, a in base], 1)
        target = float(start + slope * np.log(base[-1][0]))
        print(f"seed {seed}, random: {told(base)}", flush=True)
        for by in args.ways:
            began = time.process_time()
            own = curve(args, by, seed)
            shares[by].append(needed(own, target) / base[-1][0])
            print(
                f"seed {seed}, {by}: {told(own)}; {100 * shares[by][-1]:.0f}% of the labels for "
                f"{target:.3f}; {time.process_time() - began:.0f} CPU-seconds",
                flush=True,
            )
    for by, values in shares.items():
        mean, low, high = t_interval(values)
        print(f"{by}: {100 * mean:.0f}% ({100 * low:.0f} to {100 * high:.0f}) of random's labels")
    return int(args.by in shares and float(np.mean(shares[args.by])) > BOUND)


def told(seen: Sequence[tuple[int, float]]) -> str:
    """A curve in words."""
    return " ".join(f"{n}:{a:.3f}" for n, a in seen)


if __name__ == "__main__":
    sys.exit(main())
