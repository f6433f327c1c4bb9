"""What critics are for, in three figures, with seeds: a long chain, explained variance, and logs.

    python benchmarks/critics.py chain
    python benchmarks/critics.py explained
    python benchmarks/critics.py offline

"chain": a reward at the end of a chain of 24 steps alone (``chain.py``). VC-PPO, which learns
values first and from whole returns, against PPO, at the same steps, those of values alone included.
"explained": explained variance of returns on ``arithmetic`` after steps of values alone.
"offline": from answers to ``arithmetic`` of which 40% are right, behaviour cloning, IQL and ILQL at
the same number of updates. All from ladder models, on one thread; ``--steps``, ``--size`` and
``--seeds`` shorten them. Each arm of a seed begins with the same weights.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upslope.envs.arithmetic import Arithmetic
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.runs import Run
from upslope.seeds import seed_of

HERE = Path(__file__).parent
RIGHT, GATE = 0.4, 0.8
CHAIN = {"type": f"{HERE / 'chain.py'}:Chain"}
SUMS = {"type": "arithmetic", "reverse": True, "wrong": 0.9}
VC = {"lambda_critic": 1.0, "critic": {"place": "separate", "rate": 4.0, "gate": 0.1}}
NAIVE = {"lambda_critic": 0.95, "critic": {"place": "separate", "rate": 4.0, "clip": 0.2}}


def trained(name: str, seed: int, model: str, given: Mapping[str, Any], to: Path) -> Run:
    """A run on one thread, without checkpoints; its metrics and model are in ``to``."""
    recipe = {
        "name": name,
        "model": model,
        "seed": seed,
        "runs": str(to),
        "checkpoint": {"every": 0},
        "machine": {"threads": 1},
        **given,
    }
    return train_recipe(read(recipe), lambda line: None)


def imitated(env: Mapping[str, Any], tokens: int, a: argparse.Namespace, seed: int) -> str:
    """The folder of a model that imitates the env's demonstrations."""
    given = {
        "env": env,
        "algorithm": {"type": "sft"},
        "source": {"type": "recorded"},
        "rollout": {"problems": 128, "max_tokens": tokens},
        "learner": {"lr": 1e-3, "micro_tokens": 16384},
        "evaluation": {"problems": 200},
        "stop": {"steps": a.imitation},
    }
    return str(trained("sft", seed, f"ladder:{a.size}", given, a.to).path / "model")


def shown(run: Run) -> str:
    """Sampled and greedy accuracy, before and after."""
    result = run.result()
    assert result is not None
    first, last = result.before, result.after
    return (
        f"sampled {first.sampled.mean:6.1%} to {last.sampled.mean:6.1%} "
        f"({last.sampled.low:.1%} to {last.sampled.high:.1%}), greedy {last.greedy.mean:6.1%}, "
        f"{result.cpu_seconds:.0f} CPU-seconds"
    )


