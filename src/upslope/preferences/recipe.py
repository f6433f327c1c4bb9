"""A reward model's recipe: a TOML file under dotted overrides, with every unknown key refused.

Settings only: where pairs come from is in ``gathered``, what is made of them in ``made``.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from upslope.overrides import merge, mixed, tree_of
from upslope.preferences.asked import Kind
from upslope.preferences.pair import Selection, Votes
from upslope.preferences.training import Training
from upslope.sentences import first_error
from upslope.settings import (
    Amount,
    Component,
    Count,
    Lora,
    Machine,
    Positive,
    Settings,
    Share,
    Text,
)
from upslope.types import UserError

Held = Annotated[float, Field(gt=0, lt=1)]
M = TypeVar("M", bound=BaseModel)


class Counted(Settings):
    """Which of a store's answers count, and how: see ``pair.Selection``."""

    annotators: Annotated[tuple[Text, ...], "whose answers; none named: everybody's"] = ()
    kinds: Annotated[tuple[Kind, ...], "to which questions; none named: to all"] = ()
    votes: Annotated[Votes, "each answer, or the majority about two replies"] = "each"

    @property
    def selection(self) -> Selection:
        """The same, as a store is asked."""
        return Selection(self.annotators, self.kinds, self.votes)


class Pairs(Settings):
    """Where pairs come from: a file, or replies to an env's problems that its gold reward ranks."""

    path: Annotated[
        str, "a .jsonl, .jsonl.gz or .parquet file of pairs, or of steps, or a store; none: the env"
    ] = ""
    answers: Counted = Counted()
    policy: Annotated[
        str, "a model or run whose replies are compared; none: the env's demonstrations"
    ] = ""
    max_tokens: Annotated[Count, "tokens of a policy's reply, at most"] = 64
    temperature: Annotated[Positive, "at which the policy is sampled"] = 1.0
    train: Annotated[int, Field(ge=0), "pairs to learn from, at most; 0 takes all"] = 2000
    test: Annotated[int, Field(ge=0), "pairs to be judged by, at most; 0 takes all"] = 0
    noise: Annotated[
        Amount, "temperature of Bradley-Terry at which the env's rewards are seen, but in the test"
    ] = 0.0
    flips: Annotated[Share, "share of the env's labels turned around, but in the test"] = 0.0
    held_out: Annotated[Held, "share of a file's questions that is not learned from"] = 0.2
    slices: Annotated[tuple[Text, ...], "columns by which accuracy is told apart"] = ("source",)


class Loss(Settings):
    """What is learned from pairs, from what each side earned, or from steps."""

    type: Annotated[
        Literal["bradley_terry", "regression", "process"],
        "who was chosen, what each side earned, or how often what follows a step ends right",
    ] = "bradley_terry"
    margins: Annotated[bool, "whether a pair's `margin` counts"] = False
    centring: Annotated[Amount, "times the squared sum of a pair's scores, to keep them at 0"] = 0.0
    smoothing: Annotated[float, Field(ge=0, lt=0.5), "share of labels taken to be wrong"] = 0.0


class RewardRecipe(Settings):
    """A reward model: on which model, what it learns from and how."""

    model: Annotated[Text, "a known model, `ladder:<size>`, a hub id, a run's or model's folder"]
    out: Annotated[Text, "folder for the reward model, its metrics and report"]
    seed: Annotated[int, "what all randomness derives from"] = 0
    heads: Annotated[
        tuple[Text, ...], Field(min_length=1), "scores on one trunk; all but the first by columns"
    ] = ("reward",)
    average: Annotated[Count, "models, in other orders of the data, of which the mean is kept"] = 1
    scaling: Annotated[bool, "whether the report fits a temperature"] = False
    dtype: Annotated[Literal["float32", "bfloat16"], "type of the weights"] = "float32"
    env: Annotated[Component | None, "problems and gold rewards, where no file has pairs"] = None
    pairs: Pairs = Pairs()
    loss: Loss = Loss()
    training: Training = Training()
    lora: Lora = Lora()
    machine: Machine = Machine()


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RewardRecipe:
    """The recipe of a TOML file under ``key=value`` overrides; UserError for whatever is wrong."""
    recipe = checked(RewardRecipe, table_of(path, overrides))
    _refuse_contradictions(recipe)
    return recipe


def table_of(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """A TOML file's table under overrides; UserError where it cannot be read."""
    file = Path(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no recipe {file}") from error
    except OSError as error:
        raise UserError(f"cannot read the recipe {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not TOML: {error}") from error
    return merge(mixed(raw), tree_of(overrides))


def checked(model: type[M], raw: Mapping[str, Any]) -> M:
    """A model of settings from a table; UserError names the key."""
    try:
        return model.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        raise first_error(error, model) from error


def dump(recipe: RewardRecipe) -> str:
    """The recipe as TOML with every setting written out."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


def _refuse_contradictions(recipe: RewardRecipe) -> None:
    """Refuse settings that are each fine and cannot hold together."""
    pairs, loss = recipe.pairs, recipe.loss
    if bool(pairs.path) == (recipe.env is not None):
        raise UserError("give either pairs.path or an [env], whose gold reward labels the pairs")
    of_env = {"policy": pairs.policy, "noise": pairs.noise, "flips": pairs.flips}
    if pairs.path and any(of_env.values()):
        key = next(name for name, given in of_env.items() if given)
        raise UserError(f"pairs.{key} is of an env's replies, and pairs.path has its own: drop one")
    if loss.type == "process" and not pairs.path:
        raise UserError('loss.type="process" learns from steps: name their file in pairs.path')
    if loss.type == "process" and len(recipe.heads) > 1:
        raise UserError('loss.type="process" has one number for a step: leave one of heads')
    if loss.type != "bradley_terry" and (loss.margins or loss.centring or loss.smoothing):
        raise UserError(
            f'loss.margins, centring and smoothing are of pairs, and loss.type="{loss.type}" '
            "compares none: leave them out"
        )
    if recipe.lora.targets and not recipe.lora.rank:
        raise UserError("lora.targets is of an adapter that there is none of: set lora.rank")
