"""Replies that may be asked about: of a file, of an env's demonstrations, of a policy.

Which of them are asked about is in ``proposing``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.envs.datasets import read_rows
from upslope.models.load import load
from upslope.names import env_of
from upslope.overrides import tree_of
from upslope.preferences.asked import Candidate
from upslope.preferences.formats import answer_of
from upslope.rollout import Player, together
from upslope.scorers import model_in
from upslope.seeds import seed_of
from upslope.settings import Component
from upslope.types import Demonstrates, Env, Problem, UserError

BESIDE = 64  # problems played at once


class Replies(NamedTuple):
    """A problem and replies to it that may be asked about."""

    problem: Problem
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Sampled:
    """Where an env's candidates come from: ``each`` so many replies of a ``policy``, or of the
    env's demonstrations where none is named, to ``problems`` of its train problems; 0 is all."""

    policy: str = ""
    each: int = 4
    problems: int = 0
    max_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0


def replies_of_file(path: str | Path) -> Iterator[Replies]:
    """Of rows of ``replies``, or of pairs, whoever won them. UserError with file and line."""
    for number, row in enumerate(read_rows(path), 1):
        proposal, _ = answer_of(row, number, "nobody")
        yield Replies(proposal.problem, proposal.candidates)


def replies_of_env(env: Env, how: Sampled) -> Iterator[Replies]:
    """Of a policy to train problems, or the env's demonstrations of them."""
    if not how.policy:
        if not isinstance(env, Demonstrates):
            raise UserError(f"{type(env).__name__} demonstrates nothing: give --policy")
        shown: dict[str, tuple[Problem, list[str]]] = {}
        for problem, text in env.demonstrations("train"):
            shown.setdefault(problem.id, (problem, []))[1].append(text)
        for problem, texts in [*shown.values()][: how.problems or None]:
            yield _distinct(problem, texts[: how.each], "demonstration")
        return
    asked = [*env.problems("train")]
    random.Random(seed_of("propose's problems", how.seed)).shuffle(asked)
    asked, made = asked[: how.problems or None], load(model_in(how.policy), how.seed)
    chat, engine = Chat(made.tokenizer, made.eos), LocalEngine(made)
    player = Player(engine, env, chat, how.max_tokens, how.temperature, context=made.context)
    for first in range(0, len(asked), BESIDE):
        for problem, texts in asyncio.run(_played(player, asked[first : first + BESIDE], how)):
            yield _distinct(problem, texts, how.policy)


def candidates(what: str, settings: Sequence[str], how: Sampled) -> Iterator[Replies]:
    """Of a file of rows, or of an env by its name."""
    if "".join(Path(what).suffixes[-2:]).endswith((".jsonl", ".jsonl.gz", ".parquet")):
        if settings or how.policy:
            raise UserError(f"{what} has its own replies: leave --policy and the settings out")
        return replies_of_file(what)
    return replies_of_env(env_named(what, settings), how)


def env_named(name: str, settings: Sequence[str]) -> Env:
    """An env by its name and ``key=value`` settings."""
    return env_of(Component(type=name, **tree_of(settings)))


async def _played(
    player: Player, problems: Sequence[Problem], how: Sampled
) -> list[tuple[Problem, list[str]]]:
    asked = [player.group(problem, 0, how.each, how.seed, "propose") for problem in problems]
    return [(g.problem, [t.text for t in g.trajectories]) for g in await together(asked)]


def _distinct(problem: Problem, texts: Sequence[str], source: str) -> Replies:
    return Replies(problem, tuple(Candidate(text, source) for text in dict.fromkeys(texts)))
