"""RLHF from pairs of which a quarter is wrong, against SFT and against the best of n.

    python benchmarks/rlhf.py recipes/rlhf.toml --seeds 3

Trains the recipe once for each seed, then asks the policy of every round, and that of SFT, the same
held-out problems. A row for each round: how often a reply earns more gold than one of SFT's to the
same problem (equal ones count half), gold, and the KL to SFT in nats a reply. Then the same for the
best of n of SFT's replies by the first round's reward model and by the last one's, at a KL that is
known exactly, and the policies against it at equal KL. Intervals are over seeds and problems at
once. Exit status 1 where the last round wins less than 65%. Runs that have ended are not trained
again.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from presets import T95, trained

from upslope.batch import Batch
from upslope.exam import Choices, sit
from upslope.models.load import load
from upslope.models.logprobs import prepare, token_logprobs
from upslope.models.policy import Policy
from upslope.models.reward_folder import load_reward_model
from upslope.names import env_of
from upslope.preferences.pair import dialogue
from upslope.preferences.training import scores_of
from upslope.runs import Run
from upslope.scaling.overoptimised import best_of_n, kl_best_of_n
from upslope.settings import Component
from upslope.types import Env, Group

Numbers = NDArray[np.float64]
NS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BOUND = 0.65


@dataclass(frozen=True)
class Seen:
    """A policy on held-out problems, [problem] each: won against SFT, gold, KL to SFT."""

    won: Numbers
    gold: Numbers
    kl: Numbers


def golds(groups: Sequence[Group]) -> Numbers:
    """What each reply earns, [problem reply]."""
    return np.array([[reward.total for reward in group.rewards] for group in groups])


def won(own: Numbers, others: Numbers) -> Numbers:
    """How often a reply earns more than the others' of its problem, [problem reply]."""
    ahead = own[:, :, None] - others[:, None, :]
    return np.asarray(((ahead > 0) + 0.5 * (ahead == 0)).mean(2))


def distance(groups: Sequence[Group], before: Policy) -> Numbers:
    """KL(policy || before) in nats a reply, on what the policy said, [problem]."""
    batch = Batch.of(groups)
    total = np.zeros(len(groups))
    for rows in batch.micro(16384, "row"):
        part = batch.rows(rows)
        with torch.no_grad():
            was, _, _ = token_logprobs(
                before, part.tokens, part.length, part.trained, part.temperature
            )
        each = ((part.engine_logprobs - was) * part.trained).sum(1)
        np.add.at(total, part.group.numpy(), each.double().numpy())
    return total / len(groups[0].trajectories)


def scored(folder: Path, groups: Sequence[Group]) -> Numbers:
    """What a round's reward models say of each reply, [problem reply]."""
    total = np.zeros((len(groups), len(groups[0].trajectories)))
    for place in sorted(folder.glob("model-*")):
        model = load_reward_model(place)
        for i, group in enumerate(groups):
            texts = sorted({t.text for t in group.trajectories})
            rows = [model.encode(dialogue(group.problem, text)) for text in texts]
            found = model.normalised(scores_of(model, rows, 16384))[:, 0].tolist()
            known = dict(zip(texts, found, strict=True))
            total[i] += [known[t.text] for t in group.trajectories]
    return total


def spread(values: Sequence[Numbers]) -> tuple[float, float]:
    """Mean of [seed][problem], and half of its 95% interval over other seeds and problems.

    Seeds share their problems, so both variances count in full; t is that of so few seeds.
    """
    table = np.stack(values)
    seeds, problems = table.mean(1), table.mean(0)
    error = seeds.var(ddof=1) / len(seeds) + problems.var(ddof=1) / len(problems)
    return float(table.mean()), T95[len(seeds)] * float(error) ** 0.5


def said(values: Sequence[Numbers], scale: float = 100, places: int = 1) -> str:
    """Mean and interval in words."""
    mean, half = (scale * part for part in spread(values))
    return f"{mean:.{places}f} ({mean - half:.{places}f} to {mean + half:.{places}f})"


def at_kl(kl: float, ns: Sequence[int], values: Numbers) -> Numbers:
    """``values`` [problem n] of the best of n, between the two n that have this KL, or of the
    largest n where that has less."""
    known = kl_best_of_n(np.array(ns, dtype=float))
    right = min(max(1, int(np.searchsorted(known, kl))), len(ns) - 1)
    share = (kl - known[right - 1]) / (known[right] - known[right - 1])
    share = min(share, 1.0)
    return np.asarray(values[:, right - 1] * (1 - share) + values[:, right] * share)


