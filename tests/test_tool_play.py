"""Tool plays: whatever a reply or a tool does, the play goes on, and its facts say what was."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import pytest

from plays import FORGETFUL, chatml, ladder_chat
from toolbox import CRASH, FAIL, NOW, TOOLS, Boxes, Made, hang, schema
from upslope.batteries import check_env
from upslope.engines.scripted import ScriptedEngine
from upslope.rollout import Player
from upslope.tools import Call, Said
from upslope.tools.play import FORMS, Limits, ToolPlay, shortened
from upslope.types import Message, Reply, Trajectory, UserError


def call(name: str, **arguments: object) -> str:
    return FORMS["json"].write(Said((Call(name, arguments),)))


async def said(play: ToolPlay, *replies: str) -> list[Reply | None]:
    out, messages = [], list[Message]([{"role": "user", "content": "?"}])
    for text in replies:
        messages.append({"role": "assistant", "content": text})
        out.append(await play.reply(tuple(messages)))
    return out


def run(play: ToolPlay, *replies: str) -> tuple[list[Reply | None], dict]:
    got = asyncio.run(said(play, *replies))
    return got, dict(asyncio.run(play.facts()))


def observed(reply: Reply | None) -> str:
    assert reply is not None
    return str(reply.messages[0]["content"])


def test_a_play_by_hand() -> None:
    play = ToolPlay((*TOOLS, FAIL), FORMS["react"])
    got, facts = run(
        play, 'Action: read["a"]', "well", "Action: fail[key=b]", "Action: nope[]", "Final: 3"
    )
    assert [observed(r) for r in got[:-1]] == [
        "Observation: a:1",
        'Observation: error: there is neither "Action: tool[...]" nor "Final: answer"',
        "Observation: error: nothing is named b",
        "Observation: error: there is no tool 'nope', but read, find, now, fail",
    ]
    assert [r.reward for r in got if r] == [0.0, -0.02, 0.0, -0.02]
    assert got[-1] is None
    assert facts == {
        "final": "3",
        "calls": [
            {"name": "read", "arguments": {"sheet": "a"}, "error": "", "characters": 3},
            {
                "name": "fail",
                "arguments": {"key": "b"},
                "error": "nothing is named b",
                "characters": 25,
            },
            {
                "name": "nope",
                "arguments": {},
                "error": "there is no tool 'nope', but read, find, now, fail",
                "characters": 57,
            },
        ],
        "malformed": 2,
        "errors": 1,
        "tolerated": 1,
        "turns": 5,
        "penalty": -0.04,
        "spent": False,
    }
    assert json.loads(json.dumps(facts)) == facts


def test_a_tool_that_raises_or_hangs_is_observed_as_an_error() -> None:
    slow = Made("slow", hang)
    play = ToolPlay((CRASH, slow, NOW), FORMS["json"], Limits(seconds=0.05))
    begun = time.monotonic()
    (first, second), facts = run(
        play, call("crash", key="b") + call("slow") + call("now"), call("now")
    )
    assert time.monotonic() - begun < 2
    text = observed(first)
    assert "crash failed: KeyError: 'b'" in text
    assert "slow took more than 0.05 seconds" in text
    assert text.index("crash") < text.index("slow") < text.index("noon")
    assert "noon" in observed(second)
    assert (facts["errors"], facts["malformed"]) == (2, 0)


def test_calls_of_one_turn_run_at_once_and_stay_in_order() -> None:
    started = []

    async def wait(n: int) -> str:
        started.append(n)
        while len(started) < 3:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01 * (3 - n))
        return f"<{n}>"

    play = ToolPlay((Made("wait", wait, schema(["n"], n="integer")),), FORMS["json"])
    (reply,), facts = run(play, "".join(call("wait", n=n) for n in range(3)))
    text = observed(reply)
    assert text.index("<0>") < text.index("<1>") < text.index("<2>")
    assert [c["arguments"]["n"] for c in facts["calls"]] == [0, 1, 2]


def test_too_many_calls_at_once_are_none() -> None:
    play = ToolPlay(TOOLS, FORMS["json"], Limits(calls=2))
    (reply,), facts = run(play, call("now") * 3)
    assert "at most 2 calls" in observed(reply)
    assert (facts["calls"], facts["malformed"]) == ([], 1)


def test_a_turn_with_several_malformed_calls_costs_once() -> None:
    play = ToolPlay(TOOLS, FORMS["json"])
    (reply,), facts = run(play, call("nope") + call("read", sheet=3) + call("now"))
    assert reply is not None
    assert (reply.reward, facts["malformed"], facts["errors"]) == (-0.02, 1, 0)
    assert [bool(c["error"]) for c in facts["calls"]] == [True, True, False]


def test_long_observations_are_cut_and_say_so() -> None:
    tool = Made("much", lambda: "x" * 50)
    play = ToolPlay((tool,), FORMS["json"], Limits(characters=20))
    (reply,), facts = run(play, call("much"))
    assert f"{'x' * 20}\n[cut: 30 of 50 characters are left out]" in observed(reply)
    assert "x" * 21 not in observed(reply)
    assert facts["calls"][0]["characters"] == 50
    assert shortened("x" * 20, 20) == "x" * 20


def test_the_turn_budget_ends_a_play_after_its_last_call() -> None:
    play = ToolPlay(TOOLS, FORMS["terse"], Limits(turns=2))
    (first, second), facts = run(play, "read a", "now")
    assert first is not None
    assert second is None
    assert (facts["turns"], facts["spent"], len(facts["calls"])) == (2, True, 2)
    _, answered = run(ToolPlay(TOOLS, FORMS["terse"], Limits(turns=2)), "read a", "=1")
    assert (answered["spent"], answered["final"]) == (False, "1")


def test_a_strict_play_takes_nothing_for_what_it_is_not() -> None:
    sloppy = "Action: read(a)"
    lenient, strict = (
        run(ToolPlay(TOOLS, FORMS["react"], Limits(tolerant=t)), sloppy)[1] for t in (True, False)
    )
    assert (lenient["malformed"], lenient["tolerated"], len(lenient["calls"])) == (0, 1, 1)
    assert (strict["malformed"], strict["tolerated"], len(strict["calls"])) == (1, 1, 0)


def test_states_are_what_is_known_by_then() -> None:
    one, other, third = (ToolPlay(TOOLS, FORMS["terse"]) for _ in range(3))
    a, b, c = (
        [r.state for r in run(play, *replies)[0] if r]
        for play, replies in (
            (one, ("read a", "now")),
            (other, ("now", "garbage", "read a")),
            (third, ("now", "read b")),
        )
    )
    assert a[1] == b[2] != c[1]
    assert b[0] == b[1] == c[0] != a[0]


@pytest.mark.parametrize("key", ["turns", "calls", "characters", "seconds"])
def test_limits_are_above_nothing(key) -> None:
    with pytest.raises(UserError, match="above 0"):
        Limits(**{key: 0})


# Through the rollout: what is sampled is what is trained.


def rolled(env: Boxes, replies: Sequence[str], chat=None, problem: int = 0) -> Trajectory:
    chat = chat or (ladder_chat() if env.form == "terse" else chatml())
    engine = ScriptedEngine(replies, chat.tokenizer, chat.end)
    player = Player(engine, env, chat, 200, 1.0)
    group = asyncio.run(player.group(env.problems("train")[problem], 0, 1, 0, "train"))
    return group.trajectories[0]


def trained(t: Trajectory, chat) -> list[str]:
    return [
        chat.tokenizer.decode(t.segments[turn.segment].tokens[turn.start : turn.stop].tolist())
        for turn in t.turns
    ]


def test_a_raw_play_is_one_row_and_its_observations_are_not_trained() -> None:
    chat = ladder_chat()
    t = rolled(Boxes(), ["look a\n", "oops\n", "=aaa\n"], chat)
    (row,) = t.segments
    assert chat.tokenizer.decode(row.tokens.tolist()) == "a?\nlook a\naaa\noops\n!\n=aaa\n"
    assert trained(t, chat) == ["look a\n", "oops\n", "=aaa\n"]
    assert int(row.trained.sum()) == len("look a\noops\n=aaa\n")
    assert (row.engine_logprobs[~row.trained] == 0).all()
    assert t.reward is not None
    assert t.reward.total == pytest.approx(0.98)
    assert [turn.reward for turn in t.turns] == [0.0, -0.02, 0.0]


def test_a_template_that_rewrites_the_past_parts_the_play() -> None:
    """Each reply is trained once, as it was sampled, whatever later prompts show of it."""
    replies = ['<think>hm</think>Action: look["a"]', "Final: aaa"]
    for template, rows in ((None, 1), (FORGETFUL, 2)):
        chat = chatml(template) if template else chatml()
        t = rolled(Boxes("react"), replies, chat)
        assert len(t.segments) == rows
        assert [text.removesuffix("<|im_end|>") for text in trained(t, chat)] == replies
        assert t.reward is not None
        assert t.reward.correct == 1
        counted = sum(turn.stop - turn.start for turn in t.turns)
        assert sum(int(s.trained.sum()) for s in t.segments) == counted
    assert "hm" not in chat.tokenizer.decode(t.segments[1].tokens.tolist())


def test_compaction_leaves_the_prompt_and_the_summary() -> None:
    chat = ladder_chat()
    t = rolled(Boxes(compact=True), ["look b\n", "compact b empty\n", "look a\n", "=aaa\n"], chat)
    texts = [chat.tokenizer.decode(s.tokens.tolist()) for s in t.segments]
    assert texts == ["a?\nlook b\nnothing\ncompact b empty\n", "a?\nb empty\nlook a\naaa\n=aaa\n"]
    assert trained(t, chat) == ["look b\n", "compact b empty\n", "look a\n", "=aaa\n"]
    assert t.reward is not None
    assert t.reward.total == 1
    plain = rolled(Boxes(), ["compact b empty\n", "=aaa\n"], chat)
    assert plain.facts["malformed"] == 1
    assert len(plain.segments) == 1


@pytest.mark.parametrize("form", ["terse", "react"])
def test_the_battery_plays_whole_solutions(form) -> None:
    proofs = {p.claim: p.seen for p in check_env(Boxes(form))}
    assert proofs["solutions earn the most, empty replies do not"].startswith("9 of 9")
