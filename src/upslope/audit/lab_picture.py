"""A lab's figures, from its tables alone: gold and the proxy's own reward against distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from upslope.curve import LEFT, Axes, grid, svg, text
from upslope.scaling.overoptimised import Followed
from upslope.scaling.picture import COLOURS

ACROSS = "root of the KL to the first policy, in nats"
BELOW = 0.08  # of the height, beside what there is
STEPS = 60  # of a drawn form
SHORT = 21  # letters of a name, of which four fit side by side
Row = Mapping[str, Any]


class Line(NamedTuple):
    """Points of a curve: distance, gold and its error, the proxy's own; ``form``: of its fit."""

    name: str
    x: Sequence[float]
    gold: Sequence[float]
    error: Sequence[float]
    proxy: Sequence[float]
    form: Row | None = None


def best_of_n(rows: Sequence[Row], found: Sequence[Row]) -> str:
    """Gold of the best of n by every kind of proxy, with the forms fitted."""
    forms = {one["name"]: one["form"] for one in found}
    lines = [
        Line(*_columns(name, own, "score"), forms[name])
        for name, own in named(rows, "proxy").items()
        if name in forms
    ]
    about = ["dots and bars: gold with two standard errors; lines: the form fitted"]
    return drawn("The best of n by proxies of gold", lines, about)


def ways(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Gold of the best of n by each way to resist noisy labels."""
    found = named(rows, "proxy")
    lines = [
        Line(*_columns(name.partition(",")[0], found[name], "score"))
        for name in names
        if name in found
    ]
    return drawn("The best of n by proxies of noisy labels", lines, ["bars: two standard errors"])


def proxy(rows: Sequence[Row], name: str) -> str:
    """One proxy's own score beside gold, each from its first to its highest value."""
    own = named(rows, "proxy")[name]
    line = Line(*_columns("gold", own, "score"))
    scaled = [line._replace(gold=unit(line.gold), error=_less(line)), _own(line)]
    about = ["each from its first value (0) to its highest (1); bars: two standard errors"]
    return drawn(f"Gold and proxy: {name}", scaled, about, "share of the way to the highest")


def climbs(rows: Sequence[Row], alone: str) -> str:
    """Gold along each arm of RL; of the arm ``alone``, which has several runs, each."""
    lines = []
    for arm, own in named(rows, "arm").items():
        for seed in sorted({row["seed"] for row in own}):
            run = [row for row in own if row["seed"] == seed]
            name = f"{arm} {seed:g}" if arm == alone else arm
            lines.append(Line(*_columns(name, run, "reward")))
    return drawn("RL on proxies of gold", lines, ["bars: two standard errors over problems"])


def named(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Rows by name, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[key]), []).append(row)
    return found


def unit(values: Sequence[float]) -> list[float]:
    """From 0, the first, to 1, the highest."""
    first, most = values[0], max(values)
    return [(v - first) / (most - first) if most > first else 0.0 for v in values]


def _less(line: Line) -> list[float]:
    wide = (max(line.gold) - line.gold[0]) or 1.0
    return [e / wide for e in line.error]


def _own(line: Line) -> Line:
    """The proxy's own, without bars."""
    return Line("proxy", line.x, unit(line.proxy), [0.0] * len(line.x), line.proxy)


def _columns(
    name: str, rows: Sequence[Row], own: str
) -> tuple[str, list[float], list[float], list[float], list[float]]:
    x = [max(row["kl"], 0.0) ** 0.5 for row in rows]
    gold, error = [row["gold"] for row in rows], [row["gold_error"] for row in rows]
    return name, x, gold, error, [row[own] for row in rows]


def drawn(title: str, lines: Sequence[Line], about: Sequence[str], up: str = "gold") -> str:
    """All lines on one pair of axes."""
    low = min(g - 2 * e for one in lines for g, e in zip(one.gold, one.error, strict=True))
    high = max(g + 2 * e for one in lines for g, e in zip(one.gold, one.error, strict=True))
    wide = (high - low) or 1.0
    most = max(x for one in lines for x in one.x) or 1.0
    axes = Axes(most * 1.02, low - BELOW * wide, high + BELOW * wide)
    shapes = [*grid(axes, ACROSS, up)]
    across = 4 if max(len(one.name) for one in lines) <= SHORT else 3
    for place, one in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        shapes += [*_line(axes, one, colour), *_name(place, one.name, colour, across)]
    shapes += [text(LEFT, 46.0, line, "start") for line in about]
    return svg(title, "gold against distance", shapes)


def _line(axes: Axes, one: Line, colour: str) -> Iterator[str]:
    """Points with bars, and the form or the line between them."""
    for x, y, error in zip(one.x, one.gold, one.error, strict=True):
        left, up, down = axes.x(x), axes.y(y + 2 * error), axes.y(y - 2 * error)
        yield f'<circle cx="{left:.1f}" cy="{axes.y(y):.1f}" r="2.6" fill="{colour}"/>'
        yield f'<path d="M{left:.1f} {down:.1f}V{up:.1f}" stroke="{colour}" stroke-width="1"/>'
    points = _formed(one) if one.form else [*zip(one.x, one.gold, strict=True)]
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _formed(one: Line) -> list[tuple[float, float]]:
    """The form, from the first point's gold."""
    assert one.form is not None
    a, b = (np.array([one.form[name][0]]) for name in ("a", "b"))
    x = np.linspace(1e-6, max(one.x), STEPS)
    y = Followed(one.form["kind"], a, b).at(x)[0] + one.gold[0]
    return [*zip(x.tolist(), y.tolist(), strict=True)]


def _name(place: int, name: str, colour: str, across: int) -> Iterator[str]:
    """A line's name beside its colour, so many to a row."""
    x, y = LEFT + 672.0 / across * (place % across), 62.0 + 15 * (place // across)
    yield f'<path d="M{x:.0f} {y - 4:.0f}h16" stroke="{colour}" stroke-width="2.4"/>'
    yield text(x + 21, y, name, "start")
