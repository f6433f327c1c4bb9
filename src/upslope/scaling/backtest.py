"""How a choice made from the first part of a study's compute did in the whole of it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from upslope.scaling.budget import Arms, allocate, options
from upslope.scaling.report import by_arms
from upslope.scaling.results import Line, read_results
from upslope.scaling.series import FEWEST
from upslope.scaling.study import Study
from upslope.types import UserError


class Trial(NamedTuple):
    """What a part of a study's compute would have chosen, and what the whole says of it.

    ``reached``: the chosen arms' accuracy at ``flops``; ``best``: that of the best arms. ``unseen``
    arms had too few evaluations by then to be chosen.
    """

    flops: float
    chosen: Arms
    reached: float
    winner: Arms
    best: float
    unseen: tuple[Arms, ...]


def tried(study: Study, share: float = 0.5, reach: float = 1.0) -> Trial:
    """Choose for the compute that all runs came to, with what ``share`` of it has seen.

    ``reach``: as of ``allocate``.
    """
    lines = read_results(study)
    flops = min(float(line.columns["flops"][-1]) for line in lines)
    groups = by_arms([_cut(line, share * flops) for line in lines])
    few = [
        arms
        for arms, own in groups.items()
        if min(len(line.columns["step"]) for line in own) < FEWEST
    ]
    known = {arms: own for arms, own in groups.items() if arms not in few}
    if len(known) < 2:
        raise UserError(
            f"{study.folder} has {len(known)} arms with {FEWEST} evaluations in the first "
            f"{share:.0%} of compute: a choice needs 2"
        )
    found = [one for one in options(known, "", False) if one.samples == 1]
    arms = allocate(found, flops, 0.0, reach)[0].option.arms
    ends = {
        arms: float(np.mean([line.at("flops", flops) for line in own]))
        for arms, own in by_arms(lines).items()
    }
    winner = max(ends, key=ends.__getitem__)
    return Trial(flops, arms, ends[arms], winner, ends[winner], tuple(few))


def _cut(line: Line, flops: float) -> Line:
    """A run as it was when it had spent so much."""
    kept = line.columns["flops"] <= flops
    return replace(line, columns={name: values[kept] for name, values in line.columns.items()})
