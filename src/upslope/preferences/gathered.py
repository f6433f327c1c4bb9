"""Pairs for a reward model: from a file, or from replies that an env's gold reward ranks.

Each comes in three parts: to learn from, to stop by and to be judged by. No question is in two.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar, get_args

from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.grading import grade
from upslope.models.load import load
from upslope.preferences.annotators import Annotator
from upslope.preferences.moved import pairs_of
from upslope.preferences.pair import Pair, dialogue, question
from upslope.preferences.recipe import Pairs
from upslope.rollout import Player, together
from upslope.scorers import model_in
from upslope.seeds import seed_of
from upslope.types import (
    Demonstrates,
    Env,
    Group,
    Problem,
    Reward,
    Split,
    Trajectory,
    UserError,
    graded,
)

T = TypeVar("T")
Answer = tuple[str, Reward]
LABEL = "reward"  # what an env's total is called beside its parts


@dataclass(frozen=True)
class Gathered:
    """Pairs by what they are for."""

    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]


def from_file(settings: Pairs, seed: int) -> Gathered:
    """The pairs of a file or a store, split by a hash of their question."""
    return split_apart(pairs_of(settings.path, settings.answers.selection), settings, seed)


def split_apart(pairs: Iterable[Pair], settings: Pairs, seed: int) -> Gathered:
    """Pairs in three parts, by a hash of what was asked; half of the held-out are to stop by."""
    parts: dict[Split, list[Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        parts[part_of(pair.problem, settings.held_out, seed)].append(pair)
    train = shuffled(parts["train"], seed)[: settings.train or None]
    test = parts["test"][: settings.test or None]
    return Gathered(train, parts["validation"], test)


def part_of(problem: Problem, held_out: float, seed: int) -> Split:
    """What a question is for, by its hash."""
    place = seed_of("pairs", seed, question(problem)) / 2**63 / held_out
    return "train" if place >= 1 else "validation" if place < 0.5 else "test"


def from_env(env: Env, name: str, settings: Pairs, seed: int) -> Gathered:
    """Pairs of replies to an env's problems, labelled by the larger gold reward. ``name``: what the
    pairs' source is called. Labels of the test are gold's own."""
    wanted = {"train": settings.train, "validation": 0, "test": settings.test}
    parts: dict[str, list[Pair]] = {}
    for split in get_args(Split):
        found = compared(answers(env, split, settings, wanted[split], seed), name)
        by = (
            Annotator()
            if split == "test"
            else Annotator(temperature=settings.noise, flips=settings.flips, seed=seed)
        )
        parts[split] = [*islice(labelled(found, by), wanted[split] or None)]
    return Gathered(parts["train"], parts["validation"], parts["test"])


def compared(answered: Iterable[tuple[Problem, Sequence[Answer]]], name: str) -> Iterator[Pair]:
    """The best and the worst reply to each problem; none where gold says the same of all."""
    for problem, found in answered:
        valid = [one for one in found if one[1].valid]
        if not valid:
            continue
        best = max(valid, key=lambda one: one[1].total)
        worst = min(valid, key=lambda one: one[1].total)
        if best[1].total > worst[1].total:
            info: dict[str, Any] = {"source": name, **_columns(problem)}
            for side, (_, reward) in (("chosen", best), ("rejected", worst)):
                info |= {f"{part}_{side}": value for part, value in reward.parts.items()}
                info[f"{LABEL}_{side}"] = reward.total
            yield Pair(problem, best[0], worst[0], info)


def labelled(pairs: Iterable[Pair], by: Annotator) -> Iterator[Pair]:
    """Gold's pairs as an annotator sees them: sides, and what they earned, changed for one another
    where they prefer the other; without those of which they prefer none."""
    for pair in pairs:
        sides = (pair.chosen, pair.rejected)
        earned = (("chosen", 1.0), ("rejected", 0.0))  # where gold is only known to prefer one
        worth = [float(pair.info.get(f"{LABEL}_{side}", other)) for side, other in earned]
        said = by.compares((pair.problem.id, *sides), sides, worth)
        if said and said[0] > said[1]:
            yield pair
        elif said and said[0] < said[1]:
            info = {_other(key): value for key, value in pair.info.items()}
            yield Pair(pair.problem, pair.rejected, pair.chosen, {**info, "flipped": "yes"})


def answers(
    env: Env, split: Split, settings: Pairs, wanted: int, seed: int
) -> Iterator[tuple[Problem, Sequence[Answer]]]:
    """Graded replies to each problem: two of a policy's, or the env's demonstrations of it."""
    if settings.policy:
        yield from _sampled(env, split, settings, wanted, seed)
        return
    if not isinstance(env, Demonstrates):
        raise UserError(
            f"{type(env).__name__} demonstrates nothing to compare: set pairs.policy to a model"
        )
    shown: dict[str, tuple[Problem, list[str]]] = {}
    for problem, text in env.demonstrations(split):
        shown.setdefault(problem.id, (problem, []))[1].append(text)
    if all(len(set(texts)) == 1 for _, texts in shown.values()):
        raise UserError(
            f"{type(env).__name__} demonstrates one reply to each problem, and none to compare it "
            "with: set pairs.policy to a model"
        )
    for problem, texts in shown.values():
        yield problem, [*zip(texts, asyncio.run(gold_of(env, problem, texts)), strict=True)]


def columns_of(pairs: Sequence[Pair], names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The columns by which accuracy is told apart, of those that some pair has."""
    present = [name for name in names if any(name in pair.info for pair in pairs)]
    return {name: [str(pair.info.get(name, "none")) for pair in pairs] for name in present}


def shuffled(things: Sequence[T], seed: int) -> list[T]:
    """In an order that depends on the seed alone."""
    order = [*things]
    random.Random(seed_of("pairs' order", seed)).shuffle(order)
    return order


def _sampled(
    env: Env, split: Split, settings: Pairs, wanted: int, seed: int
) -> Iterator[tuple[Problem, Sequence[Answer]]]:
    """Two replies of the policy to each problem, again and again until there are enough."""
    policy = load(model_in(settings.policy), seed)
    chat, engine = Chat(policy.tokenizer, policy.eos), LocalEngine(policy)
    player = Player(
        engine, env, chat, settings.max_tokens, settings.temperature, context=policy.context
    )
    problems = env.problems(split)

    async def played(visit: int) -> list[Group]:
        asked = [player.group(p, visit, 2, seed, f"pairs {split}") for p in problems]
        return list(await together(asked))

    visits = max(1, -(-2 * wanted // max(1, len(problems))))
    for visit in range(visits):
        for group in asyncio.run(played(visit)):
            said = [(t.text, graded(t)) for t in group.trajectories]
            yield group.problem, said


async def gold_of(env: Env, problem: Problem, texts: Sequence[str]) -> Sequence[Reward]:
    """What an env says of replies to a problem."""
    plays = [
        Trajectory(problem, 0, member, (), (), dialogue(problem, text))
        for member, text in enumerate(texts)
    ]
    return await grade(env, problem, plays)


def _columns(problem: Problem) -> dict[str, str]:
    """What an env says of a problem in words, to tell pairs apart by."""
    return {key: value for key, value in problem.info.items() if isinstance(value, str)}


def _other(key: str) -> str:
    name, _, side = key.rpartition("_")
    other = {"chosen": "rejected", "rejected": "chosen"}.get(side)
    return f"{name}_{other}" if other else key
