"""Replies interrupted at their budget, plays bounded by the context, and envs blamed by name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from plays import CHATML, FORGETFUL, Dialogue, asked, chatml, player, user
from upslope.batch import Batch
from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.evaluate import evaluate
from upslope.measures import rollout_metrics
from upslope.models.load import load
from upslope.recipe import read
from upslope.rollout import Player, Thinking
from upslope.selfcheck import prove_trained
from upslope.session import Session
from upslope.types import Group, Message, Problem, Reply, Trajectory, UserError

STOP = Thinking(6, 0, "Time is up. </t>")
MORE = (Reply((user("more?"),)), Reply((user("sure?"),)))


def play(
    replies: Sequence[str], env: Dialogue | None = None, chat: Chat | None = None, **settings: Any
) -> tuple[Trajectory, Player, list[int]]:
    """One play, and how many tokens each request was allowed."""
    who, engine = player(env or Dialogue(), replies, chat)
    who = replace(who, **{"thinking": STOP, "max_tokens": 9, **settings})
    group = asyncio.run(who.group(asked(), 0, 1, 7, "train"))
    return group.trajectories[0], who, [sampling.max_tokens for _, sampling in engine.seen]


def spans(trajectory: Trajectory, chat: Chat) -> list[str]:
    """Each turn's text, from its tokens."""
    rows = trajectory.segments
    return [
        chat.tokenizer.decode(rows[t.segment].tokens[t.start : t.stop]) for t in trajectory.turns
    ]


def test_a_reply_that_thinks_too_long_is_interrupted_and_answers() -> None:
    trajectory, who, allowed = play(["hmm hmm hmm", "yes"])
    assert allowed == [6, 9]
    assert spans(trajectory, who.chat) == ["hmm hm", "yes<|im_end|>"]
    assert [t.stop_reason for t in trajectory.turns] == ["interrupted", "stop"]
    (segment,) = trajectory.segments
    first, second = trajectory.turns
    words = segment.tokens[first.stop : second.start].tolist()
    assert who.chat.tokenizer.decode(words) == STOP.words
    assert not segment.trained[first.stop : second.start].any()
    assert segment.trained[first.start : first.stop].all()
    assert (segment.engine_logprobs[first.stop : second.start] == 0).all()
    assert (segment.versions[first.stop : second.start] == -1).all()
    assert trajectory.text == "hmm hmTime is up. </t>yes"
    assert [m["role"] for m in trajectory.messages] == ["user", "assistant"]
    assert trajectory.length == trajectory.usage.decoded == 6 + 4
    group = Group(trajectory.problem, (trajectory,))
    prove_trained(group, who.chat)
    (trained,) = Batch.of([group]).trained
    assert int(trained.sum()) == 10


def test_short_replies_and_those_that_ended_their_thinking_are_not_interrupted() -> None:
    trajectory, who, allowed = play(["hm"])
    assert (allowed, trajectory.text) == ([6], "hm")
    thought = replace(STOP, tokens=8)
    trajectory, who, allowed = play(["ok </t> ye", "s"], thinking=thought)
    assert allowed == [8, 9]  # it goes on where it was
    assert spans(trajectory, who.chat) == ["ok </t> ", "s<|im_end|>"]
    assert [t.stop_reason for t in trajectory.turns] == ["length", "stop"]
    assert trajectory.text == "ok </t> s"
    assert trajectory.length == trajectory.turns[-1].stop - trajectory.turns[0].start


def test_a_final_answer_may_be_cut_too() -> None:
    trajectory, _, _ = play(["hmm hmm hmm", "yes, but then again"])
    assert [t.stop_reason for t in trajectory.turns] == ["interrupted", "length"]
    assert trajectory.truncated


def test_turns_go_on_after_an_interruption() -> None:
    env = Dialogue(MORE[:1])
    trajectory, who, _ = play(["hmm hmm", "no", "yes"], env)
    assert [t.stop_reason for t in trajectory.turns] == ["interrupted", "stop", "stop"]
    assert [m["content"] for m in trajectory.messages] == [
        "hi",
        "hmm hmTime is up. </t>no",
        "more?",
        "yes",
    ]
    (segment,) = trajectory.segments
    told = who.chat.tokenizer.decode(segment.tokens[: trajectory.turns[-1].start])
    assert told == who.chat.text(trajectory.messages[:-1])


def test_the_place_is_drawn_from_a_window_by_the_seed_alone() -> None:
    def drawn(size: int, seed: int = 7) -> list[int]:
        who, engine = player(Dialogue(), ["hmmmmmmmmmmmmmmm", "yes"] * size)
        who = replace(who, thinking=replace(STOP, window=5), max_tokens=20)
        asyncio.run(who.group(asked(), 0, size, seed, "train"))
        firsts = [s for _, s in engine.seen if s.max_tokens != 20]
        assert len(firsts) == size
        return [sampling.max_tokens for sampling in firsts]

    many = drawn(40)
    assert many[:8] == drawn(8)
    assert set(many) == {6, 7, 8, 9, 10, 11}
    assert drawn(8, seed=8) != many[:8]


