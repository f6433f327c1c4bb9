"""What the micro-batches of an update add up to: its loss, and the means in a step's row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from upslope import losses
from upslope.batch import Batch
from upslope.types import Metrics


class Tally:
    """Sums over the micro-batches of one update."""

    def __init__(self) -> None:
        self.total = self.live = 0.0
        self.sums: dict[str, tuple[float, int]] = {}
        self.worst: dict[str, float] = {}
        self.weights: list[Tensor] = []

    def drift(self, logprobs: Tensor, part: Batch) -> None:
        """Engine against learner, and learner now against old, on trained tokens."""
        assert part.old_logprobs is not None
        trained = part.trained
        apart = (logprobs - part.engine_logprobs)[trained].abs()
        rho = losses.ratio(logprobs, part.old_logprobs)[trained]
        self.add("policy/surprise", -logprobs[trained])
        self.add("ratio/mean", rho)
        self.add("drift/mean", apart[~apart.isnan()])  # recorded tokens: no engine said anything
        for name, values in (("drift/max", apart[~apart.isnan()]), ("ratio/max", rho)):
            if len(values):
                self.worst[name] = max(self.worst.get(name, 0.0), float(values.max()))

    def importance(self, weights: Tensor, outside: Tensor) -> None:
        """What trained tokens are weighed by, and which were outside the bounds."""
        self.add("importance/mean", weights)
        self.add("importance/outside_share", outside.float())
        self.weights.append(weights.cpu())

    def loss(self, loss: Tensor, metrics: Mapping[str, Tensor], trained: Tensor) -> None:
        """One micro-batch's loss and its algorithm's per-token metrics."""
        self.total += float(loss)
        for name, value in metrics.items():
            self.add(name, value[trained])

    def add(self, name: str, values: Tensor) -> None:
        """Values to be averaged over all micro-batches."""
        total, count = self.sums.get(name, (0.0, 0))
        if len(values):
            self.sums[name] = total + float(values.sum()), count + len(values)

    def metrics(self) -> Metrics:
        """Means over the tokens seen."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        totals = {"update/loss": self.total, "update/live_share": self.live}
        if self.weights:
            share = losses.effective_share(torch.cat(self.weights))
            totals["importance/effective_share"] = float(share)
        return {**totals, **means, **self.worst}
