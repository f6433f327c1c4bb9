"""Small worlds to ask about, procedural: people, each with a passage on whom and what they have.

A question follows links from a person to another and asks for a detail of the last one: "What is
the town of the boss of Bek?" takes two hops. Nobody's name says anything, so that only looking
tells, and each question has a world of its own, drawn from its words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from string import ascii_lowercase

from upslope.retrieval.passages import Passage
from upslope.seeds import seed_of

CONSONANTS = "bcdfghjklmnprstvwz"
NAMES = tuple(a + b + c for a, b, c in product(CONSONANTS, "aeiou", CONSONANTS))
BRIEF = tuple(a + b for a, b in permutations(ascii_lowercase, 2))
LINKS = ("boss", "pal", "aunt")
DETAILS = ("town", "pet", "car")


@dataclass(frozen=True, slots=True)
class Asked:
    """A person, the links to follow from them, and the detail of the last one."""

    name: str
    links: tuple[str, ...]
    detail: str

    @classmethod
    def of(cls, key: str) -> Asked:
        """The question of a ``key``."""
        name, *links, detail = key.split(" ")
        return cls(name, tuple(links), detail)

    @property
    def key(self) -> str:
        """The question in its shortest words: ``bek boss town``."""
        return " ".join((self.name, *self.links, self.detail))

    @property
    def sentence(self) -> str:
        """The question as one asks it."""
        links = "".join(f"the {link} of " for link in self.links[::-1])
        return f"What is the {self.detail} of {links}{self.name.capitalize()}?"


@dataclass(frozen=True, slots=True)
class World:
    """``passages`` by place; ``path``: places of those that the question leads through.

    ``answers``: what is asked for, of each on the path, the last of which is right.
    """

    passages: tuple[Passage, ...]
    path: tuple[int, ...]
    answers: tuple[str, ...]


def asked(hops: int, links: int, details: int, brief: bool, draw: random.Random) -> Asked:
    """A question that takes so many passages, of some of the ``LINKS`` and ``DETAILS``."""
    followed = tuple(draw.choices(LINKS[:links], k=hops - 1))
    return Asked(draw.choice(names(brief)), followed, draw.choice(DETAILS[:details]))


def names(brief: bool) -> Sequence[str]:
    """What people and things are called: two letters, or three that can be said."""
    return BRIEF if brief else NAMES


def world(question: Asked, people: int, links: int, details: int, brief: bool) -> World:
    """The world of a question: always the same; ``brief``: in the fewest words.

    The path goes through different people, and the detail asked for is another one of each.
    """
    kinds = (*LINKS[:links], *DETAILS[:details])
    draw = random.Random(seed_of("archive", question.key, people, *kinds))
    others = draw.sample([n for n in names(brief) if n != question.name], 2 * people - 1)
    persons, things = [question.name, *others[: people - 1]], others[people - 1 :]
    facts = {one: _facts(one, persons, things, kinds, draw) for one in persons}
    path = persons[: len(question.links) + 1]
    said = draw.sample(things, len(path))
    for place, one in enumerate(path):
        facts[one][question.detail] = said[place]
        if place < len(question.links):
            # whoever follows the same link twice must not come back
            facts[one][question.links[place]] = path[place + 1]
    draw.shuffle(persons)
    write = _brief if brief else _plain
    passages = tuple(write(f"{i}", one, facts[one]) for i, one in enumerate(persons))
    answers = said if brief else [word.capitalize() for word in said]
    return World(passages, tuple(map(persons.index, path)), tuple(answers))


def _facts(
    one: str,
    persons: Sequence[str],
    things: Sequence[str],
    kinds: Sequence[str],
    draw: random.Random,
) -> dict[str, str]:
    """A person's links and details, at random."""
    others = [other for other in persons if other != one]
    return {kind: draw.choice(others if kind in LINKS else things) for kind in kinds}


def _brief(name: str, one: str, facts: dict[str, str]) -> Passage:
    return Passage(name, one, " ".join(f"{kind} {value}" for kind, value in facts.items()))


def _plain(name: str, one: str, facts: dict[str, str]) -> Passage:
    who = one.capitalize()
    said = [f"{who}'s {kind} is {value.capitalize()}." for kind, value in facts.items()]
    return Passage(name, who, " ".join(said))
