"""OpenAI's protocol over the local engine: its own client is served, mistakes are refused."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plays import chatml
from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.engines.scripted import ScriptedEngine
from upslope.models.load import load
from upslope.models.policy import Policy
from upslope.seeds import seed_of
from upslope.serve import http
from upslope.serve.asked import refusal
from upslope.serve.command import endpoint_of
from upslope.serve.endpoint import Endpoint, Spelled
from upslope.serve.http import Request, Response, Server
from upslope.serve.replies import Form
from upslope.serve.voices import Served
from upslope.types import Completion, Sampling

HI = [{"role": "user", "content": "hi"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load("ladder:0.1m")


class Aloud(ScriptedEngine):
    """Says each token as a served engine does."""

    async def sample(self, tokens: Any, sampling: Sampling, heard: Any = None) -> Completion:
        said = await super().sample(tokens, sampling)
        for token, logprob in zip(said.tokens.tolist(), said.logprobs.tolist(), strict=True):
            if heard is not None:
                heard(token, logprob)
                await asyncio.sleep(0)
        return said


def scripted(*replies: str, key: str = "") -> Endpoint:
    chat = chatml()
    return Endpoint(Served(Aloud(replies, chat.tokenizer, chat.end), chat, 200), ("m",), key)


def post(endpoint: Endpoint, path: str, body: Any, key: str = "") -> tuple[int, Any]:
    """Status and JSON of an answer, without a socket."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = asyncio.run(endpoint.handle(Request("POST", path, key, data)))
    assert isinstance(found.body, bytes)
    return found.status, json.loads(found.body)


def streamed(endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> list[Any]:
    """The events of a stream, and that it ends as it should."""

    async def read() -> bytes:
        request = Request("POST", path, "", json.dumps({**body, "stream": True}).encode())
        found = await endpoint.handle(request)
        assert not isinstance(found.body, bytes)
        assert found.kind == "text/event-stream"
        return b"".join([piece async for piece in found.body])

    *events, done, rest = asyncio.run(read()).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_log_probabilities_and_tokens_are_the_engines(policy: Policy) -> None:
    body = {"model": "m", "messages": HI, "max_tokens": 6, "seed": 5, "logprobs": True}
    status, found = post(endpoint_of(policy, "m", "", 9), CHAT, {**body, "return_token_ids": True})
    assert status == 200
    (choice,) = found["choices"]
    prompt = Chat(policy.tokenizer, policy.eos).encode(HI)
    sampling = Sampling(6, seed=seed_of("serve", 5, 0))
    said = asyncio.run(LocalEngine(policy).sample(prompt, sampling))
    assert choice["prompt_token_ids"] == prompt
    assert choice["token_ids"] == said.tokens.tolist()
    told = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    assert told == pytest.approx(said.logprobs.tolist(), abs=1e-6)
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(said.tokens)}
    assert {key: found["usage"][key] for key in usage} == usage


def test_a_stream_says_what_a_whole_answer_says(policy: Policy) -> None:
    endpoint = endpoint_of(policy, "m", "", 9)
    body = {"model": "m", "messages": HI, "max_tokens": 8, "seed": 5, "n": 2, "logprobs": True}
    _, whole = post(endpoint, CHAT, body)
    events = streamed(endpoint, CHAT, {**body, "stream_options": {"include_usage": True}})
    for n, choice in enumerate(whole["choices"]):
        own = [c for event in events for c in event["choices"] if c["index"] == n]
        text = "".join(c["delta"].get("content", "") for c in own)
        tokens = [entry for c in own if c["logprobs"] for entry in c["logprobs"]["content"]]
        assert text == choice["message"]["content"]
        assert [t["token"] for t in tokens] == [t["token"] for t in choice["logprobs"]["content"]]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert len(events) > 8  # token by token, not all at once


def test_the_same_seed_says_the_same_and_another_another(policy: Policy) -> None:
    endpoint = endpoint_of(policy, "m", "", 12)

    def text(seed: int) -> str:
        _, found = post(endpoint, TEXT, {"model": "m", "prompt": "1+1=", "seed": seed})
        return str(found["choices"][0]["text"])

    assert text(1) == text(1) != text(2)


