"""Fields of a recorded row, checked: what was asked, what was said, its tokens, what it earned.

Each refusal is one sentence with file and line (``where``). Which fields make which kind of play is
in ``demonstrations.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from math import isfinite
from typing import Any, get_args

import numpy as np

from upslope.types import Message, Problem, Segment, StopReason, Turn, UserError

Fields = Mapping[str, Any]
REASONS: tuple[StopReason, ...] = get_args(StopReason)


def problem_of(row: Fields, where: str, answer: str) -> Problem:
    """What was asked: ``prompt`` (text or messages) or ``messages``; ``stop``; ``id``, or ""."""
    prompt, messages, stop = row.get("prompt", ""), row.get("messages", []), row.get("stop", [])
    if not isinstance(prompt, str | list) or not isinstance(messages, list):
        raise UserError(f'{where}: "prompt" must be a string or messages, and "messages" a list')
    if bool(prompt) == bool(messages):
        raise UserError(f'{where}: give either "prompt" or "messages"')
    if isinstance(prompt, list):
        prompt, messages = "", prompt
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
        raise UserError(f'{where}: "stop" must be a list of strings')
    asked = dialogue_of(messages, "messages", where)
    return Problem(str(row.get("id", "")), asked, prompt, tuple(stop), answer=answer)


def dialogue_of(given: Sequence[Any], name: str, where: str) -> tuple[Message, ...]:
    """Messages, each with a role and content."""
    for message in given:
        texts = [message.get(k) for k in ("role", "content")] if isinstance(message, dict) else [0]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f'{where}: each of "{name}" must be an object with a role and content')
    return tuple(given)


def reward_of(row: Fields, where: str) -> float:
    """What a play earned: ``reward``, or a ``label`` that says right or wrong; 1 where neither."""
    if "label" not in row:
        return number_of({"reward": 1.0, **row}, "reward", where)
    if "reward" in row or not isinstance(row["label"], bool):
        raise UserError(f'{where}: "label" must be true or false, with no "reward" beside it')
    return float(row["label"])


def number_of(row: Fields, name: str, where: str) -> float:
    """A finite number."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UserError(f'{where}: "{name}" must be a number, got {value!r}')
    return float(value)


def sides_of(row: Fields, where: str) -> tuple[Fields, tuple[Any, Any]]:
    """What a pair was asked, as a problem's fields, and its chosen and its rejected side alone.

    TRL's and Hugging Face's forms: with a ``prompt``, or with one that both sides begin with; text
    or messages.
    """
    for name in ("chosen", "rejected"):
        if not row.get(name) or not isinstance(row[name], str | list):
            raise UserError(f'{where}: a pair needs "{name}", a reply or its messages')
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if type(chosen) is not type(rejected):
        raise UserError(f'{where}: "chosen" and "rejected" must both be text, or both be messages')
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are the same, so that neither wins")
    if isinstance(chosen, list):
        dialogue_of([*chosen, *rejected], "chosen and rejected", where)
    if isinstance(chosen, str) and (prompt or "messages" in row):
        return row, (chosen, rejected)
    if isinstance(chosen, list) and chosen[0]["role"] == "assistant":
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return {**row, "prompt": asked}, (chosen, rejected)
    both = zip(chosen, rejected, strict=False)
    shared = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
    if isinstance(chosen, str) and shared and chosen[shared - 1] == " ":
        shared -= 1  # as TRL has it: a space before a reply belongs to the reply
    sides = chosen[shared:], rejected[shared:]
    texts = isinstance(chosen, str)
    if not shared or not all(side and (texts or side[0]["role"] == "assistant") for side in sides):
        raise UserError(
            f'{where}: give "prompt", or let "chosen" and "rejected" begin alike, with what was '
            "asked, and then differ in the reply"
        )
    return {**row, "prompt": chosen[:shared]}, sides


def won_of(row: Fields, where: str) -> tuple[float, float]:
    """What the sides of a pair earned: ``score_chosen`` and ``score_rejected``, or ``margin``, or 1
    and 0."""
    if "score_chosen" in row and "score_rejected" in row:
        high, low = (number_of(row, f"score_{side}", where) for side in ("chosen", "rejected"))
    else:
        high, low = number_of({"margin": 1.0, **row}, "margin", where), 0.0
    if high <= low:
        raise UserError(f"{where}: a pair without a winner: {high:g} is not above {low:g}")
    return high, low


