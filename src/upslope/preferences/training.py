"""Trains a reward model on what there is to learn from, until held-out loss stops falling.

One AdamW, deterministic by seed; weights that were best on held-out data are kept. It knows no
kind of data: a ``Lesson`` says its rows and its loss.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from upslope.ledger import Ledger
from upslope.models.reward_model import RewardModel, padded, whitened
from upslope.preferences.calibration import fitted_temperature
from upslope.preferences.learned import Compared, Lesson
from upslope.seeds import seed_of
from upslope.settings import Amount, Count, Decay, Learner, Number, Positive, Settings
from upslope.steps import learning_rate
from upslope.types import Metrics, UserError

Say = Callable[[str], None]
BAD = 3  # updates in a row that are not finite before it stops
COLDEST = 0.5  # a temperature that few pairs, all told apart, may seem to ask for
WHITE = 2048  # replies that say the scale of scores, at most


class Training(Settings):
    """How a reward model is trained."""

    lr: Annotated[Positive, "learning rate of AdamW"] = 1e-5
    warmup: Annotated[Number, "updates over which the learning rate rises to lr"] = 0
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], "how it falls after that, up to the last epoch"
    ] = "linear"
    floor: Annotated[
        float, Field(gt=0, le=1), "part of lr that a falling learning rate ends at"
    ] = 0.1
    beta1: Annotated[Decay, "AdamW's decay of the mean gradient"] = 0.9
    beta2: Annotated[Decay, "AdamW's decay of the mean squared gradient"] = 0.95
    eps: Annotated[Positive, "AdamW's floor under the root mean squared gradient"] = 1e-8
    weight_decay: Annotated[Amount, "AdamW's decoupled weight decay"] = 0.01
    clip: Annotated[Amount, "largest gradient norm; 0 leaves it as it is"] = 1.0
    epochs: Annotated[Count, "passes over the data, at most"] = 3
    batch: Annotated[Count, "pairs (or replies, or solutions) of an update"] = 64
    every: Annotated[Number, "updates between looks at held-out loss; 0 is twice an epoch"] = 0
    patience: Annotated[Number, "looks without a lower loss before it stops; 0 never does"] = 3
    micro_tokens: Annotated[Count, "tokens in a micro-batch"] = 8192

    @property
    def schedules(self) -> Learner:
        """As ``steps.learning_rate`` reads it."""
        return Learner(lr=self.lr, warmup=self.warmup, schedule=self.schedule, floor=self.floor)


@dataclass(frozen=True)
class Trained:
    """A model with its best weights, whitened; a row of metrics for each update; the update whose
    weights they are, and the held-out loss there."""

    model: RewardModel
    rows: list[Metrics]
    best: int
    loss: float


class Fit:
    """One model being trained; ``spend`` of every pass is told to the ledger."""

    def __init__(self, model: RewardModel, settings: Training, total: int, ledger: Ledger) -> None:
        self.model, self.settings, self.total, self.ledger = model, settings, total, ledger
        self.own = model.parameters()
        self.optimiser = torch.optim.AdamW(
            self.own.values(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.done = self.bad = 0
        self.best, self.least, self.waited = 0, math.inf, 0
        self.kept: dict[str, Tensor] = {}

    def update(self, lesson: Lesson, chosen: Sequence[int]) -> Metrics:
        """One optimiser step on these; a loss or gradient that is not finite skips it."""
        with self.ledger.time("update"):
            total = self.gradient(lesson, chosen)
            most = self.settings.clip or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self.own.values(), most))
            finite = math.isfinite(total) and math.isfinite(norm)
            rate = learning_rate(self.settings.schedules, self.done, self.total)
            if finite:
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                self.optimiser.step()
            self.optimiser.zero_grad()
        self.done += 1
        self.bad = 0 if finite else self.bad + 1
        if self.bad > BAD:
            raise UserError(
                f"the reward model's loss or gradient is not finite in {self.bad} updates in a row:"
                " lower training.lr, or look at the margins and ratings it learns from"
            )
        seen = {"loss": total, "grad_norm": norm, "lr": rate, "skipped": float(self.bad)}
        return {f"reward_model/{name}": value for name, value in seen.items()}

    def gradient(self, lesson: Lesson, chosen: Sequence[int]) -> float:
        """Add the gradient of the mean loss over these to the parameters'; that loss."""
        total = 0.0
        for part in _micro(lesson, chosen, self.settings.micro_tokens):
            loss = self._losses(lesson, part, "update").sum() / len(chosen)
            loss.backward()
            total += float(loss.detach())
        return total

    def look(self, held: Lesson) -> float:
        """The mean held-out loss; keeps the weights where it is the least so far."""
        with self.ledger.time("evaluation"), torch.no_grad():
            parts = _micro(held, range(len(held)), self.settings.micro_tokens)
            each = torch.cat([self._losses(held, part, "evaluation") for part in parts])
            loss = float(each.mean())
        self.waited += 1
        if loss < self.least or not self.kept:
            self.best, self.least, self.waited = self.done, loss, 0
            self.kept = {name: p.detach().clone() for name, p in self.own.items()}
        return loss

    @torch.no_grad()
    def restore(self) -> None:
        """Back to the weights that were best."""
        for name, parameter in self.own.items():
            parameter.copy_(self.kept[name])

    def _losses(
        self, lesson: Lesson, part: Sequence[int], phase: Literal["update", "evaluation"]
    ) -> Tensor:
        rows = [row for one in part for row in lesson.rows(one)]
        tokens, length = padded([row.tokens for row in rows])
        at = torch.zeros(tokens.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            at[place, list(row.at)] = True
        raw, _, work = self.model.read(tokens, length, at)
        flops = work.forward + (work.backward if torch.is_grad_enabled() else 0.0)
        self.ledger.add(phase, flops, int(length.sum()))
        return lesson.loss(part, raw)


def train(
    model: RewardModel,
    lesson: Lesson,
    held: Lesson,
    settings: Training,
    seed: int,
    ledger: Ledger,
    say: Say,
) -> Trained:
    """The model trained in place on ``lesson``, with the weights that were best on ``held``."""
    each = math.ceil(len(lesson) / settings.batch)
    fit, rows = Fit(model, settings, settings.epochs * each, ledger), list[Metrics]()
    every = settings.every or max(1, each // 2)
    for epoch, chosen in _batches(len(lesson), settings, seed):
        rows.append({**fit.update(lesson, chosen), "reward_model/epoch": float(epoch)})
        if fit.done % every == 0 or fit.done == fit.total:
            loss = fit.look(held)
            rows[-1]["reward_model/held_out_loss"] = loss
            say(
                f"  update {fit.done} of {fit.total}, epoch {epoch + 1}: loss "
                f"{rows[-1]['reward_model/loss']:.3f}, held out {loss:.3f}"
            )
        rows[-1] |= ledger.row()
        if settings.patience and fit.waited >= settings.patience:
            say(f"  held-out loss was least at update {fit.best}: stopped")
            break
    fit.restore()
    return Trained(scaled(model, lesson, settings.micro_tokens), rows, fit.best, fit.least)


def scaled(model: RewardModel, lesson: Lesson, micro_tokens: int) -> RewardModel:
    """The model whitened on some of what it learned from."""
    most = range(min(len(lesson), WHITE))
    rows = [row for one in most for row in lesson.rows(one)][:WHITE]
    return whitened(model, scores_of(model, [row.tokens for row in rows], micro_tokens))


@torch.no_grad()
def tempered(model: RewardModel, held: Compared, micro_tokens: int) -> None:
    """Divide each head by the temperature at which it foretells best who won held-out pairs.

    Order stays; what is said of the chance of winning comes true. Stopping early leaves scores too
    near each other.
    """
    rows = [tokens for sides in held.sides for tokens in sides]
    raw = scores_of(model, rows, micro_tokens).double().unflatten(0, (-1, 2)).numpy()
    ahead = held.sign * (raw[:, 0] - raw[:, 1])
    for place in range(len(model.names)):
        own = ahead[held.sign[:, place] != 0, place]
        if len(own) and own.any():
            heat = max(COLDEST, fitted_temperature(own))
            model.head.weight[place] /= heat
            model.head.bias[place] /= heat


def scores_of(model: RewardModel, rows: Sequence[Sequence[int]], micro_tokens: int) -> Tensor:
    """Raw scores [row head] of token rows, some at a time."""
    return torch.cat([model.scores(*part)[0] for part in _some(rows, micro_tokens)])


def ends_of(model: RewardModel, rows: Sequence[Sequence[int]], micro_tokens: int) -> Tensor:
    """The states [row hidden] that they are read in, likewise."""
    return torch.cat([model.ends(*part) for part in _some(rows, micro_tokens)])


def _some(rows: Sequence[Sequence[int]], micro_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of about so many tokens, filled up."""
    each = max(2, micro_tokens // max(map(len, rows)))
    for first in range(0, len(rows), each):
        yield padded(rows[first : first + each])


def _batches(count: int, settings: Training, seed: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Epochs and batches, in an order that depends on the seed alone."""
    for epoch in range(settings.epochs):
        order = [*range(count)]
        random.Random(seed_of("reward model", seed, epoch)).shuffle(order)
        for first in range(0, count, settings.batch):
            yield epoch, order[first : first + settings.batch]


def _micro(lesson: Lesson, chosen: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Parts of about ``budget`` tokens, at least one thing each."""
    part, spent = list[int](), 0
    for one in chosen:
        tokens = sum(len(row.tokens) for row in lesson.rows(one))
        if part and spent + tokens > budget:
            yield part
            part, spent = [], 0
        part.append(one)
        spent += tokens
    if part:
        yield part