def test_stop_strings_end_and_are_not_shown() -> None:
    body = {"model": "m", "messages": HI, "stop": ["END", "\n\n"]}
    _, found = post(scripted("all of it END and more"), CHAT, body)
    assert found["choices"][0]["message"]["content"] == "all of it "
    assert found["choices"][0]["finish_reason"] == "stop"
    events = streamed(scripted("all of it ENs END and more"), CHAT, body)
    shown = [e["choices"][0]["delta"].get("content", "") for e in events]
    assert "".join(shown) == "all of it ENs "
    assert not any(text.endswith("E") for text in shown)  # it could have become a stop string


def test_a_part_of_a_character_is_held_back() -> None:
    class Bytes:
        """The end of a character comes with its last token."""

        def parse(self, tokens: list[int], stop: tuple[str, ...]) -> Mapping[str, str]:
            return {"content": "a\ufffd" if len(tokens) == 1 else "a\u00e9"}

    spelled = Spelled(Form(Bytes(), "m", True), (), False)  # type: ignore[arg-type]
    assert [spelled.add(0, -1.0), spelled.add(1, -1.0)] == ["a", "\u00e9"]


def test_completions_take_texts_and_tokens_and_several() -> None:
    chat = chatml()
    tokens = chat.encode([{"role": "raw", "content": "two"}])
    for prompt, count in (("one", 1), (["one", "two"], 2), (tokens, 1), ([tokens, "one"], 2)):
        endpoint = scripted("x", "y")
        status, found = post(endpoint, TEXT, {"model": "m", "prompt": prompt, "logprobs": 0})
        assert (status, len(found["choices"])) == (200, count)
        assert found["choices"][0]["logprobs"]["token_logprobs"] == [-1.0, -1.0]
    (asked, _), *_ = endpoint.voice.engine.seen  # type: ignore[attr-defined]
    assert list(asked) == tokens


def test_tools_are_offered_and_calls_are_read() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    call = 'I look. <tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
    other = '<tool_call>{"name": "steal", "arguments": {}}</tool_call>'
    body = {"model": "m", "messages": HI, "tools": [tool]}
    endpoint = scripted(call + other)
    _, found = post(endpoint, CHAT, body)
    message = found["choices"][0]["message"]
    (made,) = message["tool_calls"]
    assert made["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert message["content"] == "I look. " + other  # no offered tool's: the agent sees it
    assert found["choices"][0]["finish_reason"] == "tool_calls"
    _, none = post(scripted(call), CHAT, {**body, "tool_choice": "none"})
    assert none["choices"][0]["message"]["content"] == call
    events = streamed(scripted(call), CHAT, body)
    assert events[-1]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"[1]", 400, "JSON object"),
        ({}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "content"),
        ({"messages": HI, "max_tokens": 0}, 400, "max_tokens"),
        ({"messages": HI, "temperature": -1}, 400, "temperature"),
        ({"messages": HI, "temperature": float("nan")}, 400, "temperature"),
        ({"messages": HI, "top_p": 0.9}, 400, "top_p is not offered"),
        ({"messages": HI, "logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"messages": HI, "response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"messages": HI, "tool_choice": "required"}, 400, "tool_choice"),
        ({"messages": HI, "stop": [""]}, 400, "stop"),
        ({"messages": HI, "n": 100_000}, 400, "n:"),
        ({"messages": HI, "model": "gpt-4o"}, 404, "no model 'gpt-4o'"),
        ({"messages": [{"role": "user", "content": "a" * 600}]}, 400, "context"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused(
    policy: Policy, body: Any, status: int, words: str, stream: bool
) -> None:
    if isinstance(body, dict):
        body = {"model": "m", **body, "stream": stream}
    found, answer = post(endpoint_of(policy, "m", "", 9), CHAT, body)
    assert (found, answer["error"]["type"] != "") == (status, True)
    assert words in answer["error"]["message"]


def test_keys_paths_and_methods() -> None:
    endpoint = scripted(key="secret")
    assert post(endpoint, CHAT, {}, "wrong")[0] == 401
    assert post(endpoint, CHAT, {}, "secret")[0] == 400
    assert post(endpoint, "/v1/embeddings", {}, "secret")[0] == 404
    for path, status in (("/v1/models", 200), ("/v1/models/m", 200), (CHAT, 405), ("/v2", 404)):
        found = asyncio.run(endpoint.handle(Request("GET", path, "secret", b"")))
        assert found.status == status, path


@asynccontextmanager
async def listening(
    handler: Callable[[Request], Awaitable[Response]],
) -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
    """What a server says to bytes, until it closes or falls silent."""

    async def said(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(5):
            found = await reader.read()
        writer.close()
        return found

    async with Server(handler, refusal) as server:
        yield said


async def hello(request: Request) -> Response:
    return Response(200, json.dumps({"path": request.path, "size": len(request.body)}).encode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00\xff\x00\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"HTTP/1.1 "),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n", b"HTTP/1.1 431"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 400"),
        (b"", b""),
    ],
)
def test_garbage_is_refused_and_the_server_goes_on(data: bytes, expected: bytes) -> None:
    async def tried() -> tuple[bytes, bytes]:
        async with listening(hello) as say:
            return await say(data), await say(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")

    bad, good = asyncio.run(tried())
    assert bad.startswith(expected)
    assert good.endswith(b'{"path": "/x", "size": 0}')


def test_a_connection_takes_several_requests_and_a_long_body_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "BODY", 1000)

    async def tried() -> list[bytes]:
        async with Server(hello, refusal) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            found = []
            for size in (5, 900, 2000):
                head = f"POST /{size} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
                writer.write(head.encode() + b"x" * size)
                head_of = await reader.readuntil(b"\r\n\r\n")
                size = int(head_of.lower().partition(b"content-length:")[2].split()[0])
                found.append(head_of[:12] + await reader.readexactly(size))
            writer.close()
            return found

    first, second, third = asyncio.run(tried())
    assert b'"size": 5}' in first
    assert b'"size": 900}' in second
    assert third.startswith(b"HTTP/1.1 413")


