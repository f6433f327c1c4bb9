"""What to ask next: of all candidates the questions that reward models would learn most from.

How a choice is made is in ``acquisition``, where replies come from in ``candidates``; questions are
kept by ``store``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from upslope.models.folder import quiet
from upslope.models.reward_folder import load_reward_model
from upslope.models.reward_model import RewardModel
from upslope.preferences.acquisition import (
    WAYS,
    By,
    Places,
    cover_of,
    disagreement,
    informative,
    sigmoid,
    spread,
    together,
    uncertainty,
)
from upslope.preferences.agreement import Numbers
from upslope.preferences.asked import Kind, Proposal
from upslope.preferences.candidates import Replies
from upslope.preferences.pair import dialogue
from upslope.preferences.store import Store
from upslope.preferences.training import ends_of, scores_of
from upslope.seeds import seed_of
from upslope.types import Problem, UserError

TOKENS = 16384  # in a pass that scores
PRIOR = 1.0  # precision of the last layer before anything is known, in units of mean squared states


@dataclass(frozen=True)
class Asking:
    """What is wanted: ``count`` questions of a ``kind``, chosen ``by`` the reward models in these
    folders; ``wanted`` answers to each. A rating's scale is from ``low`` to ``high``."""

    count: int
    by: By = "information"
    models: tuple[str, ...] = ()
    kind: Kind = "pair"
    wanted: int = 1
    low: float = 1.0
    high: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot go together, with UserError."""
        if self.by == "random" and self.models:
            raise UserError("--by random asks no model: leave --model out")
        if self.by == "disagreement" and len(self.models) < 2:
            raise UserError("--by disagreement needs several reward models: give --model twice")
        if self.by == "uncertainty" and not self.models:
            raise UserError("--by uncertainty needs a reward model's folder: give --model")
        if self.by == "information" and len(self.models) != 1:
            raise UserError("--by information needs one reward model's folder: give --model once")


@dataclass(frozen=True)
class Proposed:
    """How many questions are new, of how many that could have been asked; how many comparisons
    were left out because a model cannot read that much."""

    new: int
    possible: int
    long: int

    def lines(self) -> Iterator[str]:
        """In sentences."""
        yield f"{self.new:,} questions asked, of {self.possible:,} that were not asked yet"
        if self.long:
            yield f"{self.long:,} left out: they are longer than a reward model reads"


class Comparisons(NamedTuple):
    """Every two replies of each question, and which question they are of."""

    two: Sequence[tuple[Problem, str, str]]
    of: Places


def propose(store: Store, replies: Iterable[Replies], asking: Asking) -> Proposed:
    """Ask the best of what is not asked yet, best first."""
    known, possible = store.keys(), list[Proposal]()
    for proposal in _questions(replies, asking):
        if proposal.key not in known:
            known.add(proposal.key)
            possible.append(proposal)
    if not possible:
        raise UserError("nothing is left to ask: give other candidates, or more replies to each")
    models = [load_reward_model(model_folder(name)) for name in asking.models]
    readable = [one for one in possible if _readable(models, one)]
    chosen = _chosen(store, readable, asking, models) if readable else []
    new = store.propose(chosen)
    return Proposed(new, len(possible), len(possible) - len(readable))


def choose(asking: Asking, pool: Comparisons, past: Comparisons, models: Sequence[RewardModel]) -> (
    list[tuple[int, float]]
):  # fmt: skip
    """Questions of the pool, best first, each with what it is worth; ``past``: what is asked
    already."""
    if asking.by == "random":
        order = [*range(int(pool.of.max()) + 1)]
        random.Random(seed_of("propose", asking.seed)).shuffle(order)
        return [(one, 0.0) for one in order[: asking.count]]
    if asking.by == "information":
        return _informative(models[0], pool, past, asking.count)
    ahead = np.stack([_ahead(model, pool) for model in models])
    each = uncertainty(ahead) if asking.by == "uncertainty" else disagreement(ahead)
    worth = together(each, pool.of)
    return [(i, float(worth[i])) for i in spread(worth, asking.count, asking.seed)]


def comparisons(questions: Sequence[Proposal]) -> Comparisons:
    """Every two replies of each question."""
    found = [
        (place, (one.problem, a.text, b.text))
        for place, one in enumerate(questions)
        for a, b in combinations(one.candidates, 2)
    ]
    return Comparisons([two for _, two in found], np.array([i for i, _ in found], np.int64))


def model_folder(name: str) -> str:
    """Of a reward model, or of what trained it."""
    folder = Path(name).expanduser()
    return str(folder / "model") if (folder / "reward_model.toml").is_file() else str(folder)


def way_of(word: str) -> By:
    """A way of choosing by its name; UserError where there is no such."""
    for way in WAYS:
        if way == word:
            return way
    raise UserError(f"--by is one of {', '.join(WAYS)}, not {word!r}")


def _questions(replies: Iterable[Replies], asking: Asking) -> Iterator[Proposal]:
    """Every two replies to a problem, or all of them to be rated or ranked."""
    for problem, candidates in replies:
        if len(candidates) < 2:
            continue
        of = combinations(candidates, 2) if asking.kind == "pair" else [candidates]
        for some in of:
            yield Proposal(
                problem, tuple(some), asking.kind, "", asking.wanted, asking.low, asking.high
            )


def _readable(models: Sequence[RewardModel], one: Proposal) -> bool:
    """Whether all models can read all of it."""
    said = [dialogue(one.problem, candidate.text) for candidate in one.candidates]
    with quiet():
        return all(model.fits(each) for model in models for each in said)


def _chosen(
    store: Store, possible: Sequence[Proposal], asking: Asking, models: Sequence[RewardModel]
) -> list[Proposal]:
    """The best, best first, each with the reason why."""
    past = Comparisons((), np.zeros(0, np.int64))
    if asking.by == "information":
        asked = [
            Proposal(q.problem, q.candidates, q.kind, low=q.low, high=q.high)
            for q in store.questions()
        ]
        past = comparisons([one for one in asked if _readable(models, one)])
    found = choose(asking, comparisons(possible), past, models)
    told = "" if asking.by == "random" else " {:.3g}"
    return [replace(possible[i], reason=asking.by + told.format(worth)) for i, worth in found]


def _informative(
    model: RewardModel, pool: Comparisons, past: Comparisons, count: int
) -> list[tuple[int, float]]:
    """By the information of the first head's weights."""
    both = [_apart(model, part) for part in (pool, past)]
    (apart, weight), (before, told) = both
    scale = float(np.square(apart).mean()) or 1.0
    return informative(cover_of(before, told, PRIOR * scale), apart, weight, pool.of, count)


