"""A study's ``report.md``: tables, verdicts and pictures, made from its table alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from upslope import machine
from upslope.estimates import paired
from upslope.files import replace_file
from upslope.scaling.curves import fitted, over_seeds
from upslope.scaling.forecast import told
from upslope.scaling.forms import Array
from upslope.scaling.picture import picture
from upslope.scaling.results import FILE, Line, read_results, write_results
from upslope.scaling.series import FEWEST
from upslope.scaling.study import Say, Study, run_study
from upslope.types import UserError

Arms = tuple[tuple[str, str], ...]
UNITS = {"flops": "training FLOPs", "tokens": "tokens trained on"}
ALIKE = 0.02  # by which sizes said to be equal may differ


def run_and_report(path: str, runs: str | None, jobs: int, say: Say) -> list[str]:
    """``upslope study run``: train what is missing, then the table and the report."""
    study = Study.read(path)
    folder = Path(runs) if runs else Path("runs") / study.folder.resolve().name
    jobs = jobs or machine.cores()
    threads = max(1, machine.cores() // jobs)
    finished = run_study(study, folder, jobs, threads, say)
    return [str(write_results(study, finished)), *report(study)]


def report(study: Study) -> list[str]:
    """Write ``report.md`` and ``curves.svg``; what was written."""
    lines = read_results(study)
    refuse_unequal(study, lines)
    groups = by_arms(lines)
    parts = [about(study, lines), accuracies(study, groups), verdicts(study, groups), fits(groups)]
    text = "\n\n".join("\n".join(part) for part in parts)
    replace_file(study.folder / "report.md", (text + "\n").encode())
    named = {label(arms): own for arms, own in groups.items()}
    drawn = picture(study.plan.about, named, study.plan.budget.unit)
    replace_file(study.folder / "curves.svg", drawn.encode())
    return [str(study.folder / name) for name in ("report.md", "curves.svg")]


def by_arms(lines: Sequence[Line]) -> dict[Arms, list[Line]]:
    """The runs of each combination of arms: its seeds."""
    groups: dict[Arms, list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(line.arms.items()), []).append(line)
    return groups


def label(arms: Arms) -> str:
    """Arms in words."""
    return ", ".join(name for _, name in arms)


def refuse_unequal(study: Study, lines: Sequence[Line]) -> None:
    """Refuse models that differ in what the plan says is equal."""
    for name in study.plan.equal:
        sizes = {
            line.name: line.active_parameters if name == "active_parameters" else line.parameters
            for line in lines
        }
        least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[most] > (1 + ALIKE) * sizes[least]:
            raise UserError(
                f"{least} has {sizes[least]:,.0f} {name} and {most} {sizes[most]:,.0f}, which "
                f"{study.folder}'s plan says are equal: change the models, or take it out of equal"
            )


def about(study: Study, lines: Sequence[Line]) -> Iterator[str]:
    """What was compared, and how."""
    plan, seconds = study.plan, sum(line.columns["cpu_seconds"][-1] for line in lines)
    yield f"# {plan.about}"
    yield ""
    yield (
        f"Made from `{FILE}` by `upslope study report`. Base: `{plan.recipe}`; "
        f"{len(plan.seeds)} seeds; {len(lines)} runs, {seconds / 60:.0f} CPU-minutes. Arms are "
        f"compared at {plan.budget.amount:.3g} {UNITS[plan.budget.unit]} a run."
    )
    for axis, arms in plan.arms.items():
        for name, changes in arms.items():
            yield f"- {axis} {name}: {', '.join(f'`{c}`' for c in changes) or 'the base'}"
    yield ""
    yield "![accuracy of each arm](curves.svg)"


def accuracies(study: Study, groups: Mapping[Arms, Sequence[Line]]) -> Iterator[str]:
    """Accuracy at the budget: mean over seeds with a 95% t interval."""
    yield f"| {' | '.join(study.axes)} | parameters | sampled | greedy | seeds |"
    yield "|---" * (len(study.axes) + 4) + "|"
    for arms, lines in groups.items():
        found = [told_at(study, lines, kind) for kind in ("sampled", "greedy")]
        names = " | ".join(name for _, name in arms)
        yield f"| {names} | {lines[0].parameters:,.0f} | {' | '.join(found)} | {len(lines)} |"


def told_at(study: Study, lines: Sequence[Line], kind: str) -> str:
    """A cell of that table."""
    found = values_at(study, lines, kind)
    if np.isnan(found).any():
        return "did not come so far"
    if len(found) < 2:
        return f"{100 * found[0]:.1f}%"
    mean, low, high = over_seeds(found, 0.95)
    if (found >= 0).all() and (found <= 1).all():  # shares, of which a t interval knows nothing
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{100 * mean:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def values_at(study: Study, lines: Sequence[Line], kind: str) -> Array:
    """Each seed's accuracy at the budget."""
    budget = study.plan.budget
    return np.array([line.at(budget.unit, budget.amount, kind) for line in lines])


def verdicts(study: Study, groups: Mapping[Arms, Sequence[Line]]) -> Iterator[str]:
    """Every pair of arms that differ in one axis: seeds paired, a 95% interval, a verdict."""
    yield "Second less first, in points of sampled accuracy, seed by seed:"
    yield ""
    for (first, ours), (second, theirs) in combinations(groups.items(), 2):
        apart = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
        if len(apart) == 1:
            (axis, a), (_, b) = apart[0]
            same = [name for (other, name) in first if other != axis]
            where = f" ({', '.join(same)})" if same else ""
            yield f"- {axis} {a} to {b}{where}: {verdict(study, ours, theirs)}"


def verdict(study: Study, ours: Sequence[Line], theirs: Sequence[Line]) -> str:
    """What a paired comparison comes to."""
    a, b = (values_at(study, lines, "sampled") for lines in (ours, theirs))
    if np.isnan(a).any() or np.isnan(b).any():
        return "not compared, since not all runs came to the budget"
    if len(a) < 2:
        return f"{100 * (b - a)[0]:+.1f}, of one seed: no interval"
    seen = paired(a.tolist(), b.tolist())
    interval = f"{100 * seen.mean:+.1f} ({100 * seen.low:+.1f} to {100 * seen.high:+.1f})"
    if seen.p < 0.05:
        return f"{interval}, p = {seen.p:.3f}: **{'better' if seen.mean > 0 else 'worse'}**"
    least = 100 * seen.smallest
    return f"{interval}, p = {seen.p:.2f}: not significant; {least:.1f} points would have been"


def fits(groups: Mapping[Arms, Sequence[Line]]) -> Iterator[str]:
    """Each arm's sigmoid over its last stage's compute, or why none is told."""
    yield "Sigmoids over the last stage's training FLOPs, with 90% intervals over seeds:"
    yield ""
    for arms, lines in groups.items():
        points = min(len(line.columns["step"]) for line in lines)
        if points < FEWEST:
            yield f"- {label(arms)}: {points} evaluations a run are too few"
            continue
        curve = fitted([line.series() for line in lines])
        yield f"- {label(arms)}: {told(curve)}"
