"""Constraints on a problem whose optimum is known: five answers, each with a reward and a cost.

    python benchmarks/constraints.py
    python benchmarks/constraints.py --seeds 3 --steps 800

The policy is a table, trained by ``constrained`` around RLOO with an entropy bonus, so that there
is one best policy under a budget, which is found by trying every multiplier on a fine grid. Each
rule of the multiplier is printed with the mean cost and multiplier of the last quarter of steps,
how far they are from the best, and the overshoot: the highest cost less the budget. Costs are the
policy's exact ones. Exit status 1 where a mean cost is past 2% of the budget, a multiplier past 2%
of the best one, or the overshoot of PID past half of plain Lagrange's.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor

from upslope.algorithms.constrained import Constrained
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch, Outputs
from upslope.constraints import Constraint
from upslope.losses import Entropy

REWARDS = torch.tensor([0.0, 0.5, 0.8, 0.95, 1.0])
COSTS = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
BUDGET, BONUS, LR, SAMPLES = 1.5, 0.05, 1.0, 256
RULES = {
    "lagrange": Constraint(BUDGET, "lagrange", rate=0.02),
    "log": Constraint(BUDGET, "log", rate=0.2, start=0.05),
    "pid": Constraint(BUDGET, "pid", rate=0.02, proportional=0.5, derivative=2.0),
}


@dataclass(frozen=True)
class Seen:
    """A training: the policy's exact mean cost and the multiplier, by step."""

    costs: list[float]
    multipliers: list[float]

    @property
    def cost(self) -> float:
        """Of the last quarter of steps."""
        return mean(self.costs[-len(self.costs) // 4 :])

    @property
    def multiplier(self) -> float:
        """The same."""
        return mean(self.multipliers[-len(self.multipliers) // 4 :])

    @property
    def overshoot(self) -> float:
        """The highest cost less the budget."""
        return max(self.costs) - BUDGET


def best() -> tuple[float, float]:
    """The multiplier whose best policy costs the budget, and that policy's reward.

    That policy is softmax((reward - multiplier * cost) / (bonus * (1 + multiplier))): advantages
    are divided by 1 + multiplier, and the bonus is not.
    """
    tried = torch.linspace(0, 2, 200_001, dtype=torch.float64)[:, None]
    worth = REWARDS.double() - tried * COSTS.double()
    policies = (worth / (BONUS * (1 + tried))).softmax(1)
    nearest = ((policies @ COSTS.double()) - BUDGET).abs().argmin()
    return float(tried[nearest]), float(policies[nearest] @ REWARDS.double())


def trained(limit: Constraint, seed: int, steps: int) -> Seen:
    """Train the table, from a policy that costs little."""
    algorithm = Constrained({"price": limit}, RLOO(entropy=Entropy(BONUS)))
    table = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0], requires_grad=True)
    draw, state = torch.Generator().manual_seed(seed), algorithm.start()
    seen = Seen([], [])
    for _ in range(steps):
        chances = table.detach().softmax(0)
        seen.costs.append(float(chances @ COSTS))
        # Each answer as often as its chance says, to within one: budgets hold means, not luck.
        places = (torch.arange(SAMPLES) + torch.rand(1, generator=draw)) / SAMPLES
        said = torch.searchsorted(chances.cumsum(0), places).clamp(max=len(chances) - 1)
        batch = replace(answers(said), state=state)
        batch = replace(batch, advantages=algorithm.advantages(batch))
        metrics = algorithm.report(batch)
        seen.multipliers.append(metrics["constraint/price/multiplier"])
        step(algorithm, batch, table, said)
        state = algorithm.advance(state, metrics)
    return seen


def step(algorithm: Constrained, batch: Batch, table: Tensor, said: Tensor) -> None:
    """One update by plain gradient descent."""
    logs = table.log_softmax(0)
    spread = -(logs.exp() * logs).sum()
    column = torch.nn.functional.pad(logs[said][:, None], (1, 0))
    batch, weights = replace(batch, old_logprobs=column.detach()), algorithm.weights(batch)
    loss, _ = algorithm.loss(Outputs(column, spread.expand_as(column)), batch)
    (grad,) = torch.autograd.grad((loss * weights * batch.trained).sum(), table)
    table.data -= LR * grad


def answers(said: Tensor) -> Batch:
    """One group: a prompt of one token, then the answer."""
    n = len(said)
    trained = torch.tensor([[False, True]]).expand(n, 2)
    zeros, ids = torch.zeros(n, 2), torch.arange(n)
    return Batch(
        tokens=torch.stack([torch.zeros_like(said), said], 1),
        trained=trained,
        engine_logprobs=zeros,
        versions=torch.zeros(n, 2, dtype=torch.int64),
        temperature=zeros + 1,
        length=torch.full((n,), 2),
        trajectory=ids,
        group=torch.zeros_like(ids),
        segment=torch.zeros_like(ids),
        reward=REWARDS[said],
        valid=torch.ones(n, dtype=torch.bool),
        truncated=torch.zeros(n, dtype=torch.bool),
        turn=torch.where(trained, 0, -1),
        costs={"price": COSTS[said]},
    )


def main() -> None:
    """Train with each rule and compare with the best."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    given = parser.parse_args()
    torch.set_num_threads(1)
    price, reward = best()
    print(f"budget {BUDGET}, best multiplier {price:.4f}, reward there {reward:.4f}")
    over, failed = dict[str, float](), False
    for name, limit in RULES.items():
        runs = [trained(limit, seed, given.steps) for seed in range(given.seeds)]
        costs, prices = [r.cost for r in runs], [r.multiplier for r in runs]
        off = max(abs(cost - BUDGET) / BUDGET for cost in costs)
        wrong = max(abs(found - price) / price for found in prices)
        over[name] = max(r.overshoot for r in runs)
        failed |= off > 0.02 or wrong > 0.02
        print(
            f"{name:9} cost {mean(costs):.4f} ({off:.2%} off at most), multiplier "
            f"{mean(prices):.4f} ({wrong:.2%} off at most), overshoot {over[name]:.3f} at most"
        )
    ratio = over["pid"] / over["lagrange"]
    print(f"the overshoot of pid is {ratio:.2f} of plain Lagrange's")
    sys.exit(int(failed or ratio > 0.5))


if __name__ == "__main__":
    main()
