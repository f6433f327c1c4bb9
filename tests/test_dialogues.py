"""Demonstrations of whole plays: the env's own episodes answer, and only replies are trained."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from plays import Digits, chatml, ladder_chat
from toolbox import Boxes
from upslope.dialogues import performed, shown
from upslope.envs.mixture import Mixture
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.recite import acted
from upslope.selfcheck import prove_env
from upslope.sources import Recorded
from upslope.types import UserError


@dataclass(frozen=True)
class Summed(Boxes):
    """Boxes whose plays sum up before they answer."""

    compact: bool = True

    def solved(self, problem):
        look, answer = super().solved(problem)
        return [look, f"compact {problem.answer}", answer]


@dataclass(frozen=True)
class Talkative(Boxes):
    """Boxes whose plays go on after their answer."""

    def solved(self, problem):
        return [*super().solved(problem), "now"]


def test_a_play_is_recorded_as_it_is_sampled() -> None:
    chat = ladder_chat()
    groups = Recorded(shown(Boxes(), "train"), chat, 0).all()
    assert [g.problem.id for g in groups] == list("abcdef")
    (play,) = groups[1].trajectories
    (row,) = play.segments
    assert chat.tokenizer.decode(row.tokens.tolist()) == "b?\nlook b\nbbb\n=bbb\n"
    said = np.array(list("b?\nlook b\nbbb\n=bbb\n"))
    assert "".join(said[row.trained]) == "look b\n=bbb\n"
    assert len(play.turns) == 2


def test_what_is_said_after_a_summary_is_a_row_of_its_own() -> None:
    chat = ladder_chat()
    plays = shown(Summed(), "test")
    rows = [
        chat.tokenizer.decode(g.trajectories[0].segments[0].tokens.tolist())
        for g in Recorded(plays, chat, 0).all()
    ]
    assert rows[:2] == ["i?\nlook i\niii\ncompact iii\n", "i?\niii\n=iii\n"]


def test_a_play_that_ends_before_its_replies_is_refused() -> None:
    with pytest.raises(UserError, match="'a' has 3 replies and its play ends after 2"):
        shown(Talkative(), "train")


def test_plays_are_shown_while_a_loop_is_running() -> None:
    async def inside():
        return shown(Boxes(), "validation")

    assert [one.reply for one in asyncio.run(inside())] == ["=ggg", "=hhh"]


def test_the_self_check_plays_whole_solutions() -> None:
    for env, chat in (
        (Boxes(), ladder_chat()),
        (Boxes("react"), chatml()),
        (Summed(), ladder_chat()),
    ):
        proofs = asyncio.run(prove_env(env, env.problems("train")[:2], chat))
        assert proofs[0].seen == "2 of 2 problems have one"


def test_an_acted_play_has_its_turns_and_what_they_earned() -> None:
    env, chat = Summed(turns=5), ladder_chat()
    problem = env.problems("train")[0]
    replies = ["huh", "look a", "compact aaa", "=aaa"]
    play = acted(chat, asyncio.run(performed(env, problem, replies)))
    assert [(t.segment, t.reward) for t in play.turns] == [(0, -0.02), (0, 0.0), (0, 0.0), (1, 0.0)]
    assert play.facts["final"] == "aaa"
    rows = [chat.tokenizer.decode(s.tokens[s.trained].tolist()) for s in play.segments]
    assert rows == ["huh\nlook a\ncompact aaa\n", "=aaa\n"]


def test_several_envs_show_their_plays_in_turns() -> None:
    env = Mixture({"b": Boxes(), "s": Summed()}, {"b": 1.0, "s": 1.0})
    found = [(p.id, p.env, len(replies)) for p, replies in env.plays("validation")]
    assert found == [("b/g", "b", 2), ("s/g", "s", 3), ("b/h", "b", 2), ("s/h", "s", 3)]
    assert env.solved(env.problems("validation")[1]) == ["look g", "compact ggg", "=ggg"]
    with pytest.raises(UserError, match="env d writes no demonstrations"):
        list(Mixture({"d": Digits()}, {"d": 1.0}).plays("train"))


def test_a_run_imitates_whole_plays(tmp_path) -> None:
    """From knowing nothing to two turns with a tool, by imitation alone."""
    recipe = {
        "name": "boxes",
        "model": "ladder:0.1m",
        "runs": str(tmp_path),
        "env": {"type": f"{Path(__file__).with_name('toolbox.py')}:Boxes"},
        "algorithm": {"type": "sft"},
        "source": {"type": "recorded"},
        "rollout": {"problems": 6, "max_tokens": 12},
        "learner": {"lr": 3e-3},
        "stop": {"steps": 60},
        "checkpoint": {"every": 0},
        "evaluation": {"problems": 3},
        "machine": {"threads": 1},
        "check": {"problems": 2},
    }
    run = train_recipe(read(recipe), lambda line: None)
    rows = run.metrics()
    assert rows[-1]["policy/surprise"] < 0.1 * rows[0]["policy/surprise"]
    first, last = run.evaluations()[0], run.evaluations()[-1]
    assert first["evaluation/greedy/mean"] == 0
    assert last["evaluation/sampled/length"] > 4
