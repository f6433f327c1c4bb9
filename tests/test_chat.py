"""Messages to tokens: special tokens once, sampled tokens for ever, the past as it was."""

from __future__ import annotations

import asyncio

import pytest

from plays import CHATML, FORGETFUL, WITH_BOS, asked, chatml, ladder_chat, user
from upslope.chat import Chat
from upslope.engines.scripted import ScriptedEngine
from upslope.models import ladder
from upslope.types import Message, Problem, Sampling, UserError


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def test_a_raw_prompt_is_its_text_with_the_tokenizers_own_beginning() -> None:
    problem = Problem("q", prompt="ab+c=")
    plain, begun = chatml(), chatml(bos="<s>")
    assert plain.tokenizer.convert_ids_to_tokens(plain.encode(plain.messages(problem))) == [
        *("ab", "+", "c", "=")
    ]
    tokens = begun.encode(begun.messages(problem))
    assert begun.tokenizer.convert_ids_to_tokens(tokens) == ["<s>", "ab", "+", "c", "="]


def test_a_templates_prompt_has_the_beginning_that_the_template_writes_and_no_other() -> None:
    chat = chatml(WITH_BOS, bos="<s>")
    tokens = chat.encode([user("hi")])
    assert tokens.count(chat.tokenizer.bos_token_id) == 1
    assert chat.tokenizer.decode(tokens) == (
        "<s><|im_start|>system\nBe helpful.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_ladder_prompt() -> None:
    chat = ladder_chat()
    assert chat.text([user("2+2")]) == "<|user|>2+2<|assistant|>"
    assert chat.tokenizer.decode(chat.encode([user("2+2")])) == "<|user|>2+2<|assistant|>"


def test_a_reply_ends_as_the_template_ends_it_and_not_as_a_text_does() -> None:
    sound = chatml()
    tokenizer = sound.tokenizer
    tokenizer.eos_token = "<unk>"  # what ends a text; a turn still ends with ChatML's own
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chat = Chat(tokenizer, [tokenizer.eos_token_id, end])
    assert tokenizer.eos_token_id != end
    assert chat.reply("ab", ())[-1] == end
    tokenizer.chat_template = None
    assert Chat(tokenizer, [tokenizer.eos_token_id, end]).reply("ab", ())[-1] != end


def test_a_tokenizer_without_a_template_is_refused_in_a_sentence() -> None:
    tokenizer = ladder.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template: choose an env with raw prompts"):
        Chat(tokenizer, [1]).encode([user("hi")])


@pytest.mark.parametrize("chat", [ladder_chat(), chatml(), chatml(WITH_BOS, "<s>")])
def test_turns_extend_the_tokens_of_before_and_say_what_the_template_says(chat: Chat) -> None:
    messages: list[Message] = [user("one")]
    tokens = chat.encode(messages)
    for answer, question in (("a", "two"), ("ab\nc", "three"), ("", "four")):
        tokens = [*tokens, *chat.reply(answer, ())]
        messages += [assistant(answer), user(question)]
        longer = chat.extend(tokens, messages)
        assert longer is not None
        assert longer[: len(tokens)] == tokens
        assert chat.tokenizer.decode(longer) == chat.text(messages)
        tokens = longer


def test_sampled_tokens_are_kept_where_their_text_has_another_tokenisation() -> None:
    chat = chatml()
    a, b, ab = chat.tokenizer.convert_tokens_to_ids(["a", "b", "ab"])
    tokens = [*chat.encode([user("one")]), a, b, chat.end]
    longer = chat.extend(tokens, [user("one"), assistant("ab"), user("two")])
    assert longer is not None
    assert longer[: len(tokens)] == tokens
    assert ab in chat.encode([user("one"), assistant("ab"), user("two")])


def test_a_raw_prompt_is_extended_by_what_was_added_alone() -> None:
    chat = chatml(bos="<s>")
    prompt: list[Message] = [{"role": "raw", "content": "1+1="}]
    tokens = [*chat.encode(prompt), *chat.reply("2", ("\n",))]
    added: Message = {"role": "raw", "content": "ab="}
    longer = chat.extend(tokens, [*prompt, assistant("2"), added])
    assert longer is not None
    assert chat.tokenizer.convert_ids_to_tokens(longer)[len(tokens) :] == ["ab", "="]
    assert longer[: len(tokens)] == tokens


@pytest.mark.parametrize(("template", "kept"), [(CHATML, True), (FORGETFUL, False)])
def test_a_template_that_rewrites_the_past_extends_nothing(template: str, kept: bool) -> None:
    chat = chatml(template)
    said = "<think>so</think>four"
    tokens = [*chat.encode([user("2+2")]), *chat.reply(said, ())]
    longer = chat.extend(tokens, [user("2+2"), assistant(said), user("sure?")])
    assert (longer is not None) == kept


def test_a_reply_is_parsed_up_to_the_first_stop_string_without_end_tokens() -> None:
    chat = chatml()
    tokens = chat.reply("12\n\nQ: 3", ())
    assert chat.parse(tokens, ()) == assistant("12\n\nQ: 3")
    assert chat.parse(tokens, ("Q:", "\n")) == assistant("12")
    assert chat.parse(chat.reply("12", ("\n",)), ("\n",)) == assistant("12")
    assert chat.parse([chat.end], ()) == assistant("")


@pytest.mark.parametrize("stop", [(), ("\n",), (";", "\n")])
def test_a_recorded_reply_ends_as_a_sampled_one(stop: tuple[str, ...]) -> None:
    chat = chatml()
    text = "12" + (stop[0] if stop else "")
    engine = ScriptedEngine([text], chat.tokenizer, chat.end)
    prompt = chat.encode(chat.messages(asked()))
    sampled = asyncio.run(engine.sample(prompt, Sampling(20, stop=stop)))
    assert sampled.tokens.tolist() == chat.reply("12", stop)
    assert sampled.stop == "stop"


def test_the_end_token_is_the_tokenizers_else_one_of_the_models() -> None:
    tokenizer = ladder.tokenizer()
    assert Chat(tokenizer, [5, 1]).end == 1 == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert Chat(tokenizer, [5, 3]).end == 3
