"""Plays: aligned columns, exact prefixes, each sampled token trained once, graders in check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from plays import FORGETFUL, Dialogue, Digits, Echo, asked, chatml, player, user
from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.engines.scripted import ScriptedEngine
from upslope.envs.episodes import single_turn
from upslope.models.load import load
from upslope.rollout import Player, Thinking
from upslope.types import (
    Completion,
    Episode,
    Group,
    Problem,
    Reply,
    Reward,
    Sampling,
    Segment,
    Trajectory,
    UserError,
    graded,
)

MORE = (
    Reply((user("more?"),), reward=0.25, state="s1"),
    Reply((user("sure?"),), reward=0.5, state="s2"),
)


def group(who: Player, size: int = 1, visit: int = 0, problem: Problem | None = None) -> Group:
    return asyncio.run(who.group(problem or asked(), visit, size, 7, "train"))


def trained_once(trajectory: Trajectory) -> None:
    """Turns, trained tokens and sampled tokens are the same, and columns say so elsewhere too."""
    for number, segment in enumerate(trajectory.segments):
        inside = np.zeros(len(segment.tokens), dtype=bool)
        for turn in (t for t in trajectory.turns if t.segment == number):
            assert not inside[turn.start : turn.stop].any()
            inside[turn.start : turn.stop] = True
        assert segment.trained.tolist() == inside.tolist()
        assert (segment.engine_logprobs[inside] == -1.0).all()
        assert (segment.engine_logprobs[~inside] == 0.0).all()
        assert (segment.versions == np.where(inside, 0, -1)).all()
    assert trajectory.length == trajectory.usage.decoded


def spoken(trajectory: Trajectory, chat: Chat) -> list[str]:
    """The text of every turn, from its tokens."""
    return [
        chat.tokenizer.decode(trajectory.segments[t.segment].tokens[t.start : t.stop])
        for t in trajectory.turns
    ]


def test_turns_go_on_in_one_segment_after_an_exact_prefix() -> None:
    who, engine = player(Dialogue(MORE), ["no", "ab", "yes"])
    (trajectory,) = group(who).trajectories
    trained_once(trajectory)
    assert len(trajectory.segments) == 1
    assert spoken(trajectory, who.chat) == ["no<|im_end|>", "ab<|im_end|>", "yes<|im_end|>"]
    tokens = trajectory.segments[0].tokens.tolist()
    prompts = [list(prompt) for prompt, _ in engine.seen]
    assert prompts == [tokens[: turn.start] for turn in trajectory.turns]
    assert who.chat.tokenizer.decode(prompts[2]) == who.chat.text(trajectory.messages[:-1])
    said = [m["content"] for m in trajectory.messages]
    assert said == ["hi", "no", "more?", "ab", "sure?", "yes"]
    assert [(t.reward, t.state) for t in trajectory.turns] == [(0.25, "s1"), (0.5, "s2"), (0, "")]
    assert trajectory.text == "yes"
    assert graded(trajectory).total == 1.0
    assert trajectory.facts == {"left": 0}


def test_the_engine_is_told_which_rows_may_be_continued() -> None:
    chat = chatml()

    def told(env: Dialogue | Digits, turns: int, thinking: Thinking | None = None) -> list[bool]:
        engine = Echo(chat)
        who = Player(engine, env, chat, 40, 1.0, turns, thinking=thinking)
        group(who, problem=env.problems("train")[0])
        return [sampling.continues for _, sampling in engine.seen]

    assert told(Dialogue(MORE), 8) == [True, True, True]
    assert told(Dialogue(MORE), 2) == [True, False]
    assert told(Digits(), 8) == [False]
    assert told(Digits(), 8, Thinking(4, 0, "so </think>")) == [True]


def test_a_rewritten_past_begins_another_segment() -> None:
    who, engine = player(Dialogue(MORE), ["<think>a</think>b", "c", "yes"], chatml(FORGETFUL))
    (trajectory,) = group(who).trajectories
    trained_once(trajectory)
    assert [t.segment for t in trajectory.turns] == [0, 1, 1]
    assert spoken(trajectory, who.chat)[0] == "<think>a</think>b<|im_end|>"
    second = trajectory.segments[1].tokens[: trajectory.turns[1].start].tolist()
    assert second == list(engine.seen[1][0]) == who.chat.encode(trajectory.messages[:3])
    assert "think" not in who.chat.tokenizer.decode(second)


def test_a_reply_that_keeps_less_begins_another_segment() -> None:
    who, engine = player(Dialogue([Reply((user("again"),), keep=0)]), ["no", "yes"])
    (trajectory,) = group(who).trajectories
    trained_once(trajectory)
    assert [t.segment for t in trajectory.turns] == [0, 1]
    assert list(engine.seen[1][0]) == who.chat.encode([user("again")])
    assert trajectory.text == "yes"


def test_a_cut_reply_and_the_last_turn_end_a_play() -> None:
    who, _ = player(Dialogue(MORE), ["too long"])
    (cut,) = group(replace(who, max_tokens=3)).trajectories
    assert [t.stop_reason for t in cut.turns] == ["length"]
    who, _ = player(Dialogue(MORE), ["no", "yes"], turns=2)
    (bounded,) = group(who).trajectories
    assert [t.stop_reason for t in bounded.turns] == ["stop", "turns"]
    assert bounded.text == "yes"
    assert bounded.turns[-1].reward == 0.5
    trained_once(bounded)


def test_draws_differ_by_member_turn_visit_problem_phase_and_seed_alone() -> None:
    def seeds(count: int, visit: int = 0, name: str = "q", phase: str = "train") -> list[int]:
        who, engine = player(Dialogue(MORE[:1]), ["a"] * 2 * count)
        asyncio.run(who.group(asked(name), visit, count, 7, phase))
        return [sampling.seed for _, sampling in engine.seen]

    one, four = seeds(1), seeds(4)
    assert set(one) < set(four)
    everything = [
        *four,
        *seeds(4, visit=1),
        *seeds(4, name="r"),
        *seeds(4, phase="evaluation"),
    ]
    assert len(set(everything)) == len(everything) == 32


def test_a_play_does_not_depend_on_what_is_played_beside_it() -> None:
    policy = load("ladder:0.1m")
    chat, env = Chat(policy.tokenizer, policy.eos), Digits()
    who = Player(LocalEngine(policy), env, chat, 12, 1.0)
    first, second = env.problems("train")[:2]

    async def beside() -> tuple[Group, Group]:
        plays = (who.group(p, 0, 5, 7, "train") for p in (second, first))
        other, one = await asyncio.gather(*plays)
        return other, one

    alone = group(who, 2, problem=first).trajectories
    crowded = asyncio.run(beside())[1].trajectories[:2]
    assert [t.text for t in alone] == [t.text for t in crowded]
    assert alone[0].text != alone[1].text


@dataclass(frozen=True)
class Opened(Digits):
    """Digits whose plays are opened one by one, as an env's own ``play`` is."""

    def play(self, problem: Problem) -> AbstractAsyncContextManager[Episode]:
        return single_turn(self, problem)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("rows", [64, 3])
