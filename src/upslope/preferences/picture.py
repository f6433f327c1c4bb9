"""A calibration report in words and as a picture: Markdown, and a reliability diagram as SVG."""

from __future__ import annotations

from collections.abc import Iterator

from upslope.curve import BOTTOM, HEIGHT, TOP, svg, text
from upslope.estimates import Interval
from upslope.preferences.calibration import BINS, Bin, Report

LEFT, SIDE = 90, HEIGHT - TOP - BOTTOM  # the diagram is a square of this side
STYLE = """
  .said { stroke: #c2571a; stroke-width: 2; fill: none; }
  .even { stroke: #7f7f7f; stroke-dasharray: 5 4; }
"""


def markdown(name: str, report: Report) -> str:
    """The report as a page."""
    lines = [f"# {name}", "", *lines_of(report), "", "## Reliability", ""]
    lines += ["| confidence | pairs | said | came true |", "|---|---|---|---|"]
    lines += [
        f"| {b.low:.2f} to {b.high:.2f} | {b.pairs} | {b.confidence:.3f} | {b.accuracy:.3f} |"
        for b in report.bins
    ]
    lines += ["", "![Reliability](reliability.svg)"]
    for column, found in report.slices.items():
        lines += [
            "",
            f"## Accuracy by {column}",
            "",
            "| value | pairs | accuracy |",
            "|---|---|---|",
        ]
        lines += [f"| {value} | {n} | {figure(seen)} |" for value, (n, seen) in found.items()]
    return "\n".join(lines) + "\n"


def lines_of(report: Report) -> list[str]:
    """Its figures in sentences, a line each."""
    lines = [
        f"accuracy {figure(report.accuracy)} of {report.pairs} held-out pairs",
        f"expected calibration error {report.ece:.3f}, mean -log p {report.nll:.3f}",
        f"length: {report.length_score:+.2f} correlation with scores, {report.length_ahead:+.2f} "
        f"in differences; the longer side won {100 * report.chosen_longer:.1f}% of pairs",
    ]
    if report.temperature is not None:
        lines.append(
            f"temperature {report.temperature:.2f}, fitted on half of them: error "
            f"{report.ece_scaled:.3f} on the other half"
        )
    return [f"- {line}" for line in lines]


def figure(seen: Interval) -> str:
    """A share with its 95% interval, in percent."""
    mean, low, high = (100 * value for value in seen)
    return f"{mean:.1f}% ({low:.1f} to {high:.1f})"


def picture(name: str, report: Report) -> str:
    """Accuracy against confidence; as wide as the bins are, and as tall as what came true."""
    shapes = [*_grid(), *(line for one in report.bins for line in _bar(one, report.pairs))]
    shapes.append(f'<path class="even" d="M{_x(0.5):.1f} {_y(0.5):.1f}L{_x(1):.1f} {_y(1):.1f}"/>')
    dots = " ".join(f"{_x(b.confidence):.1f},{_y(b.accuracy):.1f}" for b in report.bins)
    shapes.append(f'<polyline class="said" points="{dots}"/>')
    right = LEFT + SIDE + 40.0
    for place, line in enumerate(_legend(report)):
        shapes.append(text(right, TOP + 16 + 20 * place, line, "start"))
    return svg(name, "accuracy of a reward model against its confidence", shapes, STYLE)


def _legend(report: Report) -> list[str]:
    return [
        f"{report.pairs} held-out pairs",
        f"accuracy {figure(report.accuracy)}",
        f"expected calibration error {report.ece:.3f}",
        f"mean -log p {report.nll:.3f}",
        "",
        "bars: share of pairs",
        "line: how often it came true",
        "dashes: perfect calibration",
    ]


def _grid() -> Iterator[str]:
    for tick in range(6):
        value = 0.5 + tick / 10
        x, y = _x(value), _y(value)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + SIDE}" y2="{y:.1f}"/>'
        yield text(LEFT - 10, y + 4, f"{value:.1f}", "end")
        yield text(x, HEIGHT - BOTTOM + 20, f"{value:.1f}", "middle")
    yield text(LEFT + SIDE / 2, HEIGHT - 16, "confidence", "middle")
    middle = TOP + SIDE / 2
    yield text(30, middle, "accuracy", "middle", f'transform="rotate(-90 30 {middle:.0f})"')


def _bar(one: Bin, pairs: int) -> Iterator[str]:
    """How many pairs a bin has, from the bottom."""
    tall = one.pairs / pairs * SIDE
    wide = SIDE / BINS - 4
    yield (
        f'<rect class="dot" x="{_x(one.low) + 2:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
        f'width="{wide:.1f}" height="{tall:.1f}"/>'
    )


def _x(confidence: float) -> float:
    return LEFT + (confidence - 0.5) * 2 * SIDE


def _y(accuracy: float) -> float:
    """Below a half, which no calibrated bin is, the line leaves the square at its bottom."""
    return min(HEIGHT - BOTTOM, HEIGHT - BOTTOM - (accuracy - 0.5) * 2 * SIDE)
