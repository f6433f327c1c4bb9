"""A study's curves as one small picture: each arm's mean over seeds, and its seeds' spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from upslope.curve import LEFT, Axes, axes_of, grid, svg, text
from upslope.scaling.forms import Array
from upslope.scaling.results import Line

# Told apart also by who sees few colours (Okabe and Ito), and by dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c6d1f")
DASHES = ("", "7 4", "2 4")
ACROSS = {"flops": "training compute in {}FLOP", "tokens": "tokens trained on, in {}"}


def picture(title: str, groups: Mapping[str, Sequence[Line]], unit: str) -> str:
    """Sampled accuracy against ``unit``, as SVG."""
    means = {name: mean_of(lines, unit) for name, lines in groups.items()}
    ends = [x[-1] for x, *_ in means.values()]
    values = [float(v) for _, _, low, high in means.values() for v in (low.min(), high.max())]
    axes = axes_of(ends, values)
    shapes = [*grid(axes, ACROSS[unit])]
    for place, (name, (x, mean, low, high)) in enumerate(means.items()):
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
        shapes += [*band(axes, x, mean, low, high, colour, dash)]
        shapes += [*legend(place, name, colour, dash)]
    return svg(title, "accuracy of each arm", shapes)


def mean_of(lines: Sequence[Line], unit: str) -> tuple[Array, Array, Array, Array]:
    """Where all seeds have been: amounts, and the mean, lowest and highest seed there."""
    first = max(line.columns[unit][0] for line in lines)
    last = min(line.columns[unit][-1] for line in lines)
    x = np.linspace(first, max(first, last), 80)
    ys = np.array(
        [np.interp(x, line.columns[unit], line.columns["sampled_mean"]) for line in lines]
    )
    return x, ys.mean(0), ys.min(0), ys.max(0)


def band(
    axes: Axes, x: Array, mean: Array, low: Array, high: Array, colour: str, dash: str
) -> Iterator[str]:
    """The seeds' spread, and their mean."""
    edge = [*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)]
    points = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in edge)
    yield f'<polygon points="{points}" fill="{colour}" opacity="0.16"/>'
    line = zip(x, mean, strict=True)
    points = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in line)
    yield (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2" '
        f'stroke-dasharray="{dash}"/>'
    )


def legend(place: int, name: str, colour: str, dash: str) -> Iterator[str]:
    """An arm's name beside its colour, four to a row."""
    x, y = LEFT + 170.0 * (place % 4), 50.0 + 16 * (place // 4)
    yield (
        f'<path d="M{x:.0f} {y - 4:.0f}h18" stroke="{colour}" stroke-width="2.2" '
        f'stroke-dasharray="{dash}"/>'
    )
    yield text(x + 24, y, name, "start")
