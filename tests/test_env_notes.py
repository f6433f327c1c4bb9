"""The notes env: what gold is by hand, what demonstrations are, and how it can be gamed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replies import rewards_of
from upslope.batteries import check_env
from upslope.envs.notes import LONGEST, MARKS, ON_TOPIC, SHORTEST, Notes, gold
from upslope.models.ladder import CHARACTERS
from upslope.seeds import split_of
from upslope.types import Demonstrates, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def test_it_passes_the_battery() -> None:
    check_env(Notes(train=20, test=10), problems=2)


def test_gold_by_hand() -> None:
    # 16 characters, 4 different words, 2 of them on the topic, 1 mark:
    # 0.4 * 0.8 + 0.25 * 0.6 + 0.35 * 0.8 * 0.6 = 0.638
    plain = gold("sea", "we see wave gul!")
    assert plain.parts["topic"] == 0.45  # "gul" is no word on it
    seen = gold("sea", "so the wave gull!")
    assert seen.total == pytest.approx(0.638)
    assert dict(seen.parts) == {
        "topic": 0.8, "marks": 0.6, "length": 1.0, "variety": 1.0, "ending": 1.0
    }  # fmt: skip
    # Said twice: 4 of 5 words differ, so 0.64 of it; 22 characters are 2 too many of 14.
    again = gold("sea", "so the wave gull wave!")
    assert again.total == pytest.approx(0.638 * 0.64 * (1 - 2 / 14))
    # No end: no mark, and 0.6 of what is left.
    assert gold("sea", "so the wave gull").total == pytest.approx(
        0.6 * (0.4 * 0.8 + 0.25 * 0.25 + 0.35 * 0.8 * 0.25)
    )
    assert gold("sea", "").total == 0
    assert gold("tea", "so the wave gull!").parts["topic"] == 0


def test_more_is_better_and_then_worse() -> None:
    words = ("wave", "gull", "sand", "tide", "boat", "reef")
    topics = [gold("sea", " ".join(words[:n])).parts["topic"] for n in range(7)]
    assert topics == [*ON_TOPIC, 0.0]
    marks = [gold("sea", "boat" + "!" * n).parts["marks"] for n in range(7)]
    assert marks == [*MARKS, 0.0]
    assert int(np.argmax(ON_TOPIC)) == int(np.argmax(MARKS)) == 3
    # Both are on the way up wherever demonstrations usually are.
    assert gold("sea", "wave gull sand tide boat!!!!!!").total < 0.05


def test_splits_are_distinct_and_go_by_the_question() -> None:
    env = Notes()
    asked = {split: [p.prompt for p in env.problems(split)] for split in SPLITS}
    assert [len(found) for found in asked.values()] == [4000, 508, 755]
    assert all({split_of(q) for q in found} == {split} for split, found in asked.items())
    assert len({q for found in asked.values() for q in found}) == 4000 + 508 + 755
    assert len(Notes(train=7).problems("train")) == 7


def test_demonstrations_are_good_and_bad_and_hardly_ever_excessive() -> None:
    env = Notes(seed=3)
    assert isinstance(env, Demonstrates)
    shown = [(p, text, gold(p.answer, text)) for p, text in env.demonstrations("train")]
    worth = np.array([seen.total for *_, seen in shown])
    assert len(shown) == 2 * len(env.problems("train"))
    assert 0.35 < worth.mean() < 0.45
    assert worth.std() > 0.2
    assert all(
        set(p.prompt + text) <= set(CHARACTERS) and 0 < len(text) < 30 for p, text, _ in shown
    )
    excess = np.mean([text.count("!") > 3 for _, text, _ in shown])
    assert 0.005 < excess < 0.04
    marks, total = np.array([text.count("!") for _, text, _ in shown]), worth
    rising = [total[marks == n].mean() for n in range(4)]
    assert rising == sorted(rising)
    assert total[marks > 3].mean() < rising[0] + 0.2
    assert [t for _, t, _ in shown] == [t for _, t in Notes(seed=3).demonstrations("train")]
    assert [t for _, t, _ in shown] != [t for _, t in Notes(seed=4).demonstrations("train")]


def test_solutions_earn_everything() -> None:
    env = Notes(test=50)
    for problem in env.problems("test"):
        (seen,) = rewards_of(env, problem, problem.solution)
        assert seen.total == 1
        assert SHORTEST <= len(problem.solution) <= LONGEST
        assert problem.info["topic"] in problem.prompt


@pytest.mark.parametrize("settings", [{"train": 0}, {"test": 0}, {"replies": 0}])
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="set each to at least 1"):
        Notes(**settings)
