"""``results.csv`` of a study: a row for each evaluation of each run, and how it is read back."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upslope.files import replace_file
from upslope.recipe import read as read_recipe
from upslope.runs import Run
from upslope.scaling.forms import Array
from upslope.scaling.series import COMPUTE, WIDTH, Series, begun
from upslope.scaling.study import Cell, Study
from upslope.types import UserError

FILE = "results.csv"
ANSWERING = "ledger/flops/evaluation"
ESTIMATES = [f"{kind}_{part}" for kind in ("sampled", "greedy") for part in ("mean", "low", "high")]
# flops: training, from the run's beginning; stage_flops: from the last stage's. tokens: trained on.
NUMBERS = ["step", "flops", "stage_flops", "tokens", "seconds", "cpu_seconds", *ESTIMATES]
# What older tables have not, NaN where it is unknown: k of pass@k, and FLOPs of one sampled answer.
LATER = ["samples", "pass_at_k", "majority_at_k", "answer_flops"]


@dataclass(frozen=True)
class Line:
    """One run of the table: its arms, seed and model, and its evaluations as columns."""

    name: str
    arms: Mapping[str, str]
    seed: int
    parameters: float
    active_parameters: float
    columns: Mapping[str, Array]

    def series(self, kind: str = "sampled") -> Series:
        """Its last stage's curve, to be fitted."""
        c = self.columns
        error = (c[f"{kind}_high"] - c[f"{kind}_low"]) / WIDTH
        return Series(self.name, "sampled", c["stage_flops"], c[f"{kind}_mean"], error)

    def at(self, unit: str, amount: float, kind: str = "sampled") -> float:
        """Accuracy at an amount of flops or tokens, between evaluations in a straight line.

        NaN where the run did not come so far.
        """
        x, y = self.columns[unit], self.columns[f"{kind}_mean"]
        return float(np.interp(amount, x, y)) if x[0] <= amount <= x[-1] else float("nan")


def write_results(study: Study, runs: Sequence[Run]) -> Path:
    """The table, from finished runs in the order of the cells."""
    out = io.StringIO()
    head = ["run", *study.axes, "seed", "parameters", "active_parameters", *NUMBERS, *LATER]
    table = csv.DictWriter(out, head, lineterminator="\n")
    table.writeheader()
    for cell, run in zip(study.cells(), runs, strict=True):
        table.writerows(_rows(cell, run))
    replace_file(study.folder / FILE, out.getvalue().encode())
    return study.folder / FILE


def read_results(study: Study) -> list[Line]:
    """The table's runs; UserError where it is not this study's or is damaged."""
    path = study.folder / FILE
    if not path.is_file():
        raise UserError(f"there is no {path}: upslope study run {study.folder} writes it")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for cell in study.cells():
        own = [row for row in rows if row.get("run") == cell.name]
        if not own:
            raise UserError(f"{path} has no run {cell.name}: run the study again, or mend its plan")
        try:
            columns = {name: np.array([float(row[name]) for row in own]) for name in NUMBERS}
            for name in LATER:
                columns[name] = np.array([float(row.get(name) or "nan") for row in own])
            sizes = float(own[0]["parameters"]), float(own[0]["active_parameters"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged at {cell.name}: {error}") from error
        lines.append(Line(cell.name, cell.arms, cell.seed, *sizes, columns))
    return lines


def _rows(cell: Cell, run: Run) -> Iterator[dict[str, Any]]:
    """A run's evaluations of its last stage."""
    evaluations = run.evaluations()
    stage = evaluations[-1]["stage"]
    before = begun(run, stage)
    total, active = parameters(run.path / "model")
    samples = read_recipe(run.path / "recipe.toml").stages()[-1].evaluation.samples
    base = {"run": cell.name, **cell.arms, "seed": cell.seed}
    base |= {"parameters": total, "active_parameters": active, "samples": samples}
    spent = 0.0
    for row in evaluations:
        now = row.get(ANSWERING, 0.0)
        answers = row["evaluation/sampled/problems"] * (samples + 1)  # and a greedy one of each
        spent, own = now, (now - spent) / answers
        if row["stage"] == stage:
            told = {e: row[f"evaluation/{e.replace('_', '/')}"] for e in ESTIMATES}
            yield {
                **base,
                "step": row["step"],
                "flops": row[COMPUTE],
                "stage_flops": row[COMPUTE] - before,
                "tokens": row.get("ledger/tokens/update", 0.0),
                "seconds": round(row["ledger/seconds"], 2),
                "cpu_seconds": round(row["ledger/cpu_seconds"], 2),
                **told,
                "pass_at_k": row.get("evaluation/sampled/pass_at_k", ""),
                "majority_at_k": row.get("evaluation/sampled/majority_at_k", ""),
                "answer_flops": own or "",
            }


def parameters(folder: Path) -> tuple[int, int]:
    """Of a saved model: all, and those that each token is multiplied with, read off its files."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    experts = config.get("num_local_experts") or config.get("num_experts") or 0
    taken = config.get("num_experts_per_tok") or 0
    total = routed = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = int(np.prod(tensor["shape"], dtype=np.int64))
                total += count
                routed += count if ".experts." in name else 0
    return total, total - (round(routed * (1 - taken / experts)) if experts else 0)
