"""The calibration report: figures by hand, and faults seeded into scores that it must show."""

from __future__ import annotations

import math

import numpy as np
import pytest

from upslope.preferences import calibration
from upslope.preferences.calibration import report
from upslope.preferences.picture import markdown, picture
from upslope.types import UserError


def drawn(scale: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose winner is drawn by the true chances, with scores ``scale`` times too far apart;
    and lengths that say nothing."""
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(count, 2)) * 1.5
    wins = draw.random(count) < 1 / (1 + np.exp(truth[:, 1] - truth[:, 0]))
    ordered = np.where(wins[:, None], truth, truth[:, ::-1])
    return ordered * scale, draw.integers(4, 20, (count, 2)).astype(float)


def test_figures_by_hand() -> None:
    ahead = np.array([math.log(9), math.log(9), -math.log(9), math.log(1.5), 0.0])
    found, bins = calibration.reliability(ahead)
    # Confidences 0.9 (two of three right), 0.6 (right) and 0.5 (a tie counts half).
    assert [(b.pairs, round(b.confidence, 3), round(b.accuracy, 3)) for b in bins] == [
        (1, 0.5, 0.5), (1, 0.6, 1.0), (3, 0.9, 0.667)
    ]  # fmt: skip
    assert found == pytest.approx((0.4 + 3 * (0.9 - 2 / 3)) / 5)
    expected = -(2 * math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(0.5)) / 5
    assert calibration.nll(ahead) == pytest.approx(expected)
    assert calibration.right_of(ahead).tolist() == [1, 1, 0, 1, 0.5]


def test_honest_scores_are_calibrated_and_boasting_ones_are_not() -> None:
    scores, lengths = drawn(1.0)
    honest = report(scores, lengths, {}, scaling=True)
    assert honest.ece < 0.02
    assert honest.temperature == pytest.approx(1, abs=0.12)
    loud = report(drawn(3.0)[0], lengths, {}, scaling=True)
    assert loud.accuracy == honest.accuracy  # the order of scores is the same
    assert loud.ece > 0.08
    assert loud.temperature == pytest.approx(3, abs=0.35)
    assert loud.ece_scaled is not None
    assert loud.ece_scaled < 0.03


def test_scores_that_only_count_are_found_out() -> None:
    scores, lengths = drawn(1.0)
    fair = report(scores, lengths, {})
    assert abs(fair.length_score) < 0.05
    assert fair.chosen_longer == pytest.approx(0.5, abs=0.03)
    counting = report(lengths, lengths, {})
    assert counting.length_score == pytest.approx(1)
    assert counting.length_ahead == pytest.approx(1)
    assert counting.accuracy.mean == pytest.approx(counting.chosen_longer)
    by_length = counting.slices["length"]
    assert by_length["the longer won"][1].mean == 1
    assert by_length["the shorter won"][1].mean == 0
    assert by_length["equal lengths"][1].mean == 0.5


def test_a_weak_slice_shows() -> None:
    scores, lengths = drawn(1.0)
    source = ["one" if i % 4 else "other" for i in range(len(scores))]
    spoilt = np.where((np.arange(len(scores)) % 4 == 0)[:, None], scores[:, ::-1], scores)
    seen = report(spoilt, lengths, {"source": source}).slices["source"]
    assert [*seen] == ["one", "other"]
    assert seen["one"][0] == 3 * seen["other"][0]
    assert seen["one"][1].low > 0.7
    assert seen["other"][1].high < 0.4


def test_the_temperature_is_the_least_of_its_loss() -> None:
    ahead = drawn(2.0)[0] @ np.array([1.0, -1.0])
    best = calibration.fitted_temperature(ahead)
    least = calibration.nll(ahead / best)
    assert all(least < calibration.nll(ahead / (best * near)) for near in (0.98, 1.02))


def test_too_little_or_broken() -> None:
    scores, lengths = drawn(1.0, 10)
    with pytest.raises(UserError, match="7 pairs are too few to judge by: give at least 8"):
        report(scores[:7], lengths[:7], {})
    scores[3, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        report(scores, lengths, {})


def test_the_page_and_the_picture_have_the_figures() -> None:
    scores, lengths = drawn(1.0, 400)
    seen = report(scores, lengths, {"source": ["x|y"] * 400}, scaling=True)
    page = markdown("A model", seen)
    assert page.count("\n| 0.") == len(seen.bins)
    assert f"{100 * seen.accuracy.mean:.1f}%" in page
    assert f"error {seen.ece:.3f}" in page
    assert "## Accuracy by source" in page
    drawing = picture("A <model>", seen)
    assert drawing.count('<rect class="dot"') == len(seen.bins)
    assert "A &lt;model&gt;" in drawing
