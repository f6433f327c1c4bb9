"""Small worlds to ask about, procedural: people, each with a passage on whom and what they have.

A question follows links from a person to another and asks for a detail of the last one: "What is
the town of the boss of Bek?" takes two hops. Names say nothing, and each volume of the archive has
people of its own, so that only looking into it tells.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase, ascii_uppercase

from upslope.retrieval.passages import Passage
from upslope.seeds import seed_of

CONSONANTS = "bcdfghjklmnprstvwz"
NAMES = tuple(a + b + c for a, b, c in product(CONSONANTS, "aeiou", CONSONANTS))
LETTERS = tuple(ascii_lowercase)
LINKS = ("boss", "pal", "aunt")
DETAILS = ("town", "pet", "car")
VOLUMES = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """A volume, a person in it, the links to follow from them, and the detail of the last one."""

    volume: int
    name: str
    links: tuple[str, ...]
    detail: str

    @classmethod
    def of(cls, key: str) -> Asked:
        """The question of a ``key``."""
        volume, name, *links, detail = key.split(" ")
        return cls(int(volume), name, tuple(links), detail)

    @property
    def key(self) -> str:
        """The question in its shortest words: ``37 bek boss town``."""
        return " ".join((str(self.volume), self.name, *self.links, self.detail))

    @property
    def sentence(self) -> str:
        """The question as one asks it."""
        links = "".join(f"the {link} of " for link in self.links[::-1])
        whose = f"{links}{self.name.capitalize()}"
        return f"In volume {self.volume}, what is the {self.detail} of {whose}?"


@dataclass(frozen=True, slots=True)
class World:
    """A volume's people, in the order of their passages, and what each passage says by kind.

    ``ids`` are drawn from many more than there are: a page that was not found is not guessed.
    """

    people: tuple[str, ...]
    ids: tuple[str, ...]
    facts: tuple[dict[str, str], ...]
    brief: bool

    @classmethod
    def of(cls, volume: int, people: int, links: int, details: int, brief: bool) -> World:
        """Always the same for the same volume; ``brief``: names are letters."""
        kinds = (*LINKS[:links], *DETAILS[:details])
        draw = random.Random(seed_of("archive", volume, people, *kinds))
        names = draw.sample(LETTERS if brief else NAMES, 2 * people)
        persons, things = names[:people], names[people:]
        facts = []
        for one in persons:
            # nobody is named twice, so that a search for a name finds its own passage first
            others = draw.sample([other for other in persons if other != one], links)
            details_of = {kind: draw.choice(things) for kind in DETAILS[:details]}
            facts.append({**dict(zip(LINKS, others, strict=False)), **details_of})
        ids = draw.sample(ascii_uppercase if brief else [*map(str, range(100, 1000))], people)
        return cls(tuple(persons), tuple(ids), tuple(facts), brief)

    def path(self, asked: Asked) -> list[int]:
        """Places of the people that a question leads through."""
        found = [self.people.index(asked.name)]
        for link in asked.links:
            found.append(self.people.index(self.facts[found[-1]][link]))
        return found

    def answers(self, asked: Asked) -> list[str]:
        """What is asked for, of each on the path, the last of which is right."""
        said = [self.facts[place][asked.detail] for place in self.path(asked)]
        return said if self.brief else [word.capitalize() for word in said]

    def passages(self) -> list[Passage]:
        """A passage for each person."""
        write = _brief if self.brief else _plain
        return [write(*one) for one in zip(self.ids, self.people, self.facts, strict=True)]

    def asks(self, hops: int, volume: int, draw: random.Random) -> Asked | None:
        """A question of so many hops; None where it comes back, or stopping early were right."""
        kinds = self.facts[0]
        links = [kind for kind in LINKS if kind in kinds]
        details = [kind for kind in DETAILS if kind in kinds]
        followed = tuple(draw.choices(links, k=hops - 1))
        asked = Asked(volume, draw.choice(self.people), followed, draw.choice(details))
        answers = self.answers(asked)
        sound = len({*self.path(asked)}) == hops and answers[-1] not in answers[:-1]
        return asked if sound else None


def _brief(name: str, one: str, facts: dict[str, str]) -> Passage:
    return Passage(name, one, " ".join(f"{kind} {value}" for kind, value in facts.items()))


def _plain(name: str, one: str, facts: dict[str, str]) -> Passage:
    who = one.capitalize()
    said = [f"{who}'s {kind} is {value.capitalize()}." for kind, value in facts.items()]
    return Passage(name, who, " ".join(said))


def most_people(brief: bool) -> int:
    """How many a world can have."""
    names: Sequence[str] = LETTERS if brief else NAMES
    return len(names) // 2