def test_answers_asked_for_together_are_what_single_plays_are(
    temperature: float, rows: int
) -> None:
    policy = load("ladder:0.1m")
    chat = Chat(policy.tokenizer, policy.eos)
    problem = Digits().problems("train")[0]
    calls = []

    class Counted(LocalEngine):
        async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
            calls.append(sampling)
            return await super().sample(tokens, sampling)

    def groups(env: Digits) -> Group:
        return group(Player(Counted(policy, rows), env, chat, 12, temperature), 6, 2, problem)

    together = groups(Digits())
    assert not calls
    one_by_one = groups(Opened())
    assert len(calls) == 6
    for a, b in zip(together.trajectories, one_by_one.trajectories, strict=True):
        assert (a.problem, a.visit, a.member, a.turns) == (b.problem, b.visit, b.member, b.turns)
        assert (a.messages, a.reward, a.facts) == (b.messages, b.reward, b.facts)
        assert a.usage == b.usage
        for x, y in zip(a.segments, b.segments, strict=True):
            for name in ("tokens", "trained", "engine_logprobs", "versions"):
                mine, its = vars_of(x)[name], vars_of(y)[name]
                assert mine.dtype == its.dtype
                assert mine.tobytes() == its.tobytes()
                assert not mine.flags.writeable


def vars_of(segment: Segment) -> dict[str, np.ndarray]:
    columns = (segment.tokens, segment.trained, segment.engine_logprobs, segment.versions)
    return dict(zip(("tokens", "trained", "engine_logprobs", "versions"), columns, strict=True))


class Breaking(ScriptedEngine):
    """Fails at the third request and never answers the others."""

    async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        self.seen.append((tuple(tokens), sampling))
        if len(self.seen) == 3:
            raise ConnectionError("gone")
        await asyncio.Event().wait()
        raise AssertionError


