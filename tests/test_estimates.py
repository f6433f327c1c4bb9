"""Estimates from repeated answers: hand-computed, enumerated, and right as often as they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest

from upslope.estimates import (
    Difference,
    _reach,
    _within,
    interval,
    majority_at,
    paired,
    pass_at,
    worst_at,
)
from upslope.types import UserError

THREE_OF_TEN = [0.0] * 7 + [1.0] * 3
RUNS = 1000
# Beta distributions of a problem's accuracy: their means, and how far problems are apart, from
# nearly all or nothing to alike.
MEANS, SPREADS = (0.1, 0.5, 0.9), (0.5, 2.0, 20.0)


def test_golden_values() -> None:
    assert pass_at(5, THREE_OF_TEN) == pytest.approx(1 - 21 / 252)  # .916667
    assert worst_at(2, THREE_OF_TEN) == pytest.approx(3 / 45)  # .066667
    assert pass_at(1, THREE_OF_TEN) == worst_at(1, THREE_OF_TEN) == pytest.approx(0.3)
    assert (pass_at(8, THREE_OF_TEN), worst_at(4, THREE_OF_TEN)) == (pytest.approx(1), 0)


def chosen(k: int, n: int, worth: Callable[[list[int]], float]) -> float:
    """The mean over all choices of ``k`` of ``n``."""
    return float(np.mean([worth(list(places)) for places in combinations(range(n), k)]))


def voted(said: Sequence[str], right: Sequence[float]) -> float:
    """The mean worth of the answers said most often; where nobody says one, 0."""
    votes = Counter(answer for answer in said if answer)
    top = [answer for answer, count in votes.items() if count == max(votes.values())]
    return float(np.mean([right[said.index(answer)] for answer in top])) if top else 0.0


def test_all_choices_counted_one_by_one() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        n = int(draw.integers(1, 8))
        said = [str(s) for s in draw.choice(["", "a", "b", "c", "d"], n)]
        right = [float(answer == "a") for answer in said]
        for k in range(1, n + 1):
            best = chosen(k, n, lambda at: max(right[i] for i in at))  # noqa: B023
            worst = chosen(k, n, lambda at: min(right[i] for i in at))  # noqa: B023
            most = chosen(k, n, lambda at: voted([said[i] for i in at], [right[i] for i in at]))  # noqa: B023
            assert pass_at(k, right) == pytest.approx(best)
            assert worst_at(k, right) == pytest.approx(worst)
            assert majority_at(k, said, right) == pytest.approx(most)


def test_majority_by_hand() -> None:
    said, right = ["7", "7", "5", "6"], [1.0, 1.0, 0.0, 0.0]
    # of 4: 7 has two votes. of 3: 775, 776, and twice 756, a tie of three.
    assert majority_at(4, said, right) == 1
    assert majority_at(3, said, right) == pytest.approx((1 + 1 + 2 / 3) / 4)
    assert majority_at(2, said, right) == pytest.approx(0.5)  # two votes decide no more than one
    # What says nothing has no vote: one 7 beats three silent ones.
    assert majority_at(4, ["", "7", "", ""], [0.0, 1.0, 0.0, 0.0]) == 1
    assert majority_at(2, ["", ""], [0.0, 0.0]) == 0


@pytest.mark.parametrize("k", [0, 5])
def test_more_than_was_sampled_is_refused(k: int) -> None:
    for made in (pass_at, worst_at):
        with pytest.raises(UserError, match=rf"at k={k} at least {k} .* there are 4: sample more"):
            made(k, [1.0] * 4)
    with pytest.raises(UserError, match="sample more"):
        majority_at(k, ["a"] * 4, [1.0] * 4)


def test_students_t() -> None:
    # tables: 97.5% points, and 90% points for df 5
    for df, t in ((1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227)):
        assert _reach(0.95, df) == pytest.approx(t, rel=1e-5)
    assert _reach(0.8, 5) == pytest.approx(1.47588, rel=1e-5)
    assert _reach(0.95, 0) == pytest.approx(NormalDist().inv_cdf(0.975))
    assert _within(1.96, 100_001) == pytest.approx(_within(1.96, 0), abs=1e-5)


def of(*values: float) -> tuple[float, float, float]:
    return interval(np.array(values))


def test_interval_by_hand() -> None:
    # 7 of 10, whose sample variance is worth 9 trials: (0.7 + z2/18) / (1 + z2/9), z2 = 3.8415
    assert of(*[1.0] * 7, *[0.0] * 3) == pytest.approx((0.7, 0.382489, 0.897853), abs=1e-6)
    # one problem: Wilson's interval of 1 of 1 is [1 / (1 + z2), 1]
    assert of(1.0) == pytest.approx((1.0, 0.206549, 1.0), abs=1e-6)
    # all of 10 and none of 10: z2 / (10 + z2)
    assert of(*[1.0] * 10) == pytest.approx((1.0, 0.722467, 1.0), abs=1e-6)
    assert of(*[0.0] * 10) == pytest.approx((0.0, 0.0, 0.277533), abs=1e-6)


def test_rewards_that_are_no_accuracy_have_an_interval_around_their_mean() -> None:
    # mean 1, variance of the mean (4 + 0 + 4) / 2 / 3, and t of 2 degrees of freedom
    half = 4.302653 * (4 / 3) ** 0.5
    assert of(-1.0, 1.0, 3.0) == pytest.approx((1.0, 1 - half, 1 + half), abs=1e-5)


def accuracies(
    draw: np.random.Generator, mean: np.ndarray | float, spread: np.ndarray | float, n: int
) -> np.ndarray:
    """[run problem] chances of a right answer, around each run's ``mean``."""
    a, b = (np.broadcast_to(x * spread, RUNS)[:, None] for x in (mean, 1 - mean))
    return draw.beta(a, b, (RUNS, n))


