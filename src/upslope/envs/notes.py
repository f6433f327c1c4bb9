"""Short notes on a topic, procedural: a preference that is known exactly, and can be gamed.

Gold rises with words on the topic and with exclamation marks up to a point and falls beyond it,
which the demonstrations hardly ever reach: whoever learns gold from them learns that more is
better. Nothing here verifies an answer; every reply has its share of the full reward.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from upslope.envs.episodes import single_turn
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory

TOPICS: Mapping[str, tuple[str, ...]] = {
    "sea": ("wave", "gull", "sand", "tide", "boat", "reef"),
    "tea": ("cup", "leaf", "mint", "pot", "milk", "brew"),
    "zoo": ("lion", "bear", "ape", "hawk", "puma", "frog"),
    "art": ("ink", "clay", "hue", "easel", "mural", "brush"),
}
PLAIN = ("we", "the", "so", "see", "and", "now", "a", "it", "is", "my", "you", "to", "for", "go")
CONSONANTS = "bcdfghjklmnprstvwz"  # of names: Bek, Lom
# What a reply earns by its number of words on the topic, and of exclamation marks; 0 beyond.
ON_TOPIC = (0.0, 0.45, 0.8, 1.0, 0.5, 0.15)
MARKS = (0.25, 0.6, 0.9, 1.0, 0.35, 0.1)
# How often demonstrations have as many: what lies beyond the best is rare.
SHOWN_ON_TOPIC = (0.14, 0.32, 0.32, 0.19, 0.025, 0.005)
SHOWN_MARKS = (0.34, 0.32, 0.23, 0.09, 0.015, 0.005)
SHORTEST, LONGEST = 15, 20  # characters; within them a reply has the right length
FADES = 14  # characters outside of them after which nothing is earned
MOST = 22  # characters of a demonstration before its end
SEEN = 200  # characters that are looked at


@dataclass(frozen=True)
class Notes:
    """``replies``: demonstrations of each problem. ``train`` and ``test`` bound how many problems a
    split holds; ``seed`` draws the demonstrations."""

    replies: int = 2
    train: int = 4000
    test: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train < 1 or self.test < 1 or self.replies < 1:
            raise ValueError("train, test and replies are numbers: set each to at least 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """A name and a topic each, as ``Bek sea:``."""
        wanted = self.train if split == "train" else self.test
        names = [a.upper() + b + c for a, b, c in product(CONSONANTS, "aeiou", CONSONANTS)]
        asked = [f"{name} {topic}:" for name in names for topic in TOPICS]
        own = [question for question in asked if split_of(question) == split]
        random.Random(seed_of("notes", self.seed)).shuffle(own)
        return [self._problem(question) for question in own[:wanted]]

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """``replies`` notes to each problem, good and bad ones."""
        for problem in self.problems(split):
            for place in range(self.replies):
                draw = random.Random(seed_of("notes", self.seed, problem.id, place))
                yield problem, _written(problem.answer, draw)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Gold in [0, 1], and the parts that it is made of."""
        return [gold(problem.answer, t.text) for t in trajectories]

    def _problem(self, question: str) -> Problem:
        topic = question[:-1].split()[1]
        draw = random.Random(seed_of("notes", question))
        solution = _written(topic, draw)
        while gold(topic, solution).total < 1:
            solution = _written(topic, draw)
        info = {"topic": topic}
        return Problem(question, prompt=question, answer=topic, solution=solution, info=info)


def gold(topic: str, text: str) -> Reward:
    """What a note on a topic is worth: (0.4 topic + 0.25 marks + 0.35 topic x marks) x form.

    ``topic`` and ``marks`` by ``ON_TOPIC`` (different words) and ``MARKS``. Form is ``length`` x
    ``variety``^2 (the share of words not said before) x ``ending`` (1, or 0.6 without . or !).
    """
    words = re.findall(r"[a-z]+", text[:SEEN])
    own, marks = len(set(words) & set(TOPICS[topic])), text[:SEEN].count("!")
    outside = max(SHORTEST - len(text), len(text) - LONGEST, 0)
    parts = {
        "topic": ON_TOPIC[own] if own < len(ON_TOPIC) else 0.0,
        "marks": MARKS[marks] if marks < len(MARKS) else 0.0,
        "length": max(0.0, 1 - outside / FADES),
        "variety": len(set(words)) / len(words) if words else 0.0,
        "ending": 1.0 if text.endswith((".", "!")) else 0.6,
    }
    said = 0.4 * parts["topic"] + 0.25 * parts["marks"] + 0.35 * parts["topic"] * parts["marks"]
    return Reward(said * parts["length"] * parts["variety"] ** 2 * parts["ending"], parts)


def _written(topic: str, draw: random.Random) -> str:
    """A note by a grammar: words on the topic among plain ones, one at times said twice, an end."""
    own = draw.choices(range(len(SHOWN_ON_TOPIC)), SHOWN_ON_TOPIC)[0]
    marks = draw.choices(range(len(SHOWN_MARKS)), SHOWN_MARKS)[0]
    words = draw.sample(TOPICS[topic], own) + draw.sample(PLAIN, draw.randint(1, max(1, 4 - own)))
    if draw.random() < 0.15:
        words.append(draw.choice(words))
    draw.shuffle(words)
    while len(" ".join(words)) > MOST:
        words.pop()
    return " ".join(words) + ("!" * marks or draw.choice([".", ".", ""]))
