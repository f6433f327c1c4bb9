"""The scripted engine replays what it was given and says what it was asked."""

from __future__ import annotations

import asyncio

import pytest

from small_policies import WORDS, policy, tokenizer
from upslope.engines.scripted import ScriptedEngine
from upslope.types import Completion, Sampling, UserError

EOS = 1


def ids(text: str) -> list[int]:
    return [WORDS.index(c) for c in text]


def asked(engine: ScriptedEngine, prompt: str, sampling: Sampling) -> Completion:
    return asyncio.run(engine.sample(ids(prompt), sampling))


def test_replies_come_in_order_and_end_with_the_end_token() -> None:
    engine = ScriptedEngine(["ab", "cd"], tokenizer(), EOS, logprob=-0.25)
    first, second = (asked(engine, "a", Sampling(9, seed=s)) for s in (4, 5))
    assert first.tokens.tolist() == [*ids("ab"), EOS]
    assert second.tokens.tolist() == [*ids("cd"), EOS]
    assert first.logprobs.tolist() == [-0.25] * 3
    assert first.stop == "stop"
    assert (first.usage.computed, first.usage.decoded) == (1, 3)
    assert [(p, s.seed) for p, s in engine.seen] == [((3,), 4), ((3,), 5)]


def test_a_stop_string_ends_the_reply_instead() -> None:
    engine = ScriptedEngine(["abcd", "abcd"], tokenizer(), EOS)
    assert asked(engine, "a", Sampling(9, stop=("d", "bc"))).tokens.tolist() == ids("abc")
    assert asked(engine, "a", Sampling(9, stop=("x",))).tokens.tolist() == [*ids("abcd"), EOS]


def test_length_cuts_the_reply() -> None:
    engine = ScriptedEngine(["abc", "abc"], tokenizer(), EOS)
    cut, whole = (asked(engine, "a", Sampling(n)) for n in (3, 4))
    assert (cut.tokens.tolist(), cut.stop) == (ids("abc"), "length")
    assert (whole.tokens.tolist(), whole.stop) == ([*ids("abc"), EOS], "stop")


def test_a_mapping_answers_by_what_the_prompt_contains() -> None:
    engine = ScriptedEngine({"a": ["c"], "ab": ["d", "e"]}, tokenizer(), EOS)
    replies = [asked(engine, prompt, Sampling(9)) for prompt in ("hab", "ha", "abh")]
    assert [WORDS[c.tokens[0]] for c in replies] == ["d", "c", "e"]
    with pytest.raises(UserError, match="no scripted reply is for the prompt 'h'"):
        asked(engine, "h", Sampling(9))


def test_running_out_is_the_users_mistake() -> None:
    engine = ScriptedEngine(["a"], tokenizer(), EOS)
    asked(engine, "b", Sampling(9))
    with pytest.raises(UserError, match="ran out at the prompt 'b'"):
        asked(engine, "b", Sampling(9))


def test_versions_follow_the_loads() -> None:
    engine = ScriptedEngine(["a", "a"], tokenizer(), EOS)
    before = asyncio.run(engine.checksum())
    asyncio.run(engine.load_weights(policy("llama"), 3))
    assert asked(engine, "a", Sampling(9)).versions.tolist() == [3, 3]
    assert asyncio.run(engine.checksum()) != before
    with pytest.raises(ValueError, match="never go down"):
        asyncio.run(engine.load_weights(policy("llama"), 2))