def test_episodes_are_closed_when_a_play_fails_or_is_cancelled() -> None:
    async def failing(env: Dialogue, size: int) -> None:
        chat = chatml()
        engine = Breaking([], chat.tokenizer, chat.end)
        task = asyncio.ensure_future(
            Player(engine, env, chat, 4, 1.0).group(asked(), 0, size, 7, "train")
        )
        while env.opened < size:
            await asyncio.sleep(0)
        assert env.open == size
        if size < 3:
            task.cancel()
        try:
            await task
        finally:
            assert (env.opened, env.open) == (size, 0)

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(failing(Dialogue(), 4))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(failing(Dialogue(), 2))


def test_episodes_are_closed_after_a_play() -> None:
    env = Dialogue(MORE[:1])
    who, _ = player(env, ["a"] * 6)
    group(who, 3)
    assert (env.opened, env.open) == (3, 0)


def refusal(rewards: Callable[..., object], size: int = 2) -> str:
    """What a grader's fault is said to be, its time bounded to an instant."""

    class Faulty(Dialogue):
        async def rewards(self, problem: Problem, trajectories: Sequence[Trajectory]) -> object:
            found = rewards(trajectories)
            return await found if asyncio.iscoroutine(found) else found

    who, _ = player(Faulty(), ["yes"] * size)
    with pytest.raises(UserError) as caught:
        group(replace(who, grading=0.05), size)
    said = str(caught.value)
    assert "Faulty.rewards" in said
    assert "'q'" in said
    assert "\n" not in said
    return said


def swallow(plays: Sequence[Trajectory]) -> list[Reward]:
    """A grader that takes every error for a wrong answer, and computes for ever."""
    try:
        while True:
            sum(range(1000))
    except Exception:  # noqa: BLE001
        return [Reward(0.0) for _ in plays]


@pytest.mark.parametrize(
    "hang", [lambda plays: asyncio.sleep(600), lambda plays: time.sleep(600), swallow]
)
def test_a_grader_that_hangs_is_named(hang: Callable[..., object]) -> None:
    assert "took more than 0.05 s" in refusal(hang)


def test_a_grader_that_raises_is_named_with_its_own_error() -> None:
    assert "raised ZeroDivisionError" in refusal(lambda plays: 1 / 0)

    def late(plays: Sequence[Trajectory]) -> None:
        raise TimeoutError("the judge is down")

    assert "raised TimeoutError on problem 'q': the judge is down" in refusal(late)


@pytest.mark.parametrize(
    "reward",
    [
        Reward(float("nan")),
        Reward(float("-inf")),
        Reward(0.0, {"correct": float("nan")}),
        Reward(0.0, costs={"length": float("inf")}),
    ],
)
def test_a_reward_that_is_not_finite_is_refused(reward: Reward) -> None:
    assert "not finite" in refusal(lambda plays: [reward, Reward(0.0)])


def test_rewards_that_are_not_one_for_each_play_are_refused() -> None:
    assert "returned 1 rewards for 2 trajectories" in refusal(lambda plays: [Reward(0.0)])
    assert "other than a list of Reward" in refusal(lambda plays: [0.0, 1.0])
    assert "other than a list of Reward" in refusal(lambda plays: None)


def test_what_the_env_itself_says_is_passed_on() -> None:
    def tell(text: str) -> Reward:
        raise UserError("the judge needs a key: set it")

    who, _ = player(Dialogue(graded=tell), ["yes"])
    with pytest.raises(UserError, match=r"^the judge needs a key: set it$"):
        group(who)


def test_an_invalid_reward_may_hold_anything() -> None:
    nothing = Reward(float("nan"), valid=False, reason="the judge is down")
    who, _ = player(Dialogue(graded=lambda text: nothing), ["yes"])
    assert graded(group(who).trajectories[0]) is nothing


def test_graders_that_wait_are_let_wait_together() -> None:
    class Slow(Dialogue):
        waiting = most = 0

        async def rewards(
            self, problem: Problem, trajectories: Sequence[Trajectory]
        ) -> Sequence[Reward]:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            await asyncio.sleep(0.01)
            self.waiting -= 1
            return [Reward(1.0) for _ in trajectories]

    env = Slow()
    chat = chatml()

    async def both() -> None:
        who = Player(Echo(chat), env, chat, 8, 1.0)
        await asyncio.gather(*(who.group(asked(n), 0, 2, 7, "train") for n in "abc"))

    asyncio.run(both())
    assert env.most == 3
