"""``upslope forecast``: a curve, what more compute would buy, and how such forecasts did before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upslope.runs import Run
from upslope.scaling.curves import Bounds, Curve, fitted, refusal
from upslope.scaling.fit import CURVES
from upslope.scaling.series import METRICS, Series, alike, series_of
from upslope.types import UserError

HALF = 0.5


@dataclass(frozen=True)
class Past:
    """How a form did on the runs' own past: fitted to the first part of compute, asked of the rest.

    ``error``: root mean square, in reward. ``spoke``: whether a ceiling could be told by then.
    """

    law: str
    error: float
    spoke: bool


def forecast(
    paths: Sequence[str],
    metric: str = "sampled",
    law: str = "sigmoid",
    at: str | None = None,
    target: float | None = None,
) -> list[str]:
    """The forecast of one run, or of runs that differ in their seeds, in words."""
    chosen = next((known for known in METRICS if known == metric), None)
    if chosen is None:
        raise UserError(f"--metric is one of {', '.join(METRICS)}, not {metric}")
    if law not in CURVES:
        raise UserError(f"--form is one of {', '.join(CURVES)}, not {law}")
    if len(set(map(Path, paths))) < len(paths):
        raise UserError("a run is named twice: seeds must be runs of their own")
    runs = [Run.open(path) for path in paths]
    alike(runs)
    series = [series_of(run, chosen) for run in runs]
    curve = fitted(series, law)
    compute = compute_of(at, curve.end)
    return [
        about(curve),
        f"  {law}: {told(curve)}",
        *outlook(curve, compute, target),
        *trial(series, law),
    ]


def past(series: Sequence[Series], law: str, share: float = HALF) -> Past | None:
    """How the form did, fitted to the first ``share``; None where that holds too few points."""
    first = [one.up_to(share * one.end) for one in series]
    if any(len(part.mean) <= len(CURVES[law].names) for part in first):
        return None
    curve = fitted(first, law, draws=200)
    squares = []
    for unit, one in enumerate(series):
        rest = one.compute > share * one.end
        squares.append((curve.solved.at(one.compute[rest])[unit] - one.mean[rest]) ** 2)
    spoke = law == "sigmoid" and not refusal(curve)
    return Past(law, float(np.concatenate(squares).mean() ** 0.5), spoke)


def ranked(series: Sequence[Series]) -> list[Past]:
    """All forms by their error on the second half of compute, best first."""
    found = [past(series, law) for law in CURVES]
    return sorted((p for p in found if p), key=lambda p: p.error)


def compute_of(text: str | None, end: float) -> float:
    """FLOPs from ``10x`` (of what was spent) or ``3e15``; by default 10x."""
    match = re.fullmatch(r"([0-9.]+(?:e[+-]?\d+)?)(x?)", text or "10x")
    try:
        found = float(match[1]) if match else 0.0
    except ValueError:
        found = 0.0
    if not match or not 0 < found < np.inf:
        raise UserError(
            f"--at is a multiple of the compute spent or FLOPs, as 10x or 3e15: not {text}"
        )
    return found * end if match[2] else found


def about(curve: Curve) -> str:
    """What was fitted to what."""
    first, others = curve.series[0], len(curve.series) - 1
    name = f"{first.name}{f' and {others} of other seeds' if others else ''}"
    kind = "training reward" if first.metric == "reward" else f"{first.metric} accuracy"
    over = "batches" if first.outcomes is None else "held-out problems"
    return (
        f"{name}: {len(first.mean)} points of {kind}, up to {curve.end:.2e} training FLOPs; "
        f"90% intervals over {'seeds' if others else f'{over}, of one seed'}"
    )


def told(curve: Curve) -> str:
    """The form's parameters, or why a ceiling is not told."""
    names = curve.solved.law.names
    refused = refusal(curve) if curve.law == "sigmoid" else ""
    return refused or ", ".join(f"{name} {bounds_text(curve.parameter(name))}" for name in names)


def outlook(curve: Curve, compute: float, target: float | None) -> Iterator[str]:
    """What so much compute brings, and what a target needs; nothing where the curve refuses."""
    if curve.law == "sigmoid" and refusal(curve):
        return
    seen = curve.at(compute)
    yield (
        f"  at {compute:.2e} FLOPs ({compute / curve.end:.3g}x): {bounds_text(seen)}; now "
        f"{bounds_text(curve.at(curve.end))}"
    )
    if target is None:
        return
    needed = curve.reach(target)
    if needed is None:
        yield f"  {target:g} is not reached by this curve"
        return
    end = f"{needed.high:.2e}" if np.isfinite(needed.high) else "never"
    yield (
        f"  {target:g} needs {needed.value:.2e} FLOPs ({needed.low:.2e} to {end}), "
        f"{needed.value / curve.end:.3g} times what was spent"
    )


def trial(series: Sequence[Series], law: str) -> Iterator[str]:
    """How such forecasts did on these runs: fitted to the first half of compute."""
    found = ranked(series)
    if not found:
        yield "  its past: too few points in the first half of compute to try a forecast on"
        return
    errors = [f"{p.law} {p.error:.3f}" for p in found]
    yield f"  its past: fitted to the first half, off in the second by (RMS) {', '.join(errors)}"
    own = next((p for p in found if p.law == law), None)
    if law == "sigmoid" and own and not own.spoke:
        yield "  at that time it would have refused to speak of a ceiling"


def bounds_text(bounds: Bounds) -> str:
    """A value with its interval."""
    value, low, high = (
        f"{v:.3f}" if 1e-3 <= abs(v) < 1e4 or v == 0 else f"{v:.2e}" for v in bounds
    )
    return f"{value} ({low} to {high})"
