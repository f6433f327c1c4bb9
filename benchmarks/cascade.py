"""A cascade of two reward models with the larger one alone: agreement, and what part of its FLOPs.

    python benchmarks/cascade.py
    python benchmarks/cascade.py --models runs/small/model runs/large/model

Without ``--models`` it trains two ladder models on the pairs of ``notes`` first, some minutes of
one core. Groups are replies to notes' problems, half good and half bad. How wide the band is in
which the small model counts as unsure is chosen on groups of the validation split: as wide as 40%
of the FLOPs allow. On groups of the test split both are then asked as a run asks them. A play's
verdict is whether it is better than the mean of the replies that a model was whitened on. Exit
status 1 where fewer than 97% of verdicts agree, or the cascade takes more than 40% of the FLOPs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from upslope.chat import Chat
from upslope.envs.notes import Notes
from upslope.models import ladder
from upslope.preferences.made import train_recipe
from upslope.preferences.recipe import read_recipe
from upslope.recite import spoken
from upslope.rewards import Grades, Host, OpensReward
from upslope.rewards.cascade import Cascade, Level
from upslope.rewards.model import Model
from upslope.types import Problem, Split, Trajectory

SHARE, AGREE = 0.4, 0.97
Groups = Sequence[tuple[Problem, Sequence[Trajectory]]]
Scores = list[np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What a reward gave each group, its FLOPs and seconds, and the share of plays that reached its
    last level."""

    scores: Scores
    flops: float
    seconds: float
    reached: float


def trained(sizes: Sequence[str], folder: Path) -> list[Path]:
    """Reward models on the same 2,000 pairs."""
    for size in sizes:
        recipe = read_recipe(
            "recipes/reward_model.toml",
            [f"model=ladder:{size}", f"out={folder / size}", "training.epochs=3"],
        )
        _, report = train_recipe(recipe, lambda line: None)
        print(f"trained ladder:{size}: pair accuracy {report.accuracy.value:.3f}", flush=True)
    return [folder / size / "model" for size in sizes]


def groups(split: Split, problems: int, size: int, chat: Chat) -> Groups:
    """Replies to each problem, as the env writes them: good ones and bad ones."""
    env = Notes(replies=size, train=problems, test=problems)
    told = groupby(env.demonstrations(split), key=lambda pair: pair[0])
    return [
        (problem, [spoken(chat, problem, reply, i) for i, (_, reply) in enumerate(pairs)])
        for problem, pairs in told
    ]


def asked(settings: OpensReward, chat: Chat, played: Groups, at_once: int = 8) -> Seen:
    """What a reward says of all groups, ``at_once`` of them at a time, as a step's are graded."""
    spent: list[float] = []
    nothing: Any = None
    policy: Any = SimpleNamespace(
        tokenizer=chat.tokenizer, model=SimpleNamespace(device=torch.device("cpu"))
    )
    host = Host(
        nothing, policy, chat, nothing, 0, lambda flops, n: spent.append(flops), print, nothing
    )
    grades = settings.open(host)

    async def all_groups(grades: Grades) -> list[Any]:
        found: list[Any] = []
        for first in range(0, len(played), at_once):
            some = played[first : first + at_once]
            found += await asyncio.gather(*[grades.rewards(p, plays) for p, plays in some])
        return found

    began = time.perf_counter()
    found = asyncio.run(all_groups(grades))
    seconds = time.perf_counter() - began
    assert all(r.valid for rewards in found for r in rewards)
    reached = [r.parts.get("reached_large", 1.0) for rewards in found for r in rewards]
    scores = [np.array([r.total for r in rewards]) for rewards in found]
    return Seen(scores, sum(spent), seconds, float(np.mean(reached)))


def band(small: Seen, large: Seen, share: float) -> tuple[float, float]:
    """Around 0, as wide as the share of FLOPs allows where a play costs what the mean one does."""
    left = max(0.0, share - small.flops / large.flops)
    width = float(np.quantile(np.abs(np.concatenate(small.scores)), min(1.0, left)))
    return -width, width


def agreement(one: Scores, other: Scores) -> tuple[float, float]:
    """Of verdicts, and of the order of pairs in a group."""
    verdicts = np.concatenate([(a > 0) == (b > 0) for a, b in zip(one, other, strict=True)])
    order = [
        (a[i] > a[j]) == (b[i] > b[j])
        for a, b in zip(one, other, strict=True)
        for i, j in combinations(range(len(a)), 2)
    ]
    return float(verdicts.mean()), float(np.mean(order))


def main() -> int:
    """Print what each takes and says, and how often they agree."""
    given = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    given.add_argument("--models", nargs=2, metavar=("SMALL", "LARGE"))
    given.add_argument("--sizes", nargs=2, default=("0.1m", "2m"), metavar=("SMALL", "LARGE"))
    given.add_argument("--problems", type=int, default=100)
    given.add_argument("--group", type=int, default=16)
    args = given.parse_args()
    torch.set_num_threads(1)
    tokenizer = ladder.tokenizer()
    chat = Chat(tokenizer, [tokenizer.eos_token_id])
    with tempfile.TemporaryDirectory() as folder:
        paths = args.models or trained(args.sizes, Path(folder))
        small, large = (Model(str(path)) for path in paths)
        tuned = groups("validation", args.problems // 2, args.group, chat)
        # A play that goes on alone shares less of its prompt, so that less than the share is spent.
        known = [asked(one, chat, tuned) for one in (small, large)]
        unsure = band(known[0], known[1], 0.9 * SHARE)
        made = Cascade({"small": Level(small, unsure=unsure), "large": Level(large)})
        played = groups("test", args.problems, args.group, chat)
        alone, full, cascade = (asked(one, chat, played) for one in (small, large, made))
    print(f"{len(played)} groups of {args.group}; unsure where |score| < {unsure[1]:.2f}")
    for name, seen in (("large alone", full), ("small alone", alone), ("cascade", cascade)):
        verdicts, order = agreement(seen.scores, full.scores)
        share = seen.flops / full.flops
        reached = f", {seen.reached:.0%} of plays reached the large one" * (name == "cascade")
        print(
            f"{name:12} {seen.flops:.3g} FLOPs ({share:5.1%}) {seen.seconds:5.2f} s  verdicts agree"
            f" {verdicts:.1%}, pairs {order:.1%}{reached}"
        )
    verdicts, _ = agreement(cascade.scores, full.scores)
    share = cascade.flops / full.flops
    print(f"agreement {verdicts:.3f}, bound {AGREE}; FLOPs {share:.3f}, bound {SHARE}")
    return int(verdicts < AGREE or share > SHARE)


if __name__ == "__main__":
    sys.exit(main())
