"""A reward model in training: exact numbers of a fake one, passes shared by groups, steps, a real
one with ladder weights."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plays import asked, chatml, ladder_chat
from rewarded import CHAT, Told, again, hosted, plays
from upslope.models.load import load
from upslope.models.reward_folder import save_reward_model
from upslope.models.reward_model import RewardModel, reward_model_of
from upslope.models.trunk import Work
from upslope.recite import spoken
from upslope.rewards.microbatch import Microbatch, Row
from upslope.rewards.model import Model, Scores
from upslope.rewards.steps import earned, pieces, running
from upslope.types import Message, Problem, UserError


class Fake:
    """Two heads: how many tokens there are up to a place, and a tenth of that. Normalised, less 10.

    A pass costs 100 FLOPs for each row; ``passes`` are the rows of each.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.chat, self.tokenizer, self.seconds = CHAT, CHAT.tokenizer, seconds
        self.passes: list[int] = []
        self.threads: set[tuple[int, int]] = set()

    def place(self, name: str) -> int:
        return ["length", "tenth"].index(name)

    def encode(self, dialogue: Sequence[Message]) -> list[int]:
        if len(dialogue[-1]["content"]) > 50:
            raise UserError("a dialogue that does not fit")
        reply = self.chat.reply(str(dialogue[-1]["content"]), ())
        return [*self.chat.encode(dialogue[:-1]), *reply]

    def read(self, tokens: Any, length: Any, at: Any) -> Any:
        time.sleep(self.seconds)
        self.passes.append(len(tokens))
        self.threads.add((threading.get_ident(), torch.get_num_threads()))
        row, place = at.nonzero(as_tuple=True)
        seen = (place + 1).float()
        return torch.stack([seen, seen / 10], 1), (row, place), Work(100.0 * len(tokens), 0.0)

    def normalised(self, raw: Any) -> Any:
        return raw - 10.0


def opened(told: Told | None = None, fake: Fake | None = None, **settings: Any) -> Scores:
    return Scores(Model("rm", **settings), fake or Fake(), hosted(told))


PROMPT = len(CHAT.encode(asked().messages))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scale": "raw"}, PROMPT + 4),
        ({}, PROMPT + 4 - 10),
        ({"scale": "raw", "head": "tenth"}, (PROMPT + 4) / 10),
    ],
)
def test_the_score_is_that_of_the_last_token(settings: Any, expected: float) -> None:
    # "xyz" and the token that ends a reply.
    (one,) = again(opened(**settings), "xyz")
    assert one.total == pytest.approx(expected)
    assert one.at == ()


def test_its_work_is_told_and_what_replies_share_is_computed_once() -> None:
    told = Told()
    grades = opened(told, scale="raw")
    again(grades, "xyz", "xyw", "xyz")
    # Of two rows that differ: the prompt, "xy", and of each its own letter and its end.
    assert told.spent == [(200.0, PROMPT + 2 + 2 * 2)]


def test_what_cannot_be_read_is_invalid_with_the_reason() -> None:
    found = again(opened(), "x", "y" * 51)
    assert [r.valid for r in found] == [True, False]
    assert found[1].reason == "a dialogue that does not fit"


def test_groups_that_wait_share_a_pass_and_none_waits_for_the_loop() -> None:
    fake = Fake(seconds=0.05)
    grades = opened(fake=fake, scale="raw", threads=1)

    async def all_groups() -> tuple[list[Any], int]:
        tasks = [
            asyncio.ensure_future(grades.rewards(asked(f"p{i}"), plays("a" * i, "b" * i)))
            for i in range(1, 5)
        ]
        turns = 0
        while not all(task.done() for task in tasks):
            turns += 1
            await asyncio.sleep(0.005)
        return [await task for task in tasks], turns

    found, turns = asyncio.run(all_groups())
    assert sum(fake.passes) == 8
    assert len(fake.passes) <= 2
    assert turns > 3  # the loop went on while a pass slept
    assert [[r.total for r in group] for group in found] == [
        [PROMPT + i + 1.0] * 2 for i in range(1, 5)
    ]
    ((thread, count),) = fake.threads
    assert (thread != threading.get_ident(), count) == (True, 1)
    asyncio.run(grades.close())
    assert grades.batch.pool is None


def test_passes_are_bounded_and_the_bound_changes_no_score() -> None:
    replies = ["a" * n for n in (1, 5, 2, 7, 3)]
    scores = []
    for tokens in (1, PROMPT * 2 + 9, 10_000):
        fake = Fake()
        found = again(opened(fake=fake, scale="raw", tokens=tokens), *replies)
        scores.append([r.total for r in found])
        assert len(fake.passes) == {1: 5, 10_000: 1}.get(tokens, len(fake.passes))
    assert scores[0] == scores[1] == scores[2]


