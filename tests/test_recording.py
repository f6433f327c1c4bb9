"""Somebody else's requests as segments: exact tokens, each trained once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from plays import FORGETFUL, chatml, user
from upslope.chat import Chat
from upslope.engines.scripted import ScriptedEngine
from upslope.serve.recording import FLOOD, OverError, Recording, Seat
from upslope.types import Completion, Message, Problem, Sampling

TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "", "parameters": {"type": "object"}},
}


def recording(replies: Sequence[str], chat: Chat | None = None, turns: int = 8) -> Recording:
    chat = chat or chatml()
    return Recording(
        Seat(ScriptedEngine(replies, chat.tokenizer, chat.end), chat, 200, 1.0, turns, 2000, 7)
    )


def ask(play: Recording, *messages: Message, **more: object) -> Message:
    return asyncio.run(play.ask(messages, **more)).message  # type: ignore[arg-type]


def said(play: Recording) -> list[list[str]]:
    """The trained text of each segment, turn by turn."""
    rows, decode = play.segments(), play.seat.chat.tokenizer.decode
    return [
        [decode(row.tokens[t.start : t.stop]) for t in play.turns() if t.segment == place]
        for place, row in enumerate(rows)
    ]


def exact(play: Recording) -> None:
    """Exactly the turns are trained, and log-probabilities and versions lie on them alone."""
    for place, row in enumerate(play.segments()):
        spans = [t for t in play.turns() if t.segment == place]
        trained = np.zeros(len(row.tokens), dtype=bool)
        for turn in spans:
            trained[turn.start : turn.stop] = True
        assert row.trained.tolist() == trained.tolist()
        assert (row.engine_logprobs != 0).tolist() == trained.tolist()
        assert (row.versions >= 0).tolist() == trained.tolist()


def test_a_dialogue_that_goes_on_is_one_segment_of_exactly_these_tokens() -> None:
    play = recording(["ab", "no"])
    first = ask(play, user("hi"))
    assert first == {"role": "assistant", "content": "ab"}
    ask(play, user("hi"), first, user("more"))
    (row,) = play.segments()
    chat = play.seat.chat
    begun = chat.encode([user("hi")])
    sampled = chat.tokenizer.encode("ab", add_special_tokens=False)
    assert row.tokens[: len(begun) + len(sampled)].tolist() == begun + sampled
    whole = chat.tokenizer.decode(row.tokens, skip_special_tokens=False)
    assert whole.endswith("user\nmore<|im_end|>\n<|im_start|>assistant\nno<|im_end|>")
    assert said(play) == [["ab<|im_end|>", "no<|im_end|>"]]
    exact(play)


def test_sampled_tokens_are_kept_where_encoding_their_text_gives_others() -> None:
    """ "ab" is one token of the tokenizer; the policy spelled it with two."""
    chat = chatml()
    a, b = (chat.tokenizer.convert_tokens_to_ids(c) for c in "ab")

    class Spells(ScriptedEngine):
        async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
            reply = [a, b, chat.end]
            return Completion(np.array(reply), np.full(3, -1.0), np.zeros(3), "stop")

    play = Recording(Seat(Spells([], chat.tokenizer, chat.end), chat, 9, 1.0, 8, 400, 0))
    first = ask(play, user("hi"))
    assert chat.tokenizer.encode("ab", add_special_tokens=False) != [a, b]
    ask(play, user("hi"), first, user("more"))
    (row,) = play.segments()
    assert [row.tokens[t.start : t.stop].tolist() for t in play.turns()] == [[a, b, chat.end]] * 2


def test_a_rewritten_past_begins_a_segment_and_the_old_one_stays() -> None:
    play = recording(["one", "two"])
    ask(play, user("hi"))
    ask(play, user("hi"), {"role": "assistant", "content": "mine"}, user("more"))
    assert said(play) == [["one<|im_end|>"], ["two<|im_end|>"]]
    exact(play)


def test_a_template_that_rewrites_the_past_begins_a_segment() -> None:
    play = recording(["<think>x</think>y", "z"], chatml(FORGETFUL))
    first = ask(play, user("hi"))
    ask(play, user("hi"), first, user("more"))
    assert [len(turns) for turns in said(play)] == [1, 1]
    assert "think" not in play.seat.chat.tokenizer.decode(play.segments()[1].tokens)


def test_a_fork_takes_the_very_tokens_of_the_past_but_trains_them_once() -> None:
    play = recording(["ab", "left", "right", "deeper"])
    first = ask(play, user("hi"))
    left = ask(play, user("hi"), first, user("l"))
    ask(play, user("hi"), first, user("r"))
    ask(play, user("hi"), first, user("l"), left, user("on"))
    assert said(play) == [
        ["ab<|im_end|>", "left<|im_end|>", "deeper<|im_end|>"],
        ["right<|im_end|>"],
    ]
    one, two = play.segments()
    shared = len(play.seat.chat.encode([user("hi")])) + 2
    assert one.tokens[:shared].tolist() == two.tokens[:shared].tolist()
    assert not two.trained[:shared].any()
    assert [turn.segment for turn in play.turns()] == [0, 0, 1, 0]
    exact(play)


def test_requests_at_once_do_not_share_a_segment() -> None:
    play = recording(["ab", "x", "y"])
    first = ask(play, user("hi"))

    async def both() -> None:
        asked = [(user("hi"), first, user(word)) for word in "lr"]
        await asyncio.gather(*[play.ask(messages) for messages in asked])

    asyncio.run(both())
    assert [len(turns) for turns in said(play)] == [2, 1]
    exact(play)


def test_draws_depend_on_the_prompt_and_how_often_it_was_asked() -> None:
    def seeds(order: str) -> dict[str, list[int]]:
        play = recording(["x"] * len(order))
        for word in order:
            ask(play, user(word))
        engine = play.seat.engine
        assert isinstance(engine, ScriptedEngine)
        found: dict[str, list[int]] = {}
        for word, (_, sampling) in zip(order, engine.seen, strict=True):
            found.setdefault(word, []).append(sampling.seed)
        return found

    assert seeds("llr") == seeds("rll")
    assert len(set(seeds("ll")["l"])) == 2


def test_a_stop_string_is_cut_for_the_client_and_stays_in_the_tokens() -> None:
    play = recording(["7\n", "8"])
    first = ask(play, user("hi"), stop=("\n",))
    assert first["content"] == "7"
    ask(play, user("hi"), first, user("more"))
    assert said(play) == [["7\n", "8<|im_end|>"]]


def test_raw_text_goes_on_where_it_ended() -> None:
    play = recording(["46\n", "9\n"])
    stop = ("\n",)
    first = ask(play, {"role": "raw", "content": "23+23="}, stop=stop)
    ask(play, {"role": "raw", "content": f"23+23={first['content']}\n4+5="}, stop=stop)
    assert said(play) == [["46\n", "9\n"]]
    text = play.seat.chat.tokenizer.decode(play.segments()[0].tokens)
    assert text == "23+23=46\n4+5=9\n"


def test_calls_are_read_from_the_text_and_their_past_is_not_rewritten() -> None:
    call = '<tool_call>{"name": "look", "arguments": {"at":1}}</tool_call>'
    play = recording([call, "done"])
    first = ask(play, user("hi"), tools=(TOOL,))
    (made,) = first["tool_calls"]
    assert made["function"] == {"name": "look", "arguments": '{"at": 1}'}
    result = {"role": "tool", "tool_call_id": made["id"], "content": "5"}
    ask(play, user("hi"), first, result, tools=(TOOL,))
    assert [len(turns) for turns in said(play)] == [2]
    whole = play.seat.chat.tokenizer.decode(play.segments()[0].tokens)
    assert '"at":1' in whole  # as it was said, not as JSON is written again
    assert "look" in whole.partition("hi")[0]  # the template knows no tools: a system message does


def test_bounds_refuse_and_a_flood_is_told() -> None:
    play = recording(["x", "y"], turns=1)
    first = ask(play, user("hi"))
    with pytest.raises(OverError, match="1 turns"):
        ask(play, user("hi"), first, user("more"))
    assert play.turns()[-1].stop_reason == "turns"
    with pytest.raises(OverError, match="context of 2000"):
        ask(recording(["x"]), user("a" * 3000))
    for _ in range(FLOOD):
        assert not play.flooded.is_set()
        with pytest.raises(OverError):
            ask(play, user("again"))
    assert play.flooded.is_set()


def test_what_the_engine_raises_is_raised_by_the_play() -> None:
    play = recording([])
    with pytest.raises(Exception, match="ran out"):
        ask(play, user("hi"))
    with pytest.raises(Exception, match="ran out"):
        play.trajectory(Problem("p", (user("hi"),)), 0, 0, {})


def test_who_leaves_before_the_answer_leaves_nothing_behind() -> None:
    class Slow(ScriptedEngine):
        async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
            if len(self.seen):
                await asyncio.sleep(60)
            return await super().sample(tokens, sampling)

    chat = chatml()
    play = Recording(Seat(Slow(["ab"], chat.tokenizer, chat.end), chat, 9, 1.0, 8, 400, 0))

    async def left() -> None:
        first = (await play.ask((user("hi"),))).message
        asking = asyncio.ensure_future(play.ask((user("hi"), first, user("more"))))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(left())
    assert said(play) == [["ab<|im_end|>"]]
    exact(play)
