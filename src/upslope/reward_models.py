"""The command line's part that trains and judges reward models."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()
models = typer.Typer(no_args_is_help=True, help="Train and judge reward models.")
app.add_typer(models, name="reward-model")
RecipePath = Annotated[str, typer.Argument(help="A reward model's recipe: a TOML file.")]
Changes = Annotated[
    list[str] | None, typer.Argument(help="Settings to change: training.lr=1e-4 seed=1")
]


@models.command("train")
def train(path: RecipePath, changes: Changes = None) -> None:
    """Train a recipe's reward model, and write it with its calibration report."""
    from upslope.preferences.made import train_recipe
    from upslope.preferences.recipe import read_recipe

    train_recipe(read_recipe(path, changes or []), print)


@models.command("eval")
def evaluate(
    path: RecipePath,
    changes: Changes = None,
    model: Annotated[
        str, typer.Option(help="Another reward model's folder, whose report is only said.")
    ] = "",
) -> None:
    """Judge a reward model on a recipe's held-out pairs: accuracy, calibration, length, slices."""
    from upslope.preferences.made import evaluate_recipe
    from upslope.preferences.recipe import read_recipe

    evaluate_recipe(read_recipe(path, changes or []), model, print)
