"""``upslope serve``: a model or a run behind OpenAI's protocol, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.models.policy import Policy
from upslope.serve.asked import refusal
from upslope.serve.endpoint import Endpoint
from upslope.serve.http import Server
from upslope.serve.voices import Served
from upslope.trial import opened
from upslope.types import UserError

HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Place:
    """Where to listen, under which model's ``name``, with which key (the environment's variable
    that holds it, "" for none). ``most``: tokens of an answer to who names no bound."""

    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    key: str = ""
    most: int = 512


def serve_model(model: str, place: Place, say: Callable[[str], None]) -> None:
    """Serve until interrupted; UserError where the key or the address cannot be had."""
    secret = os.environ.get(place.key, "") if place.key else ""
    if place.key and not secret:
        raise UserError(f"the environment has no {place.key}, which --key names: set it")
    policy, _ = opened(model)
    try:
        asyncio.run(_forever(policy, model, place, secret, say))
    except KeyboardInterrupt:
        say("ended")


def endpoint_of(policy: Policy, name: str, key: str, most: int) -> Endpoint:
    """A policy behind the protocol, sampled by an engine of its own."""
    voice = Served(LocalEngine(policy), Chat(policy.tokenizer, policy.eos), most)
    return Endpoint(voice, (name,), key)


async def _forever(
    policy: Policy, model: str, place: Place, secret: str, say: Callable[[str], None]
) -> None:
    name = place.name or model
    endpoint = endpoint_of(policy, name, secret, place.most)
    server = Server(endpoint.handle, refusal, place.host, place.port)
    try:
        await server.__aenter__()
    except OSError as error:
        raise UserError(f"{place.host}:{place.port} cannot be had: {error.strerror}") from error
    try:
        say(f"model {name} at http://{place.host}:{server.port}/v1; Ctrl-C ends it")
        if place.host not in HERE and not secret:
            say("whoever reaches this address may ask: --key NAME demands a key")
        await asyncio.Event().wait()
    finally:
        await server.__aexit__()
