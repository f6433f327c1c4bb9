"""The curve: what is drawn where, for runs long, short, flat, broken and empty."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from upslope.curve import curve_svg, smoothed, ticks

SVG = "{http://www.w3.org/2000/svg}"


def step(n: int, reward: float | None, stage: str = "train") -> dict[str, Any]:
    return {"step": n, "stage": stage, "ledger/training_flops": n * 1e12, "reward/mean": reward}


def evaluation(n: int, sampled: float, greedy: float) -> dict[str, Any]:
    row: dict[str, Any] = {"step": n, "ledger/training_flops": n * 1e12}
    for kind, mean in (("sampled", sampled), ("greedy", greedy)):
        for part, value in (("mean", mean), ("low", mean - 0.1), ("high", mean + 0.1)):
            row[f"evaluation/{kind}/{part}"] = value
    return row


def shapes(svg: str, tag: str, name: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter(SVG + tag) if e.get("class") == name]


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter(SVG + "text")]


def test_a_rising_run_rises_with_its_compute() -> None:
    metrics = [step(n, n / 10) for n in range(1, 11)]
    svg = curve_svg(metrics, [evaluation(0, 0.2, 0.4), evaluation(10, 0.9, 0.8)], "run")
    dots = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in shapes(svg, "circle", "dot")]
    assert dots == sorted(dots)
    assert [y for _, y in dots] == sorted((y for _, y in dots), reverse=True)
    (line,) = shapes(svg, "polyline", "line")
    assert len(line.attrib["points"].split()) == len(dots) == 10
    assert "training compute in TFLOP" in texts(svg)
    assert "sampled accuracy 0.20 → 0.90" in texts(svg)
    assert "greedy accuracy 0.40 → 0.80" in texts(svg)


def test_evaluations_sit_on_the_axes_with_their_intervals() -> None:
    svg = curve_svg([step(10, 0.5)], [evaluation(0, 0.5, 0.4)], "run")
    mark = next(e for e in shapes(svg, "circle", "sampled") if float(e.attrib["cy"]) > 78)
    (dot,) = shapes(svg, "circle", "dot")
    assert mark.attrib["cx"] == "64.0"
    assert mark.attrib["cy"] == dot.attrib["cy"] == f"{(78 + 440 - 58) / 2:.1f}"
    (bar,) = shapes(svg, "path", "sampled bar")
    low, high = 382 - 0.4 * 304, 382 - 0.6 * 304
    assert bar.attrib["d"].startswith(f"M64.0 {low:.1f}V{high:.1f}M")


@pytest.mark.parametrize(
    ("metrics", "evaluations"),
    [
        ([], []),
        ([step(1, 0.5)], []),
        ([step(0, 0.0)], [evaluation(0, 0.0, 0.0)]),
        ([step(n, 0.0) for n in range(5)], []),
        ([step(n, -3.0 * n) for n in range(50)], [evaluation(3, 0.5, 0.5)]),
        ([step(n, 1e6) for n in range(3)], []),
    ],
)
def test_any_run_is_drawn_inside_the_picture(
    metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]]
) -> None:
    svg = curve_svg(metrics, evaluations, "run")
    assert "nan" not in svg
    assert "inf" not in svg
    dots = shapes(svg, "circle", "dot")
    assert len(dots) == len(metrics)
    assert all(64 <= float(e.attrib["cx"]) <= 736 for e in dots)
    assert all(77.9 <= float(e.attrib["cy"]) <= 382.1 for e in dots)


def test_rows_without_a_reward_are_left_out() -> None:
    metrics = [step(1, 0.5), step(2, None), {"step": 3}, step(4, 0.6)]
    assert len(shapes(curve_svg(metrics, [{"step": 1}], "run"), "circle", "dot")) == 2


def test_stages_are_named_where_they_begin() -> None:
    metrics = [step(n, 0.5, "sft" if n <= 5 else "rl") for n in range(1, 11)]
    svg = curve_svg(metrics, [], "run")
    assert {"sft", "rl"} < set(texts(svg))
    starts = [e.attrib["d"].split()[0] for e in shapes(svg, "path", "grid")]
    assert starts == ["M64.0", f"M{64 + 5 / 10.2 * 672:.1f}"]
    assert "train" not in texts(curve_svg([step(1, 0.5)], [], "run"))


def test_a_title_is_escaped_and_the_picture_stands_alone() -> None:
    svg = curve_svg([], [], 'a < b & "c"')
    assert 'a < b & "c"' in texts(svg)
    assert svg.count("http") == 1
    assert "prefers-color-scheme: dark" in svg


def test_smoothing_keeps_a_constant_and_the_total_of_an_impulse() -> None:
    assert smoothed([0.5] * 30) == pytest.approx([0.5] * 30)
    impulse = [0.0] * 20 + [1.0] + [0.0] * 20
    means = smoothed(impulse)
    assert sum(means) == pytest.approx(1.0, abs=1e-3)
    assert means[20] == max(means) < 0.5
    assert means[:20] == pytest.approx(means[:20:-1])
    assert smoothed([]) == []


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-2.1, 2.0, [-2, -1, 0, 1, 2]),
        (0, 5, [0, 1, 2, 3, 4, 5]),
        (0, 3e-7, [0, 1e-7, 2e-7, 3e-7]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(found)