def test_a_client_that_leaves_ends_its_request() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return Response(200, b"{}")

    async def left() -> None:
        async with Server(slow, refusal) as server:
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(5):
                await begun.wait()
                writer.close()
                await ended.wait()

    asyncio.run(left())
    assert ended.is_set()


def test_openais_own_client_is_served(policy: Policy) -> None:
    openai = pytest.importorskip("openai")

    async def asked() -> None:
        async with Server(endpoint_of(policy, "m", "k", 9).handle, refusal) as server:
            url = f"http://{server.host}:{server.port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="k") as client:
                assert [m.id for m in (await client.models.list()).data] == ["m"]
                whole = await client.chat.completions.create(model="m", messages=HI, seed=1)
                pieces = [
                    piece.choices[0].delta.content or ""
                    async for piece in await client.chat.completions.create(
                        model="m", messages=HI, seed=1, stream=True
                    )
                ]
                assert "".join(pieces) == whole.choices[0].message.content
                text = await client.completions.create(model="m", prompt="1+1=", temperature=0)
                assert text.usage.completion_tokens <= 16
                with pytest.raises(openai.NotFoundError):
                    await client.chat.completions.create(model="other", messages=HI)
            with pytest.raises(openai.AuthenticationError):
                async with openai.AsyncOpenAI(base_url=url, api_key="x") as stranger:
                    await stranger.models.list()

    asyncio.run(asked())


def test_the_client_of_the_page_is_served(policy: Policy, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    page = Path(__file__).parent.parent / "docs" / "serving.md"
    code = page.read_text(encoding="utf-8").partition("# ask.py\n")[2].partition("```")[0]
    assert "8000" in code

    async def ran() -> bytes:
        async with Server(endpoint_of(policy, "m", "", 9).handle, refusal) as server:
            (tmp_path / "ask.py").write_text(code.replace("8000", str(server.port)))
            ran = await asyncio.create_subprocess_exec(
                sys.executable, str(tmp_path / "ask.py"), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await ran.communicate()
            assert ran.returncode == 0
            return output

    whole, _, streamed_text = asyncio.run(ran()).decode().partition(" 32\n")
    assert whole == streamed_text  # one seed, one answer


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    code = "from upslope.cli import main; main()"
    words = [sys.executable, "-c", code, "serve", "ladder:0.1m", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.split(" at ")[1].split(";")[0]
        with urllib.request.urlopen(f"{url}/models") as answer:
            assert json.load(answer)["data"][0]["id"] == "ladder:0.1m"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "ended\n"
        assert process.wait(10) == 0
    taken = subprocess.run(
        [*words[:-2], "--key", "NO_SUCH_KEY"], capture_output=True, text=True, check=False
    )
    assert (taken.returncode, "NO_SUCH_KEY" in taken.stderr) == (2, True)