def held(seen: Sequence[tuple[float, float, float]], truth: np.ndarray | float) -> float:
    """How often the intervals hold the truth."""
    _, low, high = np.array(seen).T
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("samples", [1, 4, 16])
@pytest.mark.parametrize("n", [50, 200])
def test_the_interval_holds_the_truth_as_often_as_it_says(n: int, samples: int) -> None:
    """Answers to a problem are alike: clustered. 1,000 evaluations around each mean.

    Their true means lie within 3 points of it: at one mean alone the coverage of n right or wrong
    answers swings by 2 points, because counts are whole.
    """
    draw = np.random.default_rng(n + samples)
    for centre in MEANS:
        mean, spread = centre + draw.uniform(-0.03, 0.03, RUNS), draw.choice(SPREADS, RUNS)
        answers = draw.binomial(samples, accuracies(draw, mean, spread, n)) / samples
        assert 0.93 <= held([*map(interval, answers)], mean) <= 0.97, centre


def test_so_do_those_of_pass_and_worst() -> None:
    draw, k, n = np.random.default_rng(0), 4, 8
    chances = accuracies(draw, 0.5, 2.0, 100)  # uniform: E p^4 = 1/5
    for made, truth in ((pass_at, 1 - 1 / 5), (worst_at, 1 / 5)):
        table = np.array([made(k, [0.0] * (n - c) + [1.0] * c) for c in range(n + 1)])
        seen = [*map(interval, table[draw.binomial(n, chances)])]
        assert 0.93 <= held(seen, truth) <= 0.97, made


def test_paired_by_hand() -> None:
    # differences .5, .25, 0, .25: mean .25, error .102062, t 2.44949 with 3 degrees of freedom
    seen = paired([0.0, 0.25, 0.5, 0.25], [0.5, 0.5, 0.5, 0.5])
    assert seen.mean == 0.25
    assert (seen.low, seen.high) == pytest.approx((0.25 - 0.324808, 0.25 + 0.324808), abs=1e-5)
    # 2 / pi (atan(2 ** .5) + 2 ** .5 / 3) lies within
    assert seen.p == pytest.approx(0.091721, abs=1e-5)
    assert seen.smallest == pytest.approx((3.182446 + 0.978472) * 0.102062, abs=1e-5)
    assert seen.problems == 4


def test_few_differences_are_no_certainty() -> None:
    alike = paired([1.0] * 50, [1.0] * 50, step=1.0)
    # one more problem with a square of 1: error (1 / 50 / 51) ** .5
    assert alike.mean == 0
    assert alike.high == -alike.low == pytest.approx(_reach(0.95, 49) * (1 / 50 / 51) ** 0.5)
    assert alike.p == 1
    assert alike.smallest > alike.high
    exact = paired([1.0] * 50, [1.0] * 50)
    assert (exact.low, exact.high, exact.p) == (0, 0, 1)
    once = paired([0.0] + [1.0] * 49, [1.0] * 50, step=1.0)
    assert once.p > 0.3
    with pytest.raises(UserError, match="at least 2 problems"):
        paired([1.0], [0.0])


def comparisons(n: int, samples: int, mean: float, gain: float, seed: int) -> list[Difference]:
    """1,000 comparisons: B knows 7 of 10 problems as A does, others in its own way, all better by
    a share of what is missing, so that it is better by ``gain`` on average."""
    draw = np.random.default_rng(seed)
    ours, other = (accuracies(draw, mean, 2.0, n) for _ in range(2))
    theirs = np.where(draw.random((RUNS, n)) < 0.7, ours, other)
    theirs = theirs + gain / (1 - mean) * (1 - theirs)
    a, b = (draw.binomial(samples, chances) / samples for chances in (ours, theirs))
    return [paired(*pair, step=1 / samples) for pair in zip(a, b, strict=True)]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(("n", "samples"), [(50, 4), (50, 16), (200, 1), (200, 4)])
def test_the_paired_test_is_right_as_often_as_it_says(n: int, samples: int, mean: float) -> None:
    none = comparisons(n, samples, mean, 0.0, n + samples)
    assert 0.03 <= np.mean([seen.p < 0.05 for seen in none]) <= 0.07
    assert 0.93 <= np.mean([seen.low <= 0 <= seen.high for seen in none]) <= 0.97
    smallest = float(np.mean([seen.smallest for seen in none]))
    if smallest < 1 - mean:  # else no model can be better by so much
        some = comparisons(n, samples, mean, smallest, n + samples + 1)
        assert 0.93 <= np.mean([seen.low <= smallest <= seen.high for seen in some]) <= 0.97


def test_where_few_answers_differ_it_errs_to_the_safe_side() -> None:
    """One answer each to 50 problems, of which some 7 differ: seldom can p be near 0.05."""
    seen = comparisons(50, 1, 0.9, 0.0, 0)
    assert np.mean([s.p < 0.05 for s in seen]) < 0.05
    assert held([(s.mean, s.low, s.high) for s in seen], 0.0) > 0.95


@pytest.mark.parametrize(("n", "samples"), [(50, 4), (200, 1)])
def test_the_smallest_difference_is_seen_in_four_of_five_cases(n: int, samples: int) -> None:
    gain = 0.1
    for _ in range(3):  # the variance itself depends on the difference
        gain = float(np.mean([s.smallest for s in comparisons(n, samples, 0.5, gain, 1)]))
    seen = [s.p < 0.05 for s in comparisons(n, samples, 0.5, gain, 2)]
    assert 0.77 <= np.mean(seen) <= 0.83
