"""A stage's evaluations: played, charged, written down and shown; the best weights kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upslope.checkpoints import load_weights, save_weights
from upslope.evaluate import Both, Evaluation, by_env, evaluate, summary
from upslope.ledger import Ledger
from upslope.measures import played
from upslope.models.policy import Policy
from upslope.recipe import Stage
from upslope.result import Accuracy, Estimate
from upslope.rollout import Player
from upslope.runs import Run
from upslope.trajectories import trajectory_row
from upslope.types import Metrics, Problem, Split, Watch


@dataclass(frozen=True)
class Assessment:
    """Of one stage. ``problems``: its held-out problems by split.

    With ``evaluation.select`` the loop is measured on validation, and the weights that did best
    there are kept and at last put back; the test split is asked once before and once after.
    """

    stage: Stage
    problems: Mapping[Split, Sequence[Problem]]
    player: Player
    policy: Policy
    ledger: Ledger
    run: Run
    watches: Sequence[Watch]
    seed: int

    async def measure(self, step: int) -> Accuracy:
        """The loop's evaluation."""
        settings = self.stage.evaluation
        both, accuracy = await self._play("validation" if settings.select else settings.split)
        metrics: Metrics = {**accuracy.metrics(), **details(both), **self.ledger.row()}
        self.run.log_evaluation(step, self.stage.name, metrics)
        self._log(step, "evaluation", both)
        for watch in self.watches:
            watch.see(self.stage.name, step, (), metrics)
        if settings.select and accuracy.sampled.mean > self._best()[1]:
            self._keep(step, accuracy.sampled.mean)
        return accuracy

    async def test(self, step: int) -> Accuracy:
        """On the test split, which the choice of weights never sees."""
        both, accuracy = await self._play("test")
        self.run.log_test(step, self.stage.name, {**accuracy.metrics(), **self.ledger.row()})
        self._log(step, "test", both)
        return accuracy

    def choose(self) -> int:
        """Put the best weights back into the policy; the step that made them."""
        load_weights(self.policy, self.run.best(self.stage.name) / "weights.pt")
        return self._best()[0]

    async def _play(self, split: Split) -> tuple[Both, Accuracy]:
        with self.ledger.time("evaluation"):
            both = await evaluate(
                self.player, self.problems[split], self.stage.evaluation.samples, self.seed
            )
        used = both.usage
        flops, tokens = used.prefill_flops + used.decode_flops, used.computed + used.decoded
        self.ledger.add("evaluation", flops, tokens)
        return both, Accuracy(sampled=estimate(both.sampled), greedy=estimate(both.greedy))

    def _log(self, step: int, kind: str, both: Both) -> None:
        name = f"{self.stage.name}/{kind}"
        self.run.log_trajectories([trajectory_row(step, name, t) for t in played(both.groups)])

    def _best(self) -> tuple[int, float]:
        """The step whose weights are kept, and their accuracy on validation."""
        path = self.run.best(self.stage.name) / "accuracy.json"
        if not path.is_file():
            return -1, float("-inf")
        kept = json.loads(path.read_text(encoding="utf-8"))
        return int(kept["step"]), float(kept["mean"])

    def _keep(self, step: int, mean: float) -> None:
        def write(folder: Path) -> None:
            save_weights(self.policy, folder / "weights.pt")
            kept = json.dumps({"step": step, "mean": mean})
            (folder / "accuracy.json").write_text(kept, encoding="utf-8")

        self.run.save_best(self.stage.name, step, write)


def estimate(evaluation: Evaluation) -> Estimate:
    """An evaluation as ``result.json`` keeps it."""
    return Estimate(
        mean=evaluation.mean,
        low=evaluation.low,
        high=evaluation.high,
        problems=evaluation.problems,
    )


def details(both: Both) -> Metrics:
    """What else an evaluation saw, of its sampled answers."""
    seen = both.sampled
    return {
        "evaluation/sampled/length": seen.length,
        "evaluation/sampled/reward": seen.reward,
        "evaluation/sampled/truncated_share": seen.truncated,
        "evaluation/sampled/invalid": float(seen.invalid),
        **{f"evaluation/sampled/{name}_at_k": found.mean for name, found in both.at_k.items()},
        **of_envs(both),
    }


def of_envs(both: Both) -> Metrics:
    """Accuracy in each of several envs; nothing where there is one."""
    metrics: Metrics = {}
    for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        # A play in which nobody asked the policy has no turn, and says nothing of an env.
        first = [next((t.turns[0] for t in g.trajectories if t.turns), None) for g in both.groups]
        pairs = zip(both.groups, first, strict=True)
        played = [g for g, turn in pairs if turn and turn.temperature == temperature]
        for env, groups in by_env(played).items():
            for key, value in estimate(summary(groups, temperature)).model_dump().items():
                metrics[f"evaluation/env/{env}/{name}/{key}"] = float(value)
    return metrics
