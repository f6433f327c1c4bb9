"""Replies of one policy with their gold rewards, and what a proxy makes of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.files import replace_file
from upslope.models.load import load
from upslope.models.reward_model import RewardModel
from upslope.preferences.pair import dialogue
from upslope.preferences.training import scores_of
from upslope.rollout import Player, together
from upslope.types import Env, Problem, UserError

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pool:
    """``texts`` and ``gold`` are [problem, reply]."""

    problems: Sequence[Problem]
    texts: Sequence[Sequence[str]]
    gold: Numbers

    def scores(self, model: RewardModel, tokens: int) -> Numbers:
        """A reward model's score of each reply; rows of one length are scored together."""
        rows = [
            model.encode(dialogue(problem, text))
            for problem, texts in zip(self.problems, self.texts, strict=True)
            for text in texts
        ]
        order = np.argsort([len(row) for row in rows], kind="stable")
        found = np.empty(len(rows))
        found[order] = scores_of(model, [rows[i] for i in order], tokens)[:, 0].double().numpy()
        return found.reshape(self.gold.shape)

    @property
    def lengths(self) -> Numbers:
        """Characters of each reply."""
        return np.array([[len(text) for text in texts] for texts in self.texts], dtype=float)


def pool_of(
    policy: Path, env: Env, problems: int, replies: int, tokens: int, seed: int, keep: Path
) -> Pool:
    """The policy's replies to test problems, kept in a file and read from it again."""
    known = {problem.id: problem for problem in env.problems("test")[:problems]}
    if len(known) < problems:
        raise UserError(
            f"pool.problems={problems} is more than the {len(known)} test problems of the env: "
            "lower it, or give the env more"
        )
    if keep.is_file():
        rows = [json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines()]
        gold = np.array([row["gold"] for row in rows])
        return Pool([known[row["id"]] for row in rows], [row["texts"] for row in rows], gold)
    loaded = load(str(policy), seed)
    chat, engine = Chat(loaded.tokenizer, loaded.eos), LocalEngine(loaded)
    player = Player(engine, env, chat, tokens, 1.0, context=loaded.context)

    async def played() -> Pool:
        asked = [player.group(one, 0, replies, seed, "pool") for one in known.values()]
        groups = await together(asked)
        ungraded = [r.reason for g in groups for r in g.rewards if not r.valid]
        if ungraded:
            raise UserError(f"the env could not grade {len(ungraded)} replies: {ungraded[0]}")
        return Pool(
            [g.problem for g in groups],
            [[t.text for t in g.trajectories] for g in groups],
            np.array([[r.total for r in g.rewards] for g in groups]),
        )

    pool = asyncio.run(played())
    lines = [
        json.dumps({"id": p.id, "texts": [*texts], "gold": gold.tolist()})
        for p, texts, gold in zip(pool.problems, pool.texts, pool.gold, strict=True)
    ]
    replace_file(keep, ("\n".join(lines) + "\n").encode())
    return pool
