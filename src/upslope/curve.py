"""``curve.svg``: reward and held-out accuracy against training compute, as one small picture.

Reads rows of ``metrics.jsonl`` and ``evaluations.jsonl`` and writes text; it draws what is there
and fits nothing. The picture stands alone and follows the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

COMPUTE = "ledger/training_flops"
REWARD = "reward/mean"
WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 78, 58
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
LIGHT = {"paper": "#ffffff", "ink": "#1f2430", "soft": "#6b7280", "grid": "#e6e8ec"}
LIGHT |= {"reward": "#8fa9cc", "sampled": "#1d5fd1", "greedy": "#c2571a"}
DARK = {"paper": "#14171c", "ink": "#e8eaee", "soft": "#9aa3b0", "grid": "#2a2f38"}
DARK |= {"reward": "#5b7291", "sampled": "#6ea8ff", "greedy": "#f2975a"}
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  .title { font-size: 16px; font-weight: 600; }
  .dot { opacity: .55; }
  .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
  .greedy { stroke-width: 1.8; }
  .bar { fill: none; stroke-width: 1.4; }
"""
# Plain colours, twice: several viewers of SVG know no CSS variables.
COLOURS = (
    ".paper {{ fill: {paper}; }} text {{ fill: {soft}; }} .title {{ fill: {ink}; }}"
    " .grid {{ stroke: {grid}; }} .dot {{ fill: {reward}; }} .line {{ stroke: {reward}; }}"
    " .sampled {{ fill: {sampled}; stroke: {sampled}; }}"
    " .greedy {{ fill: {paper}; stroke: {greedy}; }}"
)

Point = tuple[float, float]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Estimated:
    """An evaluation's point: compute, mean, and its 95% interval."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Axes:
    """From compute and reward to the picture's own coordinates."""

    right: float
    low: float
    high: float

    def x(self, flops: float) -> float:
        """Pixels from the left."""
        return LEFT + flops / self.right * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def curve_svg(metrics: Sequence[Row], evaluations: Sequence[Row], title: str) -> str:
    """The picture: mean reward of each step, its smoothed line, and evaluations with intervals."""
    rewards = [(r[COMPUTE], r[REWARD]) for r in metrics if _has(r, COMPUTE, REWARD)]
    marks = {kind: _estimates(evaluations, kind) for kind in ("greedy", "sampled")}
    both = [*marks["sampled"], *marks["greedy"]]
    values = [y for _, y in rewards] + [v for e in both for v in (e.low, e.high)]
    axes = axes_of([x for x, _ in rewards] + [e.x for e in both], values)
    shapes = [
        *_legend(bool(rewards), marks),
        *grid(axes),
        *_stages(metrics, axes),
        *_rewards(rewards, axes),
        *(line for kind, found in marks.items() for line in _marks(found, kind, axes)),
    ]
    return svg(title, "reward against compute", shapes)


def svg(title: str, about: str, shapes: Iterable[str], style: str = "") -> str:
    """A picture of shapes under a title; ``about`` is for those who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            f' role="img" aria-label={quoteattr(f"{title}: {about}")}>',
            f"<style>{COLOURS.format_map(LIGHT)}",
            f"@media (prefers-color-scheme: dark) {{ {COLOURS.format_map(DARK)} }}{STYLE}{style}"
            "</style>",
            f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'<text class="title" x="{LEFT}" y="30">{escape(title)}</text>',
            *shapes,
            "</svg>\n",
        ]
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """A Gaussian mean over neighbours, a fortieth of the series wide, so that ends do not sag."""
    width = max(1.0, len(values) / 40)
    reach = math.ceil(3 * width)
    means = []
    for i in range(len(values)):
        near = range(max(0, i - reach), min(len(values), i + reach + 1))
        weights = [math.exp(-(((j - i) / width) ** 2) / 2) for j in near]
        total = sum(w * values[j] for w, j in zip(weights, near, strict=True))
        means.append(total / sum(weights))
    return means


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, some ``about`` of them."""
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _has(row: Row, *keys: str) -> bool:
    """Whether the row has numbers there: a non-finite one was written as null."""
    return all(isinstance(row.get(key), int | float) for key in keys)


