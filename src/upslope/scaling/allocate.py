"""``upslope allocate``: the split of a budget that a study's curves like best, in words."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from upslope.files import replace_file
from upslope.recipe import Stage
from upslope.scaling.budget import FARTHEST, Arms, Option, Split, allocate, measured, options
from upslope.scaling.curves import Bounds
from upslope.scaling.forecast import bounds_text
from upslope.scaling.report import by_arms, refuse_unequal
from upslope.scaling.results import Line, read_results
from upslope.scaling.study import Cell, Study
from upslope.types import UserError

ROWS = 12  # of the table that is printed
WORTH = 0.01  # of the budget, that is named where it is left over


def told(
    path: str,
    flops: str,
    answers: float = 0.0,
    reach: float = 1.0,
    vote: bool = False,
    out: str | None = None,
) -> list[str]:
    """The command: what it prints; ``out`` gets every split, as JSON or CSV."""
    study, budget = Study.read(path), number(flops)
    if not 0 <= answers < math.inf:
        raise UserError(f"--answers is how many questions will be answered, not {answers:g}")
    if not 1 <= reach <= FARTHEST:
        raise UserError(f"--reach is from 1 to {FARTHEST:g} times what was measured, not {reach:g}")
    if out and Path(out).suffix not in (".json", ".csv"):
        raise UserError(f"--out is a .json or a .csv file, not {out}")
    lines = read_results(study)
    refuse_unequal(study, lines)
    groups = by_arms(lines)
    if len(groups) < 2:
        raise UserError(f"{study.folder} has one arm: there is nothing to choose between")
    found = options(groups, size_axis(study), vote)
    splits = allocate(found, budget, answers, reach)
    if out:
        write(Path(out), study, splits)
    return [
        *about(study, groups, found),
        *chosen(study, splits, budget),
        *table(splits),
        *warnings(found, splits, budget, reach),
        *commands(study, splits),
    ]


def number(text: str) -> float:
    """FLOPs, as 3e15."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UserError(f"--flops is a budget in FLOPs, as 3e15: not {text}")
    return found


def size_axis(study: Study) -> str:
    """The axis whose arms set the model; "" where none does."""
    setting = (
        axis
        for axis, arms in study.plan.arms.items()
        if any(change.startswith("model=") for changes in arms.values() for change in changes)
    )
    return next(setting, "")


def about(
    study: Study, groups: Mapping[Arms, Sequence[Line]], found: Sequence[Option]
) -> Iterator[str]:
    """What was measured, and which parts of a budget it varied."""
    runs = sum(map(len, groups.values()))
    seeds = len(study.plan.seeds)
    over = f"{seeds} seeds" if seeds > 1 else "evaluations' errors, of one seed"
    yield study.plan.about
    yield (f"  {runs} runs, up to {measured(found):.2e} training FLOPs; 90% intervals over {over}")
    parts = varied(study, groups, found)
    fixed = [name for name, moves in parts.items() if not moves]
    line = f"  varied: {', '.join(name for name, moves in parts.items() if moves)}"
    yield f"{line}; not varied, so not split: {', '.join(fixed)}" if fixed else line


def varied(
    study: Study, groups: Mapping[Arms, Sequence[Line]], found: Sequence[Option]
) -> dict[str, bool]:
    """The parts of a budget, and whether the study's arms differ in them."""
    stages = [stages_of(study, arms) for arms in groups]
    amounts: dict[str, list[Any]] = {
        "model size": [lines[0].parameters for lines in groups.values()],
        "SFT tokens": [[(s.stop.steps, s.rollout.problems) for s in own[:-1]] for own in stages],
        "RL FLOPs": [0, 1],
        "rollouts per problem": [own[-1].rollout.group for own in stages],
        "batch": [own[-1].rollout.problems for own in stages],
        "samples at inference": [one.samples for one in found],
    }
    return {name: any(x != values[0] for x in values) for name, values in amounts.items()}


def stages_of(study: Study, arms: Arms) -> list[Stage]:
    """The stages of an arm's recipe."""
    return study.recipe(cell_of(study, arms), Path("runs"), 1).stages()


def cell_of(study: Study, arms: Arms) -> Cell:
    """A run of these arms; of a size that was not trained, some other size's."""
    return next(cell for cell in study.cells() if set(arms) <= set(cell.arms.items()))


def chosen(study: Study, splits: Sequence[Split], budget: float) -> Iterator[str]:
    """The chosen split, and what it cannot be told apart from."""
    first = splits[0]
    yield f"  best split of {budget:.2e} FLOPs: {name_of(first.option)}"
    shares = {
        "before (SFT)": first.option.before,
        "RL": first.compute,
        "inference": first.inference,
    }
    parts = [f"{name} {cost:.2e} ({cost / budget:.0%})" for name, cost in shares.items()]
    steps = steps_of(first)
    yield f"    {', '.join(parts)}; {steps:,} steps of RL"
    yield f"    predicted accuracy {_accuracy(first.score)}; best in {first.best:.0%} of draws"
    near = [split for split in splits[1:] if not split.told_apart]
    more = f" and {len(near) - 4} more" if len(near) > 4 else ""
    names = "; ".join(name_of(split.option) for split in near[:4])
    yield (
        f"    cannot be told apart from: {names}{more}"
        if near
        else "    better than every other split by more than the noise"
    )