def test_a_pass_that_fails_fails_those_that_wait_for_it_and_no_other() -> None:
    fails = [True]

    def run(rows: Sequence[Row]) -> list[int]:
        if fails.pop() if fails else False:
            raise UserError("damaged")
        return [len(row.tokens) for row in rows]

    batch: Microbatch[int] = Microbatch(run, 100)

    async def twice() -> list[int]:
        with pytest.raises(UserError, match="damaged"):
            await batch.scores([Row((1, 2), (1,))])
        return await batch.scores([Row((1, 2), (1,)), Row((1,), (0,))])

    assert asyncio.run(twice()) == [2, 1]
    assert asyncio.run(batch.scores([Row((5,), (0,))])) == [1]  # in another loop
    batch.close()


def test_another_tokenizer_is_said_once() -> None:
    told, fake = Told(), Fake()
    fake.tokenizer = ladder_chat().tokenizer
    grades = opened(told, fake)
    again(grades, "x", "y")
    again(grades, "z")
    assert len(told.lines) == 1
    assert "another tokenizer" in told.lines[0]
    same = Told()
    opened(same)
    assert same.lines == []


def test_steps_and_what_they_are_worth_together() -> None:
    assert pieces("a\nbc\n\nd", "\n") == ["a\n", "bc\n", "\n", "d"]
    assert pieces("a\n", "\n") == ["a\n"]
    assert (pieces("a\nb", ""), pieces("", "\n")) == (["a\nb"], [""])
    assert running([0.9, 0.5, 0.8], "min") == [0.9, 0.5, 0.5]
    assert running([0.9, 0.5, 0.8], "product") == pytest.approx([0.9, 0.45, 0.36])
    assert running([0.9, 0.5, 0.8], "last") == [0.9, 0.5, 0.8]


def test_a_step_is_earned_at_the_token_that_ends_its_text() -> None:
    # "ab" is one token of this tokenizer: the first step ends inside of no other.
    chat = chatml()
    play = spoken(chat, asked(), "ab\nc\nd")
    at = earned(play, ["ab\n", "c\n", "d"], [0.75, 0.5, 0.25], chat.tokenizer.decode)
    first = play.turns[0].start
    texts = [
        chat.tokenizer.decode(play.segments[0].tokens[first : token + 1]) for _, token, _ in at
    ]
    assert texts == ["ab\n", "ab\nc\n", "ab\nc\nd<|im_end|>"]
    assert [value for _, _, value in at] == [0.75, -0.25, -0.25]


def test_a_process_reward_model_scores_each_step() -> None:
    (one,) = again(opened(steps="\n", together="last", head="tenth"), "a\nbb")
    chances = [1 / (1 + 2.718281828459045 ** -((PROMPT + n) / 10)) for n in (2, 5)]
    assert one.total == pytest.approx(chances[1])
    assert [v for _, _, v in one.at] == pytest.approx([chances[0], chances[1] - chances[0]])
    assert sum(v for _, _, v in one.at) == pytest.approx(one.total)


def small(folder: Path, seed: int) -> RewardModel:
    """A ladder model with heads that say something."""
    model = reward_model_of(load("ladder:0.1m", seed), ("first", "second"))
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.head.weight)
    save_reward_model(model, folder)
    return model


def test_a_saved_model_is_opened_and_scores_as_it_does_alone(tmp_path: Path) -> None:
    model, told = small(tmp_path / "rm", 3), Told()
    chat = ladder_chat()
    policy: Any = SimpleNamespace(
        tokenizer=chat.tokenizer, context=128, model=SimpleNamespace(device="cpu")
    )
    made = Model(str(tmp_path / "rm"), head="second", scale="raw")
    grades: Any = made.open(replace(hosted(told), policy=policy))
    problem = Problem("p", prompt="12+34+56+78+90=")
    group = [spoken(chat, problem, str(n)) for n in range(100, 116)]
    found = asyncio.run(grades.rewards(problem, group))
    for play, reward in zip(group, found, strict=True):
        tokens = torch.tensor([model.encode(play.messages)])
        alone, _ = model.scores(tokens, torch.tensor([tokens.shape[1]]))
        assert reward.total == pytest.approx(float(alone[0, 1]), abs=1e-5)
    # A prompt of 15 characters is computed once for 16 replies.
    whole = sum(len(model.encode(play.messages)) for play in group)
    ((flops, tokens_spent),) = told.spent
    assert whole >= 4 * tokens_spent
    assert flops > 0


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    policy: Any = SimpleNamespace(tokenizer=CHAT.tokenizer, model=SimpleNamespace(device="cpu"))
    host = replace(hosted(), policy=policy)
    with pytest.raises(UserError):
        Model(str(tmp_path / "none")).open(host)
    small(tmp_path / "rm", 1)
    with pytest.raises(UserError, match="has no head 'third'"):
        Model(str(tmp_path / "rm"), head="third").open(host)
