"""Holds the policy and its optimiser; turns a batch into one update. Knows no algorithm by name.

It fills the columns an algorithm needs, computes what its loss reads, and sums ``loss * weights``.
Weights are set over the whole update, so that no split into micro-batches changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from upslope import importance
from upslope.batch import Algorithm, Batch, Column, Outputs, with_old
from upslope.models.estimator import estimator_of
from upslope.models.fused import fill
from upslope.models.logprobs import head_logprobs, prepare
from upslope.models.lora import shared_copy
from upslope.models.policy import Policy
from upslope.models.trunk import Work, predicting
from upslope.optional import Critical
from upslope.settings import Learner as LearnerSettings
from upslope.settings import Rollout
from upslope.steps import Spikes, learning_rate
from upslope.tally import Tally
from upslope.types import Metrics, UserError

Phase = Literal["update", "reference"]
Spend = Callable[[Phase, float, int], None]


class Learner:
    """``spend(phase, flops, tokens)`` is told of every pass; ``reference`` serves a KL penalty,
    ``teacher``, which may be set, fills ``teacher_logprobs``.

    ``total``: updates up to the end of the learning rate's schedule; 0 is without an end.
    ``algorithm``: of which the critic is held here, where it has one.
    """

    def __init__(
        self,
        policy: Policy,
        settings: LearnerSettings,
        spend: Spend,
        reference: Policy | None = None,
        total: int = 0,
        algorithm: Algorithm | None = None,
    ) -> None:
        self.policy, self.settings, self.spend = policy, settings, spend
        self.reference, self.total = reference, total
        self.teacher: Policy | None = None
        for each in (policy, reference):
            if each is not None:
                prepare(each)
        policy.model.train()  # the loader turned dropout off; this enables checkpointing hooks only
        policy.checkpoint_layers(settings.checkpointing)
        policy.tilt = None  # of another learner's critic
        self.critic = estimator_of(policy, algorithm) if algorithm else None
        self.parameters = [[parameter for _, parameter in policy.trained()]]
        self.rates = [1.0]  # in those of the policy's
        if self.critic is not None:
            self.parameters.append([*self.critic.weights().values()])
            self.rates.append(self.critic.critic.rate)
        self.optimiser = torch.optim.AdamW(
            [{"params": own} for own in self.parameters],
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
        wanted = set(columns)
        if "ref_logprobs" in wanted:
            if self.reference is None:
                raise ValueError("this learner was made without a reference policy")
            batch = replace(batch, ref_logprobs=self._by(self.reference, batch))
        if "teacher_logprobs" in wanted:
            if self.teacher is None:
                raise ValueError("this learner was made without a teacher")
            batch = replace(batch, teacher_logprobs=self._by(self.teacher, batch))
        own = wanted - {"ref_logprobs", "teacher_logprobs", "greedy"}  # greedy came with the groups
        return replace(batch, **self._filled(batch, self.policy, own, "update")) if own else batch

    def _by(self, other: Policy, batch: Batch) -> Tensor:
        """Log-probabilities of a policy that is not trained."""
        scored: Tensor = self._filled(batch, other, {"old_logprobs"}, "reference")["old_logprobs"]
        return scored

    @torch.no_grad()
    def _filled(
        self, batch: Batch, policy: Policy, columns: AbstractSet[Column], phase: Phase
    ) -> dict[str, Any]:
        """Columns of one pass through a policy's trunk, and of the critic's."""
        filled: dict[str, Any] = {name: torch.zeros(batch.tokens.shape) for name in columns}
        said, spread = columns & {"old_logprobs", "entropy"}, "entropy" in columns
        judged = columns - said
        for rows in batch.micro(self.settings.micro_tokens, "row"):
            part, seen, work = batch.rows(rows), None, Work(0.0, 0.0)
            found: dict[str, Tensor] = {}
            if said or not self._apart:
                seen = predicting(policy, part.tokens, part.length, part.trained)
                work += seen.work
            if seen is not None and said:
                own, spent = head_logprobs(policy, seen, part.tokens, part.temperature, spread)
                pair = {"old_logprobs": own[0], "entropy": own[1]}
                found, work = {name: pair[name] for name in said}, work + spent
            if judged:
                if self.critic is None:
                    raise ValueError(f"this learner was made without a critic for {sorted(judged)}")
                more, spent = self.critic.stored(part, seen, judged)
                found, work = {**found, **more}, work + spent
            for name, column in found.items():
                filled[name][rows[:, None], torch.arange(column.shape[1])] = column.cpu()
            self.spend(phase, work.forward, int(part.length.sum()))
        return filled

    @property
    def _apart(self) -> bool:
        return self.critic is not None and self.critic.separate

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

    def settle(self) -> None:
        """End its stage: what was sampled from is the policy; the next critic may begin here."""
        self.policy.settle()
        self.policy.judged = self.critic.handed() if self.critic else {}

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
            "critic": self.critic.state() if self.critic else {},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.bad = int(state["done"]), int(state["bad"])
        self.spikes = Spikes(self.settings.spike, state["norms"])
        fill(self.policy.adapter(), state["adapter"].items())
        if self.reference:
            fill(self.reference.adapter(), state["reference"].items())
        if self.critic:
            self.critic.load_state(state["critic"])

    def _score(
        self, part: Batch, algorithm: Algorithm, tally: Tally, correction: Rollout | None
    ) -> tuple[Outputs, Batch, Work]:
        spread = "entropy" in algorithm.reads
        learns = not isinstance(algorithm, Critical) or algorithm.learns(part.state)
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            seen = predicting(self.policy, part.tokens, part.length, part.trained)
            own, head = head_logprobs(self.policy, seen, part.tokens, part.temperature, spread)
        work = seen.work + head if learns else replace(seen.work + head, backward=0.0)
        out = Outputs(own[0], own[1] if spread else None)
        if self.critic is not None:
            out, more = self.critic.outputs(out, part, seen)
            work += more
        part = with_old(part.to(out.logprobs.device), out.logprobs)
        tally.drift(out.logprobs.detach(), part)
        self.spend("update", work.forward, int(part.length.sum()))
        if correction is not None:
            part = corrected(part, correction, tally, out.logprobs.detach())
        return out, part, work

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
        most = self.settings.clip or math.inf
        if self.critic is not None:
            self.critic.pull()
        norms = [float(torch.nn.utils.clip_grad_norm_(own, most)) for own in self.parameters]
        norm = norms[0]
        finite = all(map(math.isfinite, norms)) and math.isfinite(tally.total)
        spike = finite and self.spikes.seen(norm)
        rate = learning_rate(self.settings, self.done, self.total)
        if finite and not spike:
            for group, times in zip(self.optimiser.param_groups, self.rates, strict=True):
                group["lr"] = times * rate
            self.optimiser.step()
            self.done += 1
            if self.critic is not None:
                self.critic.follow()
        self.bad = 0 if finite else self.bad + 1
        self.optimiser.zero_grad()
        if self.bad > self.settings.bad_steps:
            raise UserError(
                f"loss or gradient not finite in {self.bad} updates in a row: lower learner.lr, "
                "or look at the rewards and log-probabilities of the last steps"
            )
        own = {"critic/grad_norm": norms[1]} if self.critic else {}
        return {
            **own,
            "update/grad_norm": norm,
            "update/skipped": float(self.bad),
            "update/spikes": float(spike),
            "update/lr": rate,
        }


def corrected(batch: Batch, settings: Rollout, tally: Tally, now: Tensor) -> Batch:
    """The batch with weights times ``now`` / engine, bounded as the settings say.

    Means stay over all tokens: a masked one counts as 0 and not as absent.
    """
    assert batch.weights is not None
    weights, outside = importance.weights(batch, now, settings)
    tally.importance(weights[batch.trained], outside[batch.trained])
    return replace(batch, weights=batch.weights * weights)


def live_rows(batch: Batch, algorithm: Algorithm) -> Tensor:
    """Indices of rows that can have a gradient, and of those that such a row's loss looks at."""
    assert batch.weights is not None
    play = torch.arange(len(batch)) if algorithm.couples == "row" else batch.trajectory
    unit = batch.group if algorithm.couples == "group" else play  # whose loss may be at one token
    counts = torch.isin(unit, unit[(batch.trained & (batch.weights != 0)).any(1)])
    if "silent_without_advantage" in algorithm.claims:
        assert batch.advantages is not None
        learns = (batch.advantages != 0).any(1)  # a ratio may be over all of its trajectory
        counts = counts & torch.isin(play, play[learns])
    return (counts & batch.trained.any(1)).nonzero()[:, 0]


def frozen_copy(policy: Policy) -> Policy:
    """A copy that is never trained, as a reference; it shares what is frozen beside an adapter."""
    copied = replace(policy, model=shared_copy(policy.model))
    copied.model.requires_grad_(False)
    return copied
