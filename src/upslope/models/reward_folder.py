"""A reward model as a Hugging Face folder: weights, config and tokenizer, heads and scale beside.

``AutoModelForSequenceClassification`` reads it where transformers has such a class; what it says
lacks the heads' constant, which differs from no other reply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSES,
)

from upslope.files import explained, replace_folder
from upslope.models import lora
from upslope.models.folder import INDEX, check_free, quiet
from upslope.models.hub import Say, to_stderr
from upslope.models.load import load
from upslope.models.reward_model import Normal, RewardModel
from upslope.types import UserError

ABOUT = "reward_model.json"
WEIGHTS = "score.safetensors"
SCORE = "score.weight"  # as transformers' classifiers call it


def save_reward_model(model: RewardModel, folder: Path) -> None:
    """Write it whole or not at all; an adapter is merged. An older model there is replaced."""

    def write(fresh: Path) -> None:
        trunk = lora.plain(model.policy.model) if model.policy.rank else model.policy.model
        trunk.save_pretrained(fresh)
        model.tokenizer.save_pretrained(fresh)
        head = {SCORE: model.head.weight, "score.bias": model.head.bias}
        save_file({name: p.detach().cpu() for name, p in head.items()}, fresh / WEIGHTS)
        _index(fresh)
        _configure(fresh, model.names)
        normal = {"mean": model.normal.mean.tolist(), "std": model.normal.std.tolist()}
        about = {"heads": list(model.names), **normal, "start": model.start}
        (fresh / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    check_free(folder)
    with explained(folder), quiet():
        replace_folder(folder, write)


def load_reward_model(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    say: Say = to_stderr,
) -> RewardModel:
    """The reward model in a folder; UserError, one sentence, where there is none."""
    place = Path(folder)
    about = _about(place)
    names = tuple(about["heads"])
    policy = replace(load(str(place), 0, dtype, device, say), name=str(place))
    head = nn.Linear(policy.head()[0].shape[1], len(names))
    try:
        with safe_open(place / WEIGHTS, framework="pt") as file:
            kept = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        head.load_state_dict({"weight": kept[SCORE], "bias": kept["score.bias"]})
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{place / WEIGHTS} is not the heads of {names}: train it again") from error
    normal = Normal(torch.tensor(about["mean"]), torch.tensor(about["std"]))
    return RewardModel(policy, head.to(device), names, normal, about["start"])


def _about(folder: Path) -> Mapping[str, Any]:
    """What stands beside the weights."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        heads, numbers = about["heads"], [*about["mean"], *about["std"]]
        sound = len(numbers) == 2 * len(heads) > 0 and all(type(x) is float for x in numbers)
        if sound and all(x > 0 for x in about["std"]) and isinstance(about["start"], str):
            return dict(about)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is no reward model: it has no {ABOUT}, as `upslope reward-model train` "
            "writes it"
        ) from None
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{folder / ABOUT} is damaged: copy or train the reward model again")


def _index(folder: Path) -> None:
    """List the heads with the other weights, so that transformers finds them: it looks into no
    list where all weights are in one file of the usual name."""
    if (folder / "model.safetensors").is_file():
        (folder / "model.safetensors").rename(folder / "model-trunk.safetensors")
    shards = sorted(folder.glob("model*.safetensors"))
    places = dict[str, str]()
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), shard.name)
    whole = sum(shard.stat().st_size for shard in shards)
    listed = {"metadata": {"total_size": whole}, "weight_map": {**places, SCORE: WEIGHTS}}
    (folder / INDEX).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _configure(folder: Path, names: tuple[str, ...]) -> None:
    """Say in the config which class reads it, and what its numbers are called."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    known = CLASSES.get(config["model_type"])
    ids = {str(place): name for place, name in enumerate(names)}
    config |= {"id2label": ids, "label2id": {name: int(place) for place, name in ids.items()}}
    config |= {"architectures": [known]} if isinstance(known, str) else {}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
