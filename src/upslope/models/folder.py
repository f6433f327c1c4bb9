"""A model folder on disk, as Hugging Face lays it out: checked before it is read or replaced.

Where folders come from is in ``hub.py``; what is read from them in ``load.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from upslope.snapshots import silent
from upslope.types import UserError

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check(folder: Path) -> None:
    """Raise UserError unless the folder has a config, whole safetensors weights and a tokenizer."""
    config = _read_json(folder / "config.json", "every model saved with `save_pretrained` has one")
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{folder / 'config.json'} names no model_type: save the model again")
    for shard in _shards(folder):
        _check_shard(shard)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer: save one into it with `save_pretrained`")
    if (folder / TOKENIZERS[0]).is_file():
        _read_json(folder / TOKENIZERS[0], "save the tokenizer again")


def check_free(folder: Path) -> None:
    """Raise UserError where saving a model to ``folder`` would wipe out anything but a model."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    model = any(f.name == "config.json" for f in files) and any(folder.glob("*.safetensors"))
    if folder.is_file() or (files and not (model and all(f.is_file() for f in files))):
        raise UserError(f"{folder} exists and is not a model folder: delete it or name another")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and the hub's warnings and progress bars off the screen for a while."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.ERROR)
    logging.disable_progress_bar()
    try:
        with silent():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _read_json(path: Path, cure: str) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}: {cure}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy or save it again") from None


def _shards(folder: Path) -> list[Path]:
    """The weight files: those of the index where there is one."""
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX, "save the model again")
        names = index.get("weight_map", {}).values() if isinstance(index, dict) else ()
        shards = [folder / name for name in sorted(set(names))]
    else:
        shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise UserError(f"{folder} has no safetensors weights: save the model there again")
    return shards


def _check_shard(shard: Path) -> None:
    """Reads the header only: it states the size that the whole file must have."""
    try:
        with safe_open(shard, framework="pt"):
            pass
    except FileNotFoundError:
        raise UserError(
            f"{shard.parent} lacks {shard.name}: copy or save the model again"
        ) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{shard} is damaged ({error}): copy or save the model again") from None
