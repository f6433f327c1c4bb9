"""What a resumed run needs, as one folder: model, optimiser, source, algorithm state, ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from upslope.learner import Learner
from upslope.models.load import save


@dataclass(frozen=True)
class Place:
    """Where a run is: its stage, its steps so far and at the stage's start, and its states."""

    stage: str
    step: int
    first: int
    algorithm: Mapping[str, float]
    source: Mapping[str, Any]
    ledger: Mapping[str, Any]


def write_checkpoint(folder: Path, learner: Learner, place: Place) -> None:
    """Fill ``folder``: ``model/`` in Hugging Face form, ``learner.pt`` and ``place.json``."""
    save(learner.policy, folder / "model")
    torch.save(dict(learner.state()), folder / "learner.pt")
    (folder / "place.json").write_text(json.dumps(asdict(place)), encoding="utf-8")


def read_checkpoint(folder: Path) -> tuple[Place, Mapping[str, Any]]:
    """The place and the learner's state; the weights are in ``folder/model``."""
    place = Place(**json.loads((folder / "place.json").read_text(encoding="utf-8")))
    state: Mapping[str, Any] = torch.load(folder / "learner.pt", weights_only=True)
    return place, state
