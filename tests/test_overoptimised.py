"""The best of n without bias, and the forms of a proxy that is followed too far."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from upslope.scaling.overoptimised import best_of_n, follow, kl_best_of_n, r_squared
from upslope.types import UserError


def test_the_kl_of_the_best_of_n() -> None:
    # arXiv:2210.10760's exact form at 4, 64 and 1,024.
    assert kl_best_of_n(np.array([1, 4, 64, 1024])) == pytest.approx(
        [0.0, 0.636294, 3.174508, 5.932448], abs=1e-6
    )


def test_the_best_of_n_is_the_mean_over_all_sets() -> None:
    draw = np.random.default_rng(3)
    score, value = draw.normal(size=(2, 7)), draw.normal(size=(2, 7))
    for n in range(1, 8):
        sets = list(combinations(range(7), n))
        by_hand = [
            np.mean([v[max(some, key=lambda i: s[i])] for some in sets])
            for s, v in zip(score, value, strict=True)
        ]
        assert best_of_n(score, value, [n])[:, 0] == pytest.approx(by_hand)


def test_equal_scores_choose_any_of_the_equals() -> None:
    # Best of 2 of scores 0, 1, 1: the first reply never wins; of 1, 1 either does.
    assert best_of_n(np.array([0.0, 1.0, 1.0]), np.array([9.0, 2.0, 4.0]), [2])[0, 0] == 3.0
    assert best_of_n(np.zeros(3), np.array([9.0, 2.0, 4.0]), [1, 3])[0] == pytest.approx([5, 5])


def test_many_replies_do_not_overflow() -> None:
    score = np.arange(2048.0)
    found = best_of_n(score, score, [1, 2, 2048])[0]
    assert found == pytest.approx([1023.5, 2049 * 2 / 3 - 1, 2047.0])


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="best of 8 needs as many replies"):
        best_of_n(np.zeros((2, 4)), np.zeros((2, 4)), [1, 8])


@pytest.mark.parametrize(
    ("kind", "gold", "peak"),
    [
        ("best_of_n", lambda d: d * (1.2 - 0.3 * d), 2.0),
        ("rl", lambda d: d * (1.2 - 0.6 * np.log(d)), np.e),
    ],
)
def test_the_forms_are_found_with_their_peak(kind: str, gold: object, peak: float) -> None:
    d = np.linspace(0.2, 3, 12)
    ys = np.stack([gold(d), 2 * gold(d)])  # type: ignore[operator]
    found = follow(kind, d, ys)  # type: ignore[arg-type]
    assert found.a == pytest.approx([1.2, 2.4])
    assert found.peak == pytest.approx([peak, peak])
    assert found.at(d) == pytest.approx(ys)
    assert r_squared(ys, found.at(d)) == pytest.approx([1.0, 1.0])


def test_what_never_falls_has_no_peak() -> None:
    d = np.linspace(0.2, 3, 12)
    assert follow("best_of_n", d, d * (1 + 0.1 * d)).peak[0] == np.inf


def test_rl_begins_at_nothing() -> None:
    found = follow("rl", np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0 - 2 * np.log(2)]))
    assert found.at(np.array([0.0, 1.0]))[0] == pytest.approx([0.0, 1.0])
