"""How a budget of FLOPs is best split over what a study varied, and how sure that choice is.

Fitted curves say what each option reaches with what its other costs leave for the last stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from upslope.scaling import forms
from upslope.scaling.curves import Bounds, Curve, fitted, refusal
from upslope.scaling.forms import Array
from upslope.scaling.laws import beta_by_moments
from upslope.scaling.results import Line
from upslope.scaling.series import FEWEST
from upslope.scaling.sizes import FEWEST as SIZES
from upslope.scaling.sizes import along, at_size, between, misfit
from upslope.types import UserError

Arms = tuple[tuple[str, str], ...]
FARTHEST = 10.0  # times what was measured, that a curve with a known ceiling is asked for
BEYOND = 4  # times the samples there are, that pass@k is asked for
DRAWS = 2000
NEAR = 0.01  # of a score, that a size that was not trained must be better by
LEVEL = Bounds(0.0, 0.0, 0.0)
NORMAL = 1.645  # half of a 90% interval in standard deviations


@dataclass(frozen=True)
class Option:
    """What can be trained, and then asked ``samples`` times for each answer.

    ``parameters``: of its model; where ``trained`` is false none of that size was, and its curve,
    off by ``misfit``, is the law's over sizes. In FLOPs: ``before`` the last stage, ``step`` of
    that stage, ``answer`` of one sample. ``refused``: why no ceiling is told.
    """

    arms: Arms
    parameters: float
    samples: int
    curve: Curve
    before: float
    step: float
    answer: float
    refused: str
    trained: bool = True
    misfit: float = 0.0

    def most(self, reach: float) -> float:
        """Compute of the last stage that the curve may be asked about.

        ``reach``: in times what was measured, where no ceiling is told.
        """
        return self.curve.end * (reach if self.refused else FARTHEST)


@dataclass(frozen=True)
class Split:
    """A budget's split: an option, FLOPs of its last stage and of inference.

    ``values``: its score by unit, as a curve has units. ``best``: in which share of draws no other
    split is better. ``behind``: by how much the chosen split is better, and 0 for that one.
    """

    option: Option
    compute: float
    inference: float
    values: Array
    best: float = 0.0
    behind: Bounds = LEVEL

    @property
    def score(self) -> Bounds:
        """The predicted score, as a share from 0 to 1 where it is one."""
        return _widened(self.option.curve.bounds(self.values), self.option.misfit)

    @property
    def flops(self) -> float:
        """All that it spends."""
        return self.option.before + self.compute + self.inference

    @property
    def told_apart(self) -> bool:
        """Whether the chosen split is better by more than the noise."""
        return self.behind.low > 0


def options(groups: Mapping[Arms, Sequence[Line]], axis: str, vote: bool) -> list[Option]:
    """All that was trained, and by the law over sizes, of 3 or more, what was not.

    ``axis``: whose arms differ in their model, "" where there is none. ``vote``: answers are chosen
    by majority, not by a verifier.
    """
    found = [
        one for arms, lines in groups.items() for one in _trained(arms, lines, counts(lines, vote))
    ]
    families: dict[tuple[Arms, int], list[Option]] = {}
    for one in found:
        rest = tuple(pair for pair in one.arms if pair[0] != axis)
        families.setdefault((rest, one.samples), []).append(one)
    for (rest, _), family in families.items():
        found += _untrained(rest, family) if axis else []
    return found


def counts(lines: Sequence[Line], vote: bool) -> dict[int, str]:
    """Samples an answer can be chosen from, each with the column that tells its accuracy."""
    samples = float(min(line.columns["samples"][-1] for line in lines))
    column = "majority_at_k" if vote else "pass_at_k"
    if not samples > 1 or any(np.isnan(line.columns[column]).any() for line in lines):
        return {1: ""}
    if vote:
        return {1: "", int(samples): column}
    doubled = [2**i for i in range(1, int(np.log2(BEYOND * samples)) + 1)]
    return {1: ""} | dict.fromkeys(doubled, column)


def curve_of(lines: Sequence[Line], samples: int, column: str) -> Curve:
    """The sigmoid of a group's seeds, of answers chosen from so many samples.

    pass@k is that of the Beta spread over problems with the same pass@1 and pass@n.
    """
    series = []
    for line in lines:
        own = line.series()
        if len(own.mean) < FEWEST:
            raise UserError(
                f"{line.name} has {len(own.mean)} evaluations, and a curve needs {FEWEST}: set "
                "evaluation.every"
            )
        if column == "pass_at_k":
            n = int(line.columns["samples"][-1])
            spread = beta_by_moments(own.mean, n, line.columns[column])
            own = replace(own, mean=forms.pass_at(samples, *spread))
        elif column:
            own = replace(own, mean=line.columns[column])
        series.append(own)
    return fitted(series)


def allocate(
    found: Sequence[Option], flops: float, answers: float, reach: float = 1.0
) -> list[Split]:
    """Splits of a budget, the chosen one first, the others by their score.

    The best is chosen; if its size was not trained, the best trained one that is behind it by no
    more than ``NEAR`` and than the noise. UserError where the budget buys nothing, or is far
    beyond what was measured. ``reach``: as of ``Option.most``.
    """
    _refuse_budget(found, flops, answers)
    splits = [split for one in found for split in _split(one, flops, answers, reach)]
    splits.sort(key=lambda split: -split.score.value)
    _, *rest = splits = _compared(splits)
    if not splits[0].option.trained:
        trained = [place for place, split in enumerate(rest, 1) if split.option.trained]
        place = trained[0] if trained else 0
        if splits[place].told_apart or splits[place].behind.value > NEAR:
            return splits
        splits = _compared([splits[place], *splits[:place], *splits[place + 1 :]])
    return splits


def measured(found: Sequence[Option]) -> float:
    """The most that training an option took in the study, all stages, in FLOPs."""
    return max(one.before + one.curve.end for one in found if one.trained)


def draws(values: Array, by_seed: bool) -> Array:
    """[draw, split] of scores that ``values`` [split, unit] allow.

    Seeds: of a multivariate t, which has the intervals that a curve has, and in which what moves
    all splits of a seed together tells none apart. One seed: its redraws.
    """
    if not by_seed:
        return values[:, 1:].T
    random, seeds = np.random.default_rng(0), values.shape[1]
    mean = values.mean(1)
    away = random.standard_normal((DRAWS, seeds)) @ (values - mean[:, None]).T
    wide = np.sqrt((seeds - 1) / random.chisquare(seeds - 1, (DRAWS, 1)))
    return np.asarray(mean + away * wide / np.sqrt(seeds * (seeds - 1)))


def _trained(arms: Arms, lines: Sequence[Line], asked: Mapping[int, str]) -> Iterator[Option]:
    curves = {samples: curve_of(lines, samples, column) for samples, column in asked.items()}
    costs = [
        (
            c["flops"][-1] - c["stage_flops"][-1],
            c["stage_flops"][-1] / (c["step"][-1] - c["step"][0]),
            c["answer_flops"][-1],
        )
        for c in (line.columns for line in lines)
    ]
    before, step, answer = (float(x) for x in np.mean(costs, 0))
    for samples, curve in curves.items():
        why = refusal(curve)
        yield Option(arms, lines[0].parameters, samples, curve, before, step, answer, why)


def _untrained(rest: Arms, family: Sequence[Option]) -> Iterator[Option]:
    """Sizes that were not trained; none where too few have a ceiling that is known."""
    known = [one for one in family if not one.refused]
    sizes = [one.parameters for one in known]
    if len(set(sizes)) < max(SIZES, len(sizes)):
        return
    curves = [one.curve for one in known]
    if any((curve.solved.params["ceiling"] <= 0).any() for curve in curves):
        return
    off = misfit(curves, sizes)
    costs = list(zip(*((one.before, one.step, one.answer) for one in known), strict=True))
    for size in between(sizes):
        before, step, answer = (along(size, sizes, own) for own in costs)
        curve = at_size(curves, sizes, size)
        yield Option(
            rest, size, known[0].samples, curve, before, step, answer, "", trained=False, misfit=off
        )


def _split(one: Option, flops: float, answers: float, reach: float) -> Iterator[Split]:
    """What is left for the last stage, as far as the curve may be asked; none of it if it harms."""
    inference = answers * one.samples * one.answer if answers else 0.0
    left = flops - one.before - inference
    if left <= 0 or (one.samples > 1 and not answers):
        return
    most = min(left, one.most(reach))
    none, all_ = one.curve.solved.at(np.array([0.0, most])).T
    harms = one.curve.bounds(all_).value < one.curve.bounds(none).value
    yield Split(one, 0.0 if harms else most, inference, none if harms else all_)


def _compared(splits: Sequence[Split]) -> list[Split]:
    """With how often each is best, and how far it is behind the first."""
    first, curve = splits[0], splits[0].option.curve
    values = np.stack([split.values for split in splits])
    drawn = draws(values, curve.by_seed)
    off = np.array([split.option.misfit for split in splits])
    drawn = drawn + off * np.random.default_rng(1).standard_normal((len(drawn), 1))
    won = np.bincount(drawn.argmax(1), minlength=len(splits)) / len(drawn)
    found = [replace(first, best=float(won[0]), behind=LEVEL)]
    for split, share in zip(splits[1:], won[1:], strict=True):
        behind = curve.bounds(first.values - split.values)
        apart = abs(first.option.misfit - split.option.misfit)
        found.append(replace(split, best=float(share), behind=_widened(behind, apart)))
    return found


def _widened(seen: Bounds, misfit: float) -> Bounds:
    """An interval with a law's own error added in quadrature."""
    low, high = (np.hypot(end - seen.value, NORMAL * misfit) for end in (seen.low, seen.high))
    return Bounds(seen.value, seen.value - float(low), seen.value + float(high))


def _refuse_budget(found: Sequence[Option], flops: float, answers: float) -> None:
    own = [one for one in found if one.trained and one.samples == 1]
    costs = [answers * one.answer if answers else 0.0 for one in own]
    if np.isnan(costs).any():
        raise UserError(
            "results.csv has no answer_flops, which --answers needs: run the study again, or "
            "leave inference out"
        )
    least = min(one.before + one.step + cost for one, cost in zip(own, costs, strict=True))
    if flops < least:
        raise UserError(f"{flops:.2e} FLOPs buy no run of this study: the least costs {least:.2e}")
    most = FARTHEST * measured(found)
    if flops - min(costs) > most:
        raise UserError(
            f"{flops:.2e} FLOPs are beyond {FARTHEST:g} times what was measured "
            f"({measured(found):.2e}): no curve is to be believed so far; ask for at most "
            f"{most + min(costs):.2e}"
        )