def rounds(run: Run, stages: Sequence[str]) -> dict[str, Path]:
    """Each RL stage's final weights; the next one's reference is what it ended with."""
    ends = [*(run.reference(name) for name in stages[1:]), run.path / "model"]
    return dict(zip(stages, ends, strict=True))


def plays(model: Path, env: Env, given: argparse.Namespace, samples: int, seed: int) -> list[Group]:
    """Sampled replies to held-out problems, as ``upslope compare`` asks for them."""
    choices = Choices(given.problems, samples, max_tokens=given.max_tokens, seed=seed)
    return [*sit(str(model), env, choices, time.perf_counter()).sampled]


def measured(
    run: Run, stages: Sequence[str], env: Env, given: argparse.Namespace
) -> tuple[dict[str, Seen], dict[str, Numbers]]:
    """Of one seed: every policy, and by each judge what the best of n wins, [problem n]."""
    sft = run.reference(stages[0])
    before = load(str(sft))
    prepare(before)
    others = golds(plays(sft, env, given, given.replies, 0))
    found = {"sft": Seen(np.full(len(others), 0.5), others.mean(1), np.zeros(len(others)))}
    for name, model in rounds(run, stages).items():
        groups = plays(model, env, given, given.replies, 0)
        own = golds(groups)
        found[name] = Seen(won(own, others).mean(1), own.mean(1), distance(groups, before))
    pool = plays(sft, env, given, given.pool, 1)
    values, ns = won(golds(pool), others), [n for n in NS if n <= given.pool]
    judges = {
        name: best_of_n(scored(run.reward(name), pool), values, ns)
        for name in dict.fromkeys((stages[0], stages[-1]))
    }
    return found, judges


def main() -> None:
    """Train what is missing, then print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--replies", type=int, default=4, help="of each policy to a problem")
    parser.add_argument("--pool", type=int, default=128, help="replies that n are chosen from")
    parser.add_argument("--folder", type=Path, default=Path("runs/rlhf-seeds"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    recipe: dict[str, Any] = tomllib.loads(given.recipe.read_text(encoding="utf-8"))
    given.max_tokens = recipe["rollout"]["max_tokens"]
    env = env_of(Component(**recipe["env"]))
    stages = [stage["name"] for stage in recipe["stage"] if "reward" in stage]
    seen, judged, spent = list[dict[str, Seen]](), list[dict[str, Numbers]](), list[str]()
    for seed in range(given.seeds):
        run = trained(recipe, given.folder, f"rlhf-{seed}", seed)
        result = run.result()
        assert result is not None
        spent.append(f"{result.cpu_seconds:.0f}")
        policies, judges = measured(run, stages, env, given)
        seen.append(policies)
        judged.append(judges)
    print(f"{given.seeds} seeds, {given.problems} problems, CPU-seconds {', '.join(spent)}\n")
    print("| policy | wins against SFT (%) | gold | KL to SFT (nats) |\n|---|---|---|---|")
    for name in seen[0]:
        of = [one[name] for one in seen]
        print(
            f"| {name} | {said([s.won for s in of])} | {said([s.gold for s in of], 1, 3)} "
            f"| {said([s.kl for s in of], 1, 2)} |"
        )
    ns = [n for n in NS if n <= given.pool]
    print(f"\n| best of n, by the judge of | {' | '.join(map(str, ns))} |")
    print(f"|---|{'---|' * len(ns)}")
    print(f"| KL (nats, exact) | {' | '.join(f'{kl:.2f}' for kl in kl_best_of_n(np.array(ns)))} |")
    for judge in judged[0]:
        wins = [said([one[judge][:, i] for one in judged]) for i in range(len(ns))]
        print(f"| {judge}: wins (%) | {' | '.join(wins)} |")
    print("\nRL less the best of n at equal KL, in points of wins:")
    for name in stages:
        for judge in judged[0]:
            away = [
                one[name].won - at_kl(float(one[name].kl.mean()), ns, of[judge])
                for one, of in zip(seen, judged, strict=True)
            ]
            mean, half = spread(away)
            kind = "no difference" if abs(mean) < half else "RL" if mean > 0 else "best of n"
            print(f"  {name}, n by the judge of {judge}: {said(away)}: {kind}")
    mean, half = spread([one[stages[-1]].won for one in seen])
    print(f"\nbound: {mean:.1%} of at least {BOUND:.0%}, and {mean - half:.1%} above 50%")
    sys.exit(int(mean < BOUND or mean - half <= 0.5))


if __name__ == "__main__":
    main()