def _apart(model: RewardModel, some: Comparisons) -> tuple[Numbers, Numbers]:
    """How far states are apart [comparison hidden], and p (1 - p)."""
    hidden = model.head.weight.shape[1]
    if not some.two:
        return np.zeros((0, hidden)), np.zeros(0)
    rows, places = _rows(model, some)
    states = ends_of(model, rows, TOKENS).double().numpy()[places]
    apart = states[:, 0] - states[:, 1]
    chance = sigmoid(apart @ model.head.weight[0].detach().double().cpu().numpy())
    return apart, chance * (1 - chance)


def _ahead(model: RewardModel, some: Comparisons) -> Numbers:
    """How far the first of two replies is ahead by the first head [comparison]."""
    rows, places = _rows(model, some)
    raw = scores_of(model, rows, TOKENS)[:, 0].double().numpy()[places]
    return raw[:, 0] - raw[:, 1]  # type: ignore[no-any-return]


def _rows(model: RewardModel, some: Comparisons) -> tuple[list[list[int]], Places]:
    """Tokens of every reply once, and the places [comparison 2] of those that are compared."""
    at, rows = dict[tuple[int, ...], int](), list[list[int]]()
    places = []
    for problem, *texts in some.two:
        for text in texts:
            tokens = model.encode(dialogue(problem, text))
            place = at.setdefault(tuple(tokens), len(rows))
            if place == len(rows):
                rows.append(tokens)
            places.append(place)
    return rows, np.array(places, np.int64).reshape(-1, 2)
