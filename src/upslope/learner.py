"""Holds the policy and its optimiser; turns a batch into one update. Knows no algorithm by name.

It fills the columns an algorithm needs, computes what its loss reads, and sums ``loss * weights``.
Weights are set over the whole update, so that no split into micro-batches changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from upslope import importance, losses
from upslope.batch import Algorithm, Batch, Column, Outputs, with_old
from upslope.models.fused import fill
from upslope.models.logprobs import Work, prepare, token_logprobs
from upslope.models.lora import shared_copy
from upslope.models.policy import Policy
from upslope.settings import Learner as LearnerSettings
from upslope.settings import Rollout
from upslope.steps import Spikes, learning_rate
from upslope.types import Metrics, UserError

Phase = Literal["update", "reference"]
Spend = Callable[[Phase, float, int], None]


class Learner:
    """``spend(phase, flops, tokens)`` is told of every pass; ``reference`` serves a KL penalty.

    ``total``: updates up to the end of the learning rate's schedule; 0 is without an end.
    """

    def __init__(
        self,
        policy: Policy,
        settings: LearnerSettings,
        spend: Spend,
        reference: Policy | None = None,
        total: int = 0,
    ) -> None:
        self.policy, self.settings, self.spend = policy, settings, spend
        self.reference, self.total = reference, total
        for each in (policy, reference):
            if each is not None:
                prepare(each)
        policy.model.train()  # the loader turned dropout off; this enables checkpointing hooks only
        policy.checkpoint_layers(settings.checkpointing)
        self.optimiser = torch.optim.AdamW(
            [parameter for _, parameter in policy.trained()],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.done = self.bad = 0
        self.spikes = Spikes(settings.spike)

    def fill(self, batch: Batch, columns: Iterable[Column]) -> Batch:
        """The batch with these columns, computed without gradient before its first update."""
        for column in columns:
            if column == "greedy":
                continue  # came with the groups
            if column == "ref_logprobs" and self.reference is None:
                raise ValueError("this learner was made without a reference policy")
            if column == "ref_logprobs" and self.reference is not None:
                values = self._scored(self.reference, batch, "reference")
                batch = replace(batch, ref_logprobs=values)
            elif column == "entropy":
                values = self._scored(self.policy, batch, "update", entropy=True)
                batch = replace(batch, entropy=values)
            else:
                batch = replace(batch, old_logprobs=self._scored(self.policy, batch, "update"))
        return batch

    def _scored(
        self, policy: Policy, batch: Batch, phase: Phase, *, entropy: bool = False
    ) -> Tensor:
        """Log-probabilities, or the entropy of what tokens were drawn from, [row token]."""
        values = torch.zeros(batch.tokens.shape)
        for rows in batch.micro(self.settings.micro_tokens, "row"):
            part = batch.rows(rows)
            with torch.no_grad():
                logprobs, spread, work = _forward(policy, part, entropy)
            found = logprobs if spread is None else spread
            values[rows[:, None], torch.arange(found.shape[1])] = found.cpu()
            self.spend(phase, work.forward, int(part.length.sum()))
        return values

    def update(
        self, batch: Batch, algorithm: Algorithm, correction: Rollout | None = None
    ) -> Metrics:
        """Exactly one optimiser step; ``correction`` weighs tokens by old / engine as it says.

        A non-finite loss or gradient skips the step; past ``bad_steps`` in a row: UserError.
        """
        tally = self.accumulate(batch, algorithm, self.settings.micro_tokens, correction)
        return {**tally.metrics(), **self._step(tally)}

    def accumulate(
        self,
        batch: Batch,
        algorithm: Algorithm,
        budget: int,
        correction: Rollout | None = None,
    ) -> Tally:
        """Add the update's gradient to the parameters', in micro-batches of ``budget`` tokens.

        Where ``old_logprobs`` are not there, they are the values of this very pass, detached.
        """
        tally = Tally()
        batch = replace(batch, weights=algorithm.weights(batch))
        rows, couples = live_rows(batch, algorithm), algorithm.couples
        old = batch.old_logprobs
        if correction is not None and old is not None and correction.importance != "opsm":
            batch, correction = corrected(batch, correction, tally, old), None
        if correction is not None and importance.spans(correction):
            # A sequence's ratio is over all of its rows, also those without an advantage.
            rows = torch.isin(batch.trajectory, batch.trajectory[rows]).nonzero()[:, 0]
            couples = "trajectory" if couples == "row" else couples
        live = batch.rows(rows)
        for rows in live.micro(budget, couples):
            self._accumulate(live.rows(rows), algorithm, tally, correction)
        if not len(live):
            # Drift is looked at in every step, also where nothing is to be learned.
            with torch.no_grad():
                self._score(batch.rows(torch.arange(1)), algorithm, tally, correction)
        tally.live = int(live.trained.sum()) / max(int(batch.trained.sum()), 1)
        return tally

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights, by Hugging Face name (``types.WeightSource``)."""
        return self.policy.tensors()

    def state(self) -> Mapping[str, Any]:
        """The optimiser and counters, for a checkpoint; the weights are saved beside it, but those
        of an adapter are here, and so is what it was when the stage began."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "bad": self.bad,
            "norms": list(self.spikes.norms),
            "adapter": self.policy.adapter(),
            "reference": self.reference.adapter() if self.reference else {},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.bad = int(state["done"]), int(state["bad"])
        self.spikes = Spikes(self.settings.spike, state["norms"])
        fill(self.policy.adapter(), state["adapter"].items())
        if self.reference:
            fill(self.reference.adapter(), state["reference"].items())

    def _score(
        self, part: Batch, algorithm: Algorithm, tally: Tally, correction: Rollout | None
    ) -> tuple[Outputs, Batch, Work]:
        logprobs, entropy, work = _forward(self.policy, part, "entropy" in algorithm.reads)
        part = with_old(part.to(logprobs.device), logprobs)
        tally.drift(logprobs.detach(), part)
        self.spend("update", work.forward, int(part.length.sum()))
        if correction is not None:
            part = corrected(part, correction, tally, logprobs.detach())
        return Outputs(logprobs, entropy), part, work

    def _accumulate(
        self, part: Batch, algorithm: Algorithm, tally: Tally, correction: Rollout | None
    ) -> None:
        out, part, work = self._score(part, algorithm, tally, correction)
        per_token, metrics = algorithm.loss(out, part)
        assert part.weights is not None
        counts = part.trained & (part.weights != 0)
        # where, not times: what a loss says off the trained tokens may be infinite.
        loss = torch.where(counts, per_token * part.weights, 0.0).sum()
        loss.backward()
        self.spend("update", work.backward, 0)
        tally.loss(loss.detach(), metrics, part.trained)

    def _step(self, tally: Tally) -> Metrics:
        """Clip and step, unless something is not finite or the gradient is a spike."""
        parameters = [parameter for _, parameter in self.policy.trained()]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf))
        finite = math.isfinite(norm) and math.isfinite(tally.total)
        spike = finite and self.spikes.seen(norm)
        rate = learning_rate(self.settings, self.done, self.total)
        if finite and not spike:
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.step()
            self.done += 1
        self.bad = 0 if finite else self.bad + 1
        self.optimiser.zero_grad()
        if self.bad > self.settings.bad_steps:
            raise UserError(
                f"loss or gradient not finite in {self.bad} updates in a row: lower learner.lr, "
                "or look at the rewards and log-probabilities of the last steps"
            )
        return {
            "update/grad_norm": norm,
            "update/skipped": float(self.bad),
            "update/spikes": float(spike),
            "update/lr": rate,
        }


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


def corrected(batch: Batch, settings: Rollout, tally: Tally, now: Tensor) -> Batch:
    """The batch with weights times ``now`` / engine, bounded as the settings say.

    Means stay over all tokens: a masked one counts as 0 and not as absent.
    """
    assert batch.weights is not None
    weights, outside = importance.weights(batch, now, settings)
    tally.importance(weights[batch.trained], outside[batch.trained])
    return replace(batch, weights=batch.weights * weights)


def live_rows(batch: Batch, algorithm: Algorithm) -> Tensor:
    """Indices of rows that can have a gradient."""
    assert batch.weights is not None
    counts = (batch.trained & (batch.weights != 0)).any(1)
    if "silent_without_advantage" in algorithm.claims:
        assert batch.advantages is not None
        counts = counts & (batch.advantages != 0).any(1)
    return counts.nonzero()[:, 0]


def frozen_copy(policy: Policy) -> Policy:
    """A copy that is never trained, as a reference; it shares what is frozen beside an adapter."""
    copied = replace(policy, model=shared_copy(policy.model))
    copied.model.requires_grad_(False)
    return copied


def _forward(policy: Policy, part: Batch, entropy: bool) -> tuple[Tensor, Tensor | None, Work]:
    return token_logprobs(
        policy,
        part.tokens,
        part.length,
        part.trained,
        part.temperature,
        entropy=entropy,
    )
