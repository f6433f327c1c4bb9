"""Writes docs/performance.md and its picture from what the benchmarks printed: benchmarks/results.

    python benchmarks/page.py

Each file there is a benchmark's own output, kept by ``make bench`` and its like: its command, its
figures, and lines "ratio 2.85, bound 2.8". Nothing is measured and no figure is written here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
RATIO = re.compile(r"^ratio +([\d.]+)(?:.*?bound ([\d.]+))?", re.MULTILINE)
# Where each peer has a line of its own.
PEER = re.compile(r"^(?!upslope)[a-z]+ .*\)  ([\d.]+)$", re.MULTILINE)
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 760, 300, 70, 16, 12, 56
STYLE = """
  .paper { fill: #ffffff; } .ink { fill: #1f2430; } .soft { fill: #6b7280; } .bar { fill: #1d5fd1; }
  .one { stroke: #6b7280; } .bound { stroke: #c2571a; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #14171c; } .ink { fill: #e8eaee; } .soft { fill: #9aa3b0; }
    .bar { fill: #6ea8ff; } .one { stroke: #9aa3b0; } .bound { stroke: #f2975a; }
  }
  text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  .title { font-size: 16px; font-weight: 600; }
"""
HEAD = """# Performance

Written by `python benchmarks/page.py` from `benchmarks/results/`, which holds what the benchmarks
printed; do not edit. [benchmarks/README.md](../benchmarks/README.md) says what each compares.

![How many times the peer's speed, each with the bound that it is held to](performance.svg)

A bar is how many times as fast as its peer Upslope did the same work, side by side on one machine
(two cores of an AMD EPYC, Zen 5, without a GPU); the mark is the bound that was set before it was
measured. CPU-seconds of one thread, but for vLLM and the overlap, which are elapsed time on two.
Ratios carry over to other machines better than the figures themselves. Other programs ran beside
the steps of TRL, which takes something from both sides.
"""


@dataclass(frozen=True)
class Result:
    """One benchmark's output; its title is the file's first line."""

    name: str
    title: str
    said: str

    @property
    def ratio(self) -> tuple[float, float | None] | None:
        """The ratio that it ended with, and its bound; of several peers, the least."""
        found = RATIO.findall(self.said) or [(r, "") for r in PEER.findall(self.said)]
        if not found:
            return None
        ratio, bound = min(found, key=lambda pair: float(pair[0]))
        return float(ratio), float(bound) if bound else None


def read() -> list[Result]:
    """All results, in the order of their names."""
    out = []
    for path in sorted(RESULTS.glob("*.txt")):
        title, _, said = path.read_text(encoding="utf-8").partition("\n")
        out.append(Result(path.stem, title.removeprefix("# "), said.strip()))
    return out


def picture(results: Sequence[Result]) -> str:
    """Bars of ratios on a scale that begins at 0, with a line at 1 and a mark at each bound."""
    shown = [(r, r.ratio) for r in results]
    rows = [(result, *ratio) for result, ratio in shown if ratio]
    most = max(max(ratio, bound or 0) for _, ratio, bound in rows)
    height = TOP + len(rows) * (BAR + GAP) + GAP

    def x(value: float) -> float:
        return LEFT + value / most * (WIDTH - LEFT - RIGHT)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' aria-label="Speed against peers">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        '<text class="ink title" x="16" y="30">Times as fast as the peer, on the same work</text>',
    ]
    for row, (result, ratio, bound) in enumerate(rows):
        y = TOP + row * (BAR + GAP)
        text, end = y + BAR - 4, x(max(ratio, bound or 0)) + 6
        lines += [
            f'<text class="soft" x="{LEFT - 10}" y="{text}" text-anchor="end">'
            f"{escape(result.title)}</text>",
            f'<rect class="bar" x="{LEFT}" y="{y}" width="{x(ratio) - LEFT:.1f}" height="{BAR}"/>',
            f'<text class="ink" x="{end:.1f}" y="{text}">{ratio:g}</text>',
        ]
        if bound:
            at = f"{x(bound):.1f}"
            lines.append(f'<path class="bound" d="M{at},{y - 3} V{y + BAR + 3}"/>')
    lines.append(f'<path class="one" d="M{x(1):.1f},{TOP - 6} V{height - GAP}"/>')
    return "\n".join([*lines, "</svg>", ""])


def page(results: Sequence[Result]) -> str:
    """Every benchmark's words under its title."""
    parts = [f"## {r.title}\n\n```text\n{r.said}\n```\n" for r in results]
    return "\n".join([HEAD, *parts])


def main() -> None:
    """Write both files."""
    results = read()
    (DOCS / "performance.svg").write_text(picture(results), encoding="utf-8")
    (DOCS / "performance.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