def chain(a: argparse.Namespace) -> None:
    """PPO with values learned first, and without."""
    ends: dict[str, list[float]] = {"vc_ppo": [], "ppo": []}
    first = max(1, a.steps // 3)  # at most; how much there is to explain is said by the policy
    for seed in range(a.seeds):
        model = imitated(CHAIN, 26, a, seed)
        for name, settings in (("vc_ppo", VC), ("ppo", NAIVE)):
            own = {"type": "ppo", **settings}
            if name == "vc_ppo":
                own["critic"] = {**VC["critic"], "pretrain": first}  # type: ignore[dict-item]
            given = {
                "env": CHAIN,
                "algorithm": own,
                "rollout": {"problems": 64, "group": 2, "max_tokens": 26},
                "learner": {"lr": 3e-4, "updates": 2, "micro_tokens": 16384},
                "evaluation": {"problems": 500},
                "stop": {"steps": a.steps},
            }
            run = trained(name, seed, model, given, a.to)
            waited = sum(not row["critic/policy_learns"] for row in run.metrics())
            result = run.result()
            assert result is not None
            ends[name].append(result.after.sampled.mean)
            print(f"seed {seed} {name:7} {shown(run)}, values alone {waited} steps", flush=True)
    for name, accuracies in ends.items():
        print(f"{name:7} {statistics.mean(accuracies):.1%} after {a.steps} steps; bound 90%")


def explained(a: argparse.Namespace) -> None:
    """Explained variance while values alone are learned."""
    ends = []
    for seed in range(a.seeds):
        given = {
            "env": SUMS,
            "algorithm": {
                "type": "ppo",
                "lambda_critic": 1.0,
                "critic": {"place": "separate", "rate": 4.0, "gate": 0.99, "pretrain": a.steps + 1},
            },
            "rollout": {"problems": 256, "group": 2, "max_tokens": 5, "rows": 512},
            "learner": {"lr": 1e-4, "updates": 4, "micro_tokens": 8192},
            "evaluation": {"problems": 200},
            "stop": {"steps": a.steps},
        }
        run = trained("explained", seed, imitated(SUMS, 5, a, seed), given, a.to)
        seen = [row["critic/explained_variance"] for row in run.metrics()]
        ends.append(statistics.mean(seen[-5:]))
        every = " ".join(f"{value:.2f}" for value in seen[:: max(1, len(seen) // 10)])
        print(f"seed {seed} mean of the last five steps {ends[-1]:.3f}; on the way {every}")
    print(f"explained variance {statistics.mean(ends):.3f}; bound {GATE}")


def logged(path: Path, seed: int) -> None:
    """Answers of which a share ``RIGHT`` is right, as JSON lines with what they earned."""
    env = Arithmetic(reverse=True)
    with path.open("w", encoding="utf-8") as file:
        for problem in env.problems("train"):
            slip = str(problem.info["slip"])
            if slip == problem.solution:
                continue  # without a carry the wrong rule is right
            right = random.Random(seed_of(seed, "logged", problem.id)).random() < RIGHT
            reply = problem.solution if right else slip
            row = {"prompt": problem.prompt, "reply": reply, "reward": float(right)}
            file.write(json.dumps(row) + "\n")


def offline(a: argparse.Namespace) -> None:
    """Behaviour cloning, IQL and ILQL from the same answers."""
    ends: dict[str, list[float]] = {"sft": [], "iql": [], "ilql": []}
    for seed in range(a.seeds):
        path = a.to / f"logs-{seed}.jsonl"
        logged(path, seed)
        for name, accuracies in ends.items():
            given = {
                "env": {"type": "arithmetic", "reverse": True},
                "algorithm": {"type": name},
                "source": {"type": "recorded", "path": str(path)},
                "rollout": {"problems": 128, "max_tokens": 5, "rows": 512},
                "learner": {"lr": 1e-3, "micro_tokens": 8192},
                "evaluation": {"problems": 1000},
                "stop": {"steps": a.steps},
            }
            run = trained(name, seed, f"ladder:{a.size}", given, a.to)
            result = run.result()
            assert result is not None
            accuracies.append(result.after.sampled.mean)
            print(f"seed {seed} {name:5} {shown(run)}", flush=True)
    cloned = statistics.mean(ends["sft"])
    for name, accuracies in ends.items():
        mean = statistics.mean(accuracies)
        print(f"{name:5} {mean:.1%}, {100 * (mean - cloned):+.1f} points of cloning; bound +10")


def main() -> None:
    """Print one of the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    figures = {"chain": (chain, 300), "explained": (explained, 300), "offline": (offline, 800)}
    parser.add_argument("figure", choices=[*figures])
    parser.add_argument("--steps", type=int, default=0, help="of each arm")
    parser.add_argument("--imitation", type=int, default=600, help="steps before these")
    parser.add_argument("--size", default="0.3m", help="of the ladder model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--to", type=Path, default=Path("runs/critics"), help="where runs are kept")
    a = parser.parse_args()
    measure, steps = figures[a.figure]
    a.steps = a.steps or steps
    a.to.mkdir(parents=True, exist_ok=True)
    measure(a)


if __name__ == "__main__":
    main()