def table(splits: Sequence[Split]) -> Iterator[str]:
    """The first splits by their score; of sizes that were not trained, the best."""
    new = next((split for split in splits if not split.option.trained), None)
    rows = [split for split in splits if split.option.trained or split is new][:ROWS]
    width = max(len(name_of(split.option)) for split in rows)
    yield f"  {'split':{width}}   before       RL  inference  best  accuracy (behind the chosen)"
    for split in rows:
        costs = f"{split.option.before:.2e} {split.compute:.2e}   {split.inference:.2e}"
        behind = "" if split is splits[0] else f"; behind {bounds_text(split.behind)}"
        yield (
            f"  {name_of(split.option):{width}} {costs} {split.best:5.0%}  "
            f"{_accuracy(split.score)}{behind}"
        )
    if len(splits) > len(rows):
        yield f"  and {len(splits) - len(rows)} more: --out has all"


def warnings(
    found: Sequence[Option], splits: Sequence[Split], budget: float, reach: float
) -> Iterator[str]:
    """Where the choice goes beyond what was measured, and what was not let to."""
    first = splits[0]
    times = first.compute / first.option.curve.end
    if times > 1:
        unknown = ", of a curve whose ceiling is not known" if first.option.refused else ""
        yield f"  this extrapolates: RL {times:.2g} times as long as was measured{unknown}"
    if not first.option.trained:
        yield "  no model of this size was trained: its curve is the law's over sizes"
    elif len(splits) > 1 and not splits[1].option.trained and splits[1].behind.value < 0:
        yield f"  {name_of(splits[1].option)} is foretold more, but by no more than the noise"
    if budget - first.flops > WORTH * budget:
        yield (
            f"  {budget - first.flops:.2e} FLOPs are left over: the curve is not asked beyond "
            f"{first.compute:.2e} of RL"
        )
    for one in found:
        if one.refused and one.samples == 1:
            yield f"  {name_of(one)}: {one.refused}; asked for at most {one.most(reach):.2e}"


def _accuracy(score: Bounds) -> str:
    """A predicted accuracy; a t interval knows nothing of where shares end."""
    if 0 <= score.value <= 1:
        score = Bounds(score.value, max(score.low, 0.0), min(score.high, 1.0))
    return bounds_text(score)


def name_of(one: Option) -> str:
    """Its arms, size and samples, in words."""
    arms = [f"{axis} {arm}" for axis, arm in one.arms]
    size = [] if one.trained else [f"about {one.parameters:.2g} parameters (not trained)"]
    samples = [f"{one.samples} samples"] if one.samples > 1 else []
    return ", ".join([*size, *arms, *samples])


def steps_of(split: Split) -> int:
    """Steps of the last stage that its FLOPs pay for."""
    return max(0, int(split.compute / split.option.step))


def overrides(study: Study, one: Option, compute: float) -> list[str]:
    """What turns the study's base recipe into this plan; a size that is new is not in it."""
    cell = cell_of(study, one.arms)
    changes = list(cell.overrides[:-1])  # all but the seed
    if not one.trained:
        changes = [c for c in changes if not c.startswith("model=")]
    recipe = study.recipe(cell, Path("runs"), 1)
    at = f"stage.{recipe.stages()[-1].name}." if recipe.stage else ""
    return [*changes, f"{at}stop.steps={max(1, int(compute / one.step))}"]


def commands(study: Study, splits: Sequence[Split]) -> Iterator[str]:
    """What trains the chosen split; of a size that was not trained, the best split that was."""
    first = next((split for split in splits if split.option.trained), None)
    if first and first.compute:
        recipe = str(study.folder / study.plan.recipe)
        changes = shlex.join([recipe, *overrides(study, first.option, first.compute)])
        of = "" if first is splits[0] else " the best of what was trained"
        yield f"  train{of or ' it'}: upslope train {changes}"


def write(path: Path, study: Study, splits: Sequence[Split]) -> None:
    """Every split, the chosen one first."""
    rows = [_row(study, split) for split in splits]
    if path.suffix == ".json":
        text = json.dumps(rows, indent=2) + "\n"
    else:
        out = io.StringIO()
        table = csv.DictWriter(out, [*rows[0]], lineterminator="\n")
        table.writeheader()
        table.writerows(row | {"overrides": shlex.join(row["overrides"])} for row in rows)
        text = out.getvalue()
    replace_file(path, text.encode())


def _row(study: Study, split: Split) -> dict[str, Any]:
    one, score, behind = split.option, split.score, split.behind
    arms = dict(one.arms)
    return {
        **{axis: arms.get(axis, "") for axis in study.axes},
        "parameters": round(one.parameters),
        "trained": one.trained,
        "samples": one.samples,
        "before_flops": one.before,
        "rl_flops": split.compute,
        "rl_steps": steps_of(split),
        "inference_flops": split.inference,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "best": split.best,
        "behind": behind.value,
        "behind_low": behind.low,
        "behind_high": behind.high,
        "told_apart": split.told_apart,
        "extrapolates": split.compute > one.curve.end,
        "overrides": overrides(study, one, split.compute),
    }
