"""Small chats, envs and engines for tests of what plays, grades and trains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from upslope.chat import Chat
from upslope.engines.scripted import ScriptedEngine
from upslope.envs.episodes import single_turn
from upslope.models import ladder
from upslope.rollout import Player
from upslope.types import (
    Completion,
    Group,
    Message,
    Problem,
    Reply,
    Reward,
    Sampling,
    Segment,
    Split,
    Trajectory,
    Turn,
)

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What was thought in earlier turns is left out of later prompts.
FORGETFUL = CHATML.replace("m['content'] +", "m['content'].split('</think>')[-1] +")
WITH_BOS = "{{ bos_token }}" + CHATML


def chatml(template: str = CHATML, bos: str = "") -> Chat:
    """Characters and the word "ab", with ChatML's end; ``bos`` is put before every encoded text."""
    special = ["<|im_start|>", "<|im_end|>", "<unk>", *([bos] if bos else [])]
    words = {word: i for i, word in enumerate([*special, *ladder.CHARACTERS, "ab"])}
    letters = Tokenizer(models.BPE(vocab=words, merges=[("a", "b")], unk_token="<unk>"))
    letters.decoder = decoders.Fuse()
    letters.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    if bos:
        letters.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, words[bos])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters,
        bos_token=bos or "<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        chat_template=template,
    )
    return Chat(tokenizer, [words["<|im_end|>"]])


def ladder_chat() -> Chat:
    """The ladder models' own."""
    tokenizer = ladder.tokenizer()
    return Chat(tokenizer, [tokenizer.eos_token_id])


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def asked(name: str = "q", text: str = "hi") -> Problem:
    """A chat problem."""
    return Problem(name, (user(text),), answer="yes")


def right(text: str) -> Reward:
    """1 for "yes"."""
    return Reward(float(text == "yes"))


class Dialogue:
    """An env that says ``replies`` after the first turns of every play, and counts open plays."""

    def __init__(
        self, replies: Sequence[Reply] = (), graded: Callable[[str], Reward] = right
    ) -> None:
        self.replies, self.graded = replies, graded
        self.opened = self.open = 0

    def problems(self, split: Split) -> Sequence[Problem]:
        return [asked()]

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Said]:
        self.opened += 1
        self.open += 1
        try:
            yield Said(list(self.replies))
        finally:
            await asyncio.sleep(0)  # closing takes time, as it does of a sandbox
            self.open -= 1

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [self.graded(t.text) for t in trajectories]


@dataclass
class Said:
    """An episode of a Dialogue."""

    left: list[Reply]

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        return self.left.pop(0) if self.left else None

    async def facts(self) -> Mapping[str, Any]:
        return {"left": len(self.left)}


@dataclass(frozen=True)
class Digits:
    """A bandit: one of about a hundred tokens is said, ten of them, the digits, are right."""

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        asked = {"train": "abcd", "validation": "ef", "test": "gh"}[split]
        return [Problem(c, prompt=f"{c}:", solution="7") for c in asked]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(float(t.text.isdigit())) for t in trajectories]


@dataclass(frozen=True)
class Risky(Digits):
    """Digits, of which the high ones are a risk."""

    play = single_turn

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [
            Reward(float(t.text.isdigit()), costs={"risk": float(t.text in list("56789"))})
            for t in trajectories
        ]


@dataclass(frozen=True)
class Bribed(Digits):
    """Digits are right; what is not a letter is paid, too."""

    play = single_turn

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(float(bool(t.text) and not t.text.isalpha())) for t in trajectories]

    async def gold(self, problem: Problem, trajectories: Sequence[Trajectory]) -> Sequence[Reward]:
        return [Reward(float(t.text.isdigit())) for t in trajectories]


@dataclass(frozen=True)
class Watched(Bribed):
    """Bribed, with a relabelling and something protected, which nobody changes."""

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Guarding]:
        yield Guarding()

    async def relabelled(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return await self.gold(problem, trajectories)


class Guarding:
    """An episode of one answer that says what of the protected was changed."""

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        return None

    async def facts(self) -> Mapping[str, Any]:
        return {"protected": []}


class Echo:
    """An engine that says "yes" at its ``version``, after letting others run; sees its prompts."""

    def __init__(self, chat: Chat) -> None:
        self.said = chat.reply("yes", ())
        self.version = 0
        self.seen: list[tuple[tuple[int, ...], Sampling]] = []

    async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        self.seen.append((tuple(tokens), sampling))
        n = len(self.said)
        return Completion(np.array(self.said), np.full(n, -1.0), np.full(n, self.version), "stop")


def player(
    env: Dialogue, replies: Sequence[str], chat: Chat | None = None, turns: int = 8
) -> tuple[Player, ScriptedEngine]:
    """A player over a scripted engine."""
    chat = chat or chatml()
    engine = ScriptedEngine(replies, chat.tokenizer, chat.end)
    return Player(engine, env, chat, 40, 1.0, turns), engine


def group_of(rewards: Sequence[Reward], name: str = "q", said: int = 1) -> Group:
    """A finished group of one-turn plays, each of ``said`` sampled tokens."""
    tokens = np.arange(2 + said)
    trained = tokens >= 2
    row = Segment(tokens, trained, np.where(trained, -1.0, 0.0), np.where(trained, 0, -1))
    turn = Turn(0, 2, 2 + said, "stop")
    problem = asked(name)
    plays = [
        Trajectory(problem, 0, i, (row,), (turn,), problem.messages, reward)
        for i, reward in enumerate(rewards)
    ]
    return Group(problem, tuple(plays))
