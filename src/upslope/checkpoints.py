"""What a resumed run needs, as one folder: model, optimiser, and where everything else was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from upslope.batch import State
from upslope.learner import Learner
from upslope.ledger import Totals
from upslope.models.load import save, save_adapter
from upslope.models.policy import Policy
from upslope.result import Accuracy, Record, StageResult
from upslope.settings import Stop
from upslope.types import UserError


class Place(Record):
    """Where a stage is: all that the loop carries from one step to the next.

    ``step``: steps of the run so far; ``first``: those before this stage; ``spent``: what the
    ledger had counted then. ``before`` and ``after``: its first and newest evaluation. ``tested``:
    the test split before training, where weights are selected on validation.
    """

    step: int
    first: int
    spent: Totals
    state: dict[str, float]
    before: Accuracy | None = None
    after: Accuracy | None = None
    tested: Accuracy | None = None
    stopped: str = ""

    def moved(self, state: State) -> Place:
        """After a step, with the algorithm's new state."""
        return self.model_copy(update={"step": self.step + 1, "state": dict(state)})

    def fitting(self, start: State) -> Place:
        """With what an algorithm begins with where nothing is kept of it: a resumed run's may have
        been given a KL target, a cost or another type since."""
        return self.model_copy(update={"state": {**start, **self.state}})

    def ended(self, by: str) -> Place:
        """Where something stopped it, the first of several; "" has not."""
        return self.model_copy(update={"stopped": self.stopped or by})

    def measured(self, accuracy: Accuracy, stop: Stop) -> Place:
        """After an evaluation, which may have reached the accuracy to stop at."""
        reached = "accuracy" if 0 < stop.accuracy <= accuracy.sampled.mean else ""
        evaluated = {"before": self.before or accuracy, "after": accuracy}
        return self.model_copy(update=evaluated).ended(reached)

    def bounded(self, stop: Stop, totals: Totals) -> Place:
        """With what has been spent, which may have reached a bound of ``stop``."""
        spent = totals.since(self.spent)
        reached = {
            "steps": (self.step - self.first, stop.steps),
            "flops": (spent.training_flops, stop.flops),
            "hours": (spent.seconds / 3600, stop.hours),
            "money": (spent.money, stop.money),
        }
        first = next((name for name, (value, bound) in reached.items() if 0 < bound <= value), "")
        return self.ended(first)


class Checkpoint(Record):
    """A place in a run: the stage's, its source's, its audit's and the ledger's states, the stages
    before it, and how many rows each of the run's files had."""

    stage: str
    place: Place
    source: dict[str, Any]
    ledger: dict[str, Any]
    done: tuple[StageResult, ...]
    rows: dict[str, int]
    audit: dict[str, Any] = Field(default_factory=dict)


def due(steps: int, every: int) -> bool:
    """Whether something that happens every so many steps does now; 0 is never."""
    return every > 0 and steps % every == 0


def write_checkpoint(folder: Path, learner: Learner, checkpoint: Checkpoint) -> None:
    """Fill ``folder``: ``model/`` in Hugging Face form, ``learner.pt`` and ``place.json``.

    An adapter is merged into ``model/`` and alone in ``adapter/``; to resume is to load the model
    that it began with, and the learner's state.
    """
    save(learner.policy, folder / "model")
    if learner.policy.rank:
        save_adapter(learner.policy, folder / "adapter")
    torch.save(dict(learner.state()), folder / "learner.pt")
    (folder / "place.json").write_text(checkpoint.model_dump_json(), encoding="utf-8")


def read_checkpoint(folder: Path) -> tuple[Checkpoint, Mapping[str, Any]]:
    """The checkpoint and the learner's state; the weights are in ``folder/model``."""
    try:
        text = (folder / "place.json").read_text(encoding="utf-8")
        checkpoint = Checkpoint.model_validate_json(text)
        state: Mapping[str, Any] = torch.load(folder / "learner.pt", weights_only=True)
    except (OSError, ValidationError, RuntimeError, EOFError) as error:
        raise UserError(
            f"the checkpoint {folder} is damaged: remove it to resume from the one before it, or "
            "from the beginning where there is none"
        ) from error
    return checkpoint, state


def save_weights(policy: Policy, path: Path) -> None:
    """Write what is trained of a policy: its adapter where it has one, else all weights."""
    trained = {name: parameter.detach() for name, parameter in policy.trained()}
    torch.save(trained | policy.tilted(), path)


def load_weights(policy: Policy, path: Path) -> None:
    """Put weights that ``save_weights`` wrote back."""
    kept = torch.load(path, weights_only=True, map_location=policy.model.device)
    with torch.no_grad():
        for name, parameter in policy.trained():
            parameter.copy_(kept[name])