def _estimates(rows: Iterable[Row], kind: str) -> list[Estimated]:
    keys = [COMPUTE, *(f"evaluation/{kind}/{part}" for part in ("mean", "low", "high"))]
    return [Estimated(*(float(row[key]) for key in keys)) for row in rows if _has(row, *keys)]


def axes_of(xs: Sequence[float], ys: Sequence[float]) -> Axes:
    """From nought compute; reward from 0 to 1 where it stays there, else a little wider than it."""
    right = max([*xs, 0.0]) or 1.0
    low, high = min([*ys, 0.0]), max([*ys, 1.0])
    if low < 0 or high > 1:
        margin = (high - low) * 0.05
        low, high = low - margin * (low < 0), high + margin * (high > 1)
    return Axes(right * 1.02, low, high)


def grid(
    axes: Axes, across: str = "training compute in {}FLOP", up: str = "reward, accuracy"
) -> list[str]:
    """Lines, tick labels and axis labels; ``across`` has a place for the unit's prefix."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines = []
    for value in ticks(axes.low, axes.high, 5):
        y = f"{axes.y(value):.1f}"
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        lines.append(text(LEFT - 10, axes.y(value) + 4, f"{value:.4g}", "end"))
    unit, prefix = next(((u, p) for u, p in PREFIXES if axes.right >= u), (1.0, ""))
    for value in ticks(0, axes.right / unit, 6):
        x = axes.x(value * unit)
        lines.append(
            f'<line class="grid" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}"/>'
        )
        lines.append(text(x, bottom + 20, f"{value:.4g}", "middle"))
    middle = (LEFT + right) / 2
    lines.append(text(middle, HEIGHT - 16, across.format(prefix), "middle"))
    turn = f'transform="rotate(-90 20 {(TOP + bottom) / 2:.0f})"'
    return [*lines, text(20, (TOP + bottom) / 2, up, "middle", turn)]


def _stages(rows: Sequence[Row], axes: Axes) -> list[str]:
    """Where each stage begins and its name, in a run of several."""
    starts: dict[str, float] = {}
    compute = 0.0
    for row in rows:
        starts.setdefault(str(row.get("stage", "")), compute)
        compute = row[COMPUTE] if _has(row, COMPUTE) else compute
    lines = []
    for name, flops in starts.items() if len(starts) > 1 else ():
        x = axes.x(flops)
        lines.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        lines.append(text(x + 5, TOP + 14, name, "start"))
    return lines


def _rewards(points: Sequence[Point], axes: Axes) -> list[str]:
    """A light dot for each step, and the smoothed line."""
    dots = [
        f'<circle class="dot" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2"/>' for x, y in points
    ]
    means = smoothed([y for _, y in points])
    path = [
        f"{axes.x(x):.1f},{axes.y(mean):.1f}" for (x, _), mean in zip(points, means, strict=True)
    ]
    return [*dots, f'<polyline class="line" points="{" ".join(path)}"/>'] if path else []


def _marks(found: Sequence[Estimated], kind: str, axes: Axes) -> list[str]:
    """Evaluation points with their intervals."""
    shapes: list[str] = []
    for e in found:
        x, y, low, high = axes.x(e.x), axes.y(e.mean), axes.y(e.low), axes.y(e.high)
        bar = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"
        shapes.append(f'<path class="{kind} bar" d="{bar}"/>')
        shapes.append(_mark(kind, x, y))
    return shapes


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "sampled":
        return f'<circle class="sampled" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<path class="greedy" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'


def _legend(rewards: bool, marks: Mapping[str, Sequence[Estimated]]) -> list[str]:
    """What the marks mean, with the first and the last value of each evaluation."""
    y, x = 54.0, float(LEFT)
    lines: list[str] = []
    for kind, label in (("sampled", "sampled accuracy"), ("greedy", "greedy accuracy")):
        if found := marks[kind]:
            change = " → ".join(f"{e.mean:.2f}" for e in dict.fromkeys((found[0], found[-1])))
            lines += [_mark(kind, x + 6, y - 4), text(x + 18, y, f"{label} {change}", "start")]
            x += 222
    if rewards:
        lines.append(f'<path class="line" d="M{x:.0f} {y - 4:.0f}h18"/>')
        lines.append(text(x + 26, y, "training reward", "start"))
    return lines


def text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    """Words at a place."""
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {at} {more}>{escape(words)}</text>"
