"""Messages to token ids and back. What the policy sampled is never tokenised a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from upslope.types import Message, Problem, UserError

Offered = Mapping[str, Any]
MARK = "reply"  # stands for a reply, to see what a template writes after it


class Chat:
    """A tokenizer's chat template, and raw prompts for base models."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: Sequence[int]) -> None:
        self.tokenizer, self.eos = tokenizer, frozenset(eos)

    def messages(self, problem: Problem) -> tuple[Message, ...]:
        """The problem as messages; a raw prompt is one message of the role ``raw``."""
        if problem.messages:
            return problem.messages
        return ({"role": "raw", "content": problem.prompt},)

    @property
    def knows_tools(self) -> bool:
        """Whether the template says which tools are offered."""
        return "tools" in str(self.tokenizer.chat_template or "")

    def encode(self, messages: Sequence[Message], tools: Sequence[Offered] = ()) -> list[int]:
        """Tokens of a prompt's ``text``."""
        # A template writes the special tokens itself; the tokenizer must not add them again.
        return self._tokens(self.text(messages, tools), special=messages[0]["role"] == "raw")

    def text(self, messages: Sequence[Message], tools: Sequence[Offered] = ()) -> str:
        """A prompt as text: raw as it is, or the template's rendering up to the reply.

        ``tools``: in OpenAI's form, for a template that knows of them.
        """
        if messages[0]["role"] == "raw":
            return "".join(str(m["content"]) for m in messages)
        return self._render(messages, tools)

    def extend(
        self, tokens: Sequence[int], messages: Sequence[Message], tools: Sequence[Offered] = ()
    ) -> list[int] | None:
        """``tokens`` and what ``messages`` adds; None where the template rewrote the past."""
        if messages[0]["role"] == "raw":
            said = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
            added = "".join(str(m["content"]) for m in messages[said + 1 :])
            return [*tokens, *self._tokens(added, special=False)]
        before: str = self.tokenizer.decode(tokens, skip_special_tokens=False)
        after = self._render(messages, tools)
        if not after.startswith(before):
            return None
        return [*tokens, *self._tokens(after[len(before) :], special=False)]

    def parse(self, tokens: Sequence[int], stop: Sequence[str]) -> Message:
        """The assistant's message: its text without end tokens, cut at the first stop string."""
        kept = [t for t in tokens if t not in self.eos]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((i for i in (text.find(s) for s in stop) if i >= 0), default=len(text))
        return {"role": "assistant", "content": text[:cut]}

    def reply(self, text: str, stop: Sequence[str]) -> list[int]:
        """Tokens of a recorded reply, ended as a sampled one would be: stop string or end token."""
        if stop:
            return self._tokens(text + stop[0], special=False)
        return [*self._tokens(text, special=False), self.end]

    @cached_property
    def end(self) -> int:
        """The token that ends a reply: the one the template writes after it, else the tokenizer's.

        They differ in models whose text ends in one token and whose turns end in another.
        """
        own: int | None = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template:
            spoken = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
            rendered: str = self.tokenizer.apply_chat_template(spoken, tokenize=False)
            after = self._tokens(rendered.rpartition(MARK)[2], special=False)
            own = next((token for token in after if token in self.eos), own)
        return own if own is not None else min(self.eos)

    def _tokens(self, text: str, special: bool) -> list[int]:
        out: list[int] = self.tokenizer.encode(text, add_special_tokens=special)
        return out

    def _render(self, messages: Sequence[Message], tools: Sequence[Offered]) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(
                "this model's tokenizer has no chat template: "
                "choose an env with raw prompts, or an instruct model"
            )
        conversation: list[dict[str, Any]] = [dict(m) for m in messages]
        offered: list[Any] | None = [dict(tool) for tool in tools] or None
        rendered: str = self.tokenizer.apply_chat_template(
            conversation, offered, add_generation_prompt=True, tokenize=False
        )
        return rendered