def test_the_two_parts_have_draws_of_their_own_and_evaluations_do_the_same() -> None:
    policy = load("ladder:0.1m")
    who = Player(
        LocalEngine(policy),
        Dialogue(),
        Chat(policy.tokenizer, policy.eos),
        5,
        1.0,
        thinking=replace(STOP, tokens=4, window=2),
        context=policy.context,
    )
    one, again = (asyncio.run(who.group(asked(), 0, 6, 7, "train")) for _ in range(2))
    assert [t.text for t in one.trajectories] == [t.text for t in again.trajectories]
    share = rollout_metrics([one], 0)["length/interrupted_share"]
    assert share == sum(STOP.words in t.text for t in one.trajectories) / 6 > 0
    both = asyncio.run(evaluate(who, [asked()], 4, 7))
    texts = [t.text for g in both.groups for t in g.trajectories]
    assert sum(STOP.words in text for text in texts) >= 2
    greedy = [t for g in both.groups for t in g.trajectories if t.turns[0].temperature == 0]
    assert {turn.temperature for t in greedy for turn in t.turns} == {0.0}


def test_what_does_not_fit_into_the_context_is_refused() -> None:
    recipe: Mapping[str, Any] = {
        "model": "ladder:0.1m",
        "env": {"type": "arithmetic", "digits": 1},
        "algorithm": {"type": "grpo"},
        "rollout": {"max_tokens": 8, "think_tokens": 400, "interrupt": "so: </think>"},
        "machine": {"threads": 1},
    }
    (one,) = (made := Session(read(recipe), print)).stages
    assert made.player(one).longest == 400 + len("so: </think>") + 8
    assert made.player(one).context == made.policy.context == 512
    with pytest.raises(UserError, match=r"rollout.think_tokens=400, its window and interruption"):
        Session(read(recipe, ["rollout.think_window=89"]), print)
    with pytest.raises(UserError, match=r"rollout.think_window=5 moves an interruption"):
        read(recipe, ["rollout.think_tokens=0", "rollout.think_window=5"])


@pytest.mark.parametrize("template", [CHATML, FORGETFUL])
def test_a_play_without_room_for_another_turn_ends(template: str) -> None:
    """With a template that rewrites the past, too."""
    long = (Reply((user("m" * 60),)), Reply((user("s" * 60),)))
    chat = chatml(template)
    prompt = len(chat.encode([user("hi")]))
    free = {"thinking": None, "max_tokens": 20}
    trajectory, _, allowed = play(
        ["a</think>b", "no", "yes"], Dialogue(long), chat, **free, context=prompt + 120
    )
    assert [t.stop_reason for t in trajectory.turns] == ["stop", "length"]
    assert trajectory.truncated
    assert trajectory.text == "no"
    assert max(len(s.tokens) for s in trajectory.segments) < prompt + 120
    last = trajectory.segments[-1]
    assert last.trained[-1]  # nothing that was not answered is in the row
    assert trajectory.facts == {"left": 0}
    assert len(allowed) == 2
    every, _, _ = play(["a</think>b", "no", "yes"], Dialogue(long), chat, **free)
    assert len(every.turns) == 3


class Broken(Dialogue):
    """Its parts raise, one at a time."""

    def __init__(self, part: str, error: Exception) -> None:
        super().__init__(MORE)
        self.part, self.error = part, error

    def play(self, problem: Problem) -> Any:
        if self.part == "play":
            raise self.error
        outer = super().play(problem)
        broken = self

        class Opened:
            async def __aenter__(self) -> Any:
                self.said = await outer.__aenter__()
                return self

            async def __aexit__(self, *error: object) -> None:
                await outer.__aexit__(None, None, None)
                if broken.part == "close":
                    raise broken.error

            async def reply(self, messages: Sequence[Message]) -> Reply | None:
                if broken.part == "reply":
                    raise broken.error
                reply: Reply | None = await self.said.reply(messages)
                return reply

            async def facts(self) -> Mapping[str, Any]:
                if broken.part == "facts":
                    raise broken.error
                return {}

        return Opened()


@pytest.mark.parametrize(
    ("part", "name"), [("play", "play"), ("reply", "reply"), ("facts", "facts"), ("close", "play")]
)
def test_an_env_that_raises_is_named(part: str, name: str) -> None:
    def broken(error: Exception) -> str:
        env = Broken(part, error)
        who, _ = player(env, ["a", "b", "yes"])
        with pytest.raises(UserError) as caught:
            asyncio.run(who.group(asked(), 0, 1, 7, "train"))
        assert env.open == 0
        return str(caught.value)

    assert broken(KeyError("sheet")) == f"Broken.{name} raised KeyError on problem 'q': 'sheet'"
    assert broken(UserError("set a key")) == "set a key"


def test_an_engine_that_raises_is_not_blamed_on_the_env() -> None:
    who, _ = player(Dialogue(), [])
    with pytest.raises(Exception, match="repl") as caught:
        asyncio.run(who.group(asked(), 0, 1, 7, "train"))
    assert "Dialogue" not in str(caught.value)
