"""Tools in a dialogue: how a prompt offers them, and calls read from what the policy said.

Models whose chat template knows tools are told by it, others by a system message; a call is JSON
between ``<tool_call>`` tags, the form that most open models are trained in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from upslope.chat import Offered
from upslope.types import Message

BEGIN, END = "<tool_call>", "</tool_call>"
CALL = re.compile(rf"{BEGIN}(.*?){END}", re.DOTALL)
WORDS = (
    "You may call these functions, each given as JSON with its parameters:\n%s\n"
    f'To call one, write {BEGIN}{{"name": ..., "arguments": {{...}}}}{END}. '
    "What it gives follows in a message of its own."
)


def told(messages: Sequence[Message], tools: Sequence[Offered]) -> tuple[Message, ...]:
    """Messages that offer tools by words, for a template that knows none."""
    if not tools:
        return tuple(messages)
    words = WORDS % "\n".join(json.dumps(tool["function"]) for tool in tools)
    first, *rest = messages
    if first["role"] == "system":
        return ({**first, "content": f"{first['content']}\n\n{words}"}, *rest)
    return ({"role": "system", "content": words}, first, *rest)


def message_of(text: str, tools: Sequence[Offered], name: str) -> Message:
    """A reply as OpenAI's protocol has it. Calls that are JSON of an offered tool are taken out of
    the text; whatever is none stays in it, for the agent to see. ``name`` begins the calls' ids."""
    known = {tool["function"]["name"] for tool in tools}
    calls: list[Mapping[str, Any]] = []

    def take(found: re.Match[str]) -> str:
        function = _function(found[1], known)
        if function is None:
            return found[0]
        calls.append({"id": f"{name}_{len(calls)}", "type": "function", "function": function})
        return ""

    content = CALL.sub(take, text) if known else text
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": content.strip(), "tool_calls": calls}


def written(message: Message) -> Message:
    """An assistant's message that others wrote, with its calls in the text."""
    calls = message.get("tool_calls")
    if not calls:
        return {key: value for key, value in message.items() if key != "tool_calls"}
    blocks = [message["content"]] if message["content"] else []
    for call in calls:
        name, given = call["function"]["name"], call["function"]["arguments"]
        blocks.append(f'{BEGIN}{{"name": {json.dumps(name)}, "arguments": {given}}}{END}')
    return {"role": "assistant", "content": "\n".join(blocks)}


def _function(text: str, known: set[str]) -> Mapping[str, str] | None:
    """A call's name and arguments, these as JSON text; None where it is no call."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or given.get("name") not in known:
        return None
    arguments = given.get("arguments", {})
    if not isinstance(arguments, dict):
        return None
    return {"name": given["name"], "arguments": json.dumps(arguments)}