def segments_of(row: Fields, where: str) -> tuple[tuple[Segment, ...], tuple[Turn, ...]]:
    """The token rows of a play, each with its turns: [start, stop, reward, stop reason].

    The last or the last two may be left out: nothing was earned, and it ended by itself.
    ``logprobs``: one for each token of the turns, in order; NaN where they are not known. Nothing
    where the row has no ``segments``.
    """
    if "segments" not in row:
        return (), ()
    given = row["segments"]
    if not isinstance(given, list) or not given or not all(isinstance(s, dict) for s in given):
        raise UserError(f'{where}: "segments" must be a list of objects with tokens and turns')
    temperature = number_of({"temperature": 1.0, **row}, "temperature", where)
    turns: list[Turn] = []
    segments = []
    for at, one in enumerate(given):
        tokens = one.get("tokens")
        if not isinstance(tokens, list) or not all(type(t) is int and t >= 0 for t in tokens):
            raise UserError(f'{where}: "tokens" must be a list of token numbers')
        own = [*_turns(one, at, len(tokens), temperature, where)]
        segments.append(_segment(one, tokens, own, where))
        turns += own
    if not turns:
        raise UserError(f'{where}: none of "segments" has a turn, so that nothing was said')
    return tuple(segments), tuple(turns)


def segment_row(turns: Sequence[Turn], segment: Segment, at: int) -> dict[str, Any]:
    """A segment as ``segments_of`` reads it."""
    own = [[t.start, t.stop, t.reward, t.stop_reason] for t in turns if t.segment == at]
    said = segment.engine_logprobs[segment.trained].tolist()
    return {"tokens": segment.tokens.tolist(), "turns": own, "logprobs": said}


def _turns(one: Fields, at: int, length: int, temperature: float, where: str) -> Iterator[Turn]:
    last, reason, spans = 1, REASONS[0], one.get("turns")
    for given in spans if isinstance(spans, list) else [None]:
        start, stop, earned, reason = _span(given, where)
        if not last <= start < stop <= length:
            raise UserError(
                f'{where}: "turns" must be in order, after at least one token of a prompt and '
                f"within the {length} tokens, got {given}"
            )
        last = stop
        yield Turn(at, start, stop, reason, temperature, earned)
    # What goes on after an interruption is the same reply, in the same row.
    if reason == "interrupted":
        raise UserError(
            f'{where}: the last of "turns" is "interrupted", and nothing was said after it: give '
            'the turn that went on, or "length"'
        )


def _span(given: Any, where: str) -> tuple[int, int, float, StopReason]:
    """Start, stop, reward and stop reason of a turn."""
    span = given if isinstance(given, list) else []
    numbers, reasons = span[:3], span[3:] or ["stop"]
    known = [reason for reason in REASONS if reasons == [reason]]
    # A column of Parquet has one type, so that a start may be 1.0 there.
    whole = len(numbers) > 1 and all(type(n) in (int, float) and isfinite(n) for n in numbers)
    if not whole or not known:
        raise UserError(
            f'{where}: "turns" must be [start, stop], [start, stop, reward] or [start, stop, '
            f"reward, stop reason], of which reasons are {', '.join(REASONS)}, got {given}"
        )
    earned = float(numbers[2]) if len(numbers) == 3 else 0.0
    return int(numbers[0]), int(numbers[1]), earned, known[0]


def _segment(one: Fields, tokens: Sequence[int], turns: Sequence[Turn], where: str) -> Segment:
    trained = np.zeros(len(tokens), dtype=np.bool_)
    for turn in turns:
        trained[turn.start : turn.stop] = True
    logprobs = np.zeros(len(tokens), dtype=np.float32)
    said = one.get("logprobs", [float("nan")] * int(trained.sum()))
    known = "logprobs" in one
    if known and not (isinstance(said, list) and all(_log(value) for value in said)):
        raise UserError(f'{where}: "logprobs" must be a list of numbers of at most 0')
    if len(said) != trained.sum():
        raise UserError(
            f'{where}: {len(said)} "logprobs" for the {int(trained.sum())} tokens of the turns'
        )
    logprobs[trained] = said
    return Segment(np.array(tokens), trained, logprobs, np.where(trained, 0, -1))


def _log(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and value <= 0
