"""Tools of MCP servers, by stdio and by HTTP; servers that lie, hang, die or talk rubbish."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from plays import chatml
from upslope.components import find
from upslope.engines.scripted import ScriptedEngine
from upslope.rollout import Player
from upslope.serve.asked import refusal
from upslope.serve.http import Request, Response
from upslope.serve.http import Server as Listening
from upslope.tools import ToolError
from upslope.tools.mcp import Remote, Server
from upslope.types import UserError

ADD = {
    "name": "add",
    "description": "Adds.",
    "inputSchema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
FAKE = """
import json, os, sys, time
mode = sys.argv[1]
print("starting up, which is no message", flush=True)
def say(**more):
    print(json.dumps({"jsonrpc": "2.0", **more}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    method, number, given = asked.get("method"), asked.get("id"), asked.get("params", {})
    if method == "initialize":
        if mode == "mute": continue
        if mode == "dies": sys.exit(1)
        if mode == "refuses": say(id=number, error={"code": 1, "message": "go away"}); continue
        say(id=number, result={"protocolVersion": given["protocolVersion"], "capabilities": {}})
    elif method == "tools/list":
        say(id="mine", method="ping")
        tool = {"name": "add", "description": "Adds.", "inputSchema": {"type": "object"}}
        if mode == "nameless": say(id=number, result={"tools": [{}]}); continue
        if mode == "endless": say(id=number, result={"tools": [], "nextCursor": "x"}); continue
        if "cursor" not in given:
            say(id=number, result={"tools": [tool], "nextCursor": "2"})
        else:
            say(id=number, result={"tools": [{"name": "late"}]})
    elif method == "tools/call":
        words = given["arguments"]
        if "die" in words: os._exit(1)
        if "hang" in words: continue
        if "rubbish" in words: print("{", flush=True)
        if "huge" in words: print("x" * 2**25, flush=True)
        if "fail" in words:
            say(id=number, result={"isError": True, "content": [{"type": "text", "text": "bad"}]})
        elif "refuse" in words:
            say(id=number, error={"code": -32602, "message": "no such argument"})
        elif "list" in words:
            say(id=number, result=[1])
        else:
            total = str(words["a"] + 1)
            image = {"type": "image", "data": "..."}
            say(id=number, result={"content": [{"type": "text", "text": total}, image]})
    elif asked.get("id") == "mine":
        assert asked["result"] == {}
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE, encoding="utf-8")
    return path


def spoken(server: Server, *calls: Mapping[str, Any]) -> tuple[Sequence[Remote], list[str]]:
    """The tools, and what calls of the first one gave, errors in angle brackets."""

    async def all_of_it() -> tuple[Sequence[Remote], list[str]]:
        said = []
        async with server.tools() as tools:
            for call in calls:
                try:
                    said.append(await tools[0].call(call))
                except ToolError as error:
                    said.append(f"<{error}>")
        return tools, said

    return asyncio.run(all_of_it())


def stdio(fake: Path, mode: str = "plain", seconds: float = 10.0) -> Server:
    return Server((sys.executable, str(fake), mode), seconds=seconds)


def test_a_programs_tools_are_listed_page_by_page_and_called(fake: Path) -> None:
    tools, said = spoken(stdio(fake), {"a": 4}, {"a": 5, "rubbish": 1})
    assert [tool.name for tool in tools] == ["add", "late"]
    assert (tools[0].description, tools[1].parameters["type"]) == ("Adds.", "object")
    assert said == ["5\n[image]", "6\n[image]"]


def test_what_a_tool_does_wrong_is_an_observation(fake: Path) -> None:
    _, said = spoken(stdio(fake), {"fail": 1}, {"refuse": 1}, {"list": 1}, {"a": 1})
    expected = ["<bad>", "<add failed: no such argument>"]
    assert said[:2] == expected
    assert "no object" in said[2]
    assert said[3] == "2\n[image]"


@pytest.mark.parametrize(
    ("call", "words"),
    [("die", "ended"), ("hang", "no answer in time"), ("huge", "ended|more than")],
)
def test_a_server_that_is_lost_fails_each_later_call(fake: Path, call: str, words: str) -> None:
    _, said = spoken(stdio(fake, seconds=1.0), {call: 1}, {call: 1})
    for one in said:
        assert any(word in one for word in words.split("|")), one


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("mute", "no answer within 1 s"),
        ("dies", "ended"),
        ("refuses", "go away"),
        ("nameless", "without a name"),
        ("endless", "more than 100 pages"),
    ],
)
def test_a_server_that_cannot_be_used_is_a_sentence(fake: Path, mode: str, words: str) -> None:
    seconds = 1.0 if mode == "mute" else 10.0
    with pytest.raises(UserError, match=words):
        spoken(stdio(fake, mode, seconds))


def test_mistakes_are_sentences() -> None:
    with pytest.raises(UserError, match="nosuchserver"):
        spoken(Server(("nosuchserver",)))
    with pytest.raises(UserError, match="either"):
        Server()
    with pytest.raises(UserError, match="http://"):
        Server(url="ftp://x")
    with pytest.raises(UserError, match="cannot be used"):
        spoken(Server(url="http://127.0.0.1:9/mcp", seconds=2.0))


class Fake:
    """A server over HTTP: each answer as JSON, or as a stream of events."""

    def __init__(self, streams: bool) -> None:
        self.streams, self.seen = streams, list[Any]()

    async def handle(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.seen.append("DELETE")
            return Response(200, b"{}")
        asked = json.loads(request.body)
        self.seen.append(asked["method"])
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {}},
            "tools/list": {"tools": [ADD]},
        }
        if "id" not in asked:
            return Response(202, b"")
        if asked["method"] == "tools/call":
            if asked["params"]["arguments"].get("a") == 0:
                return Response(500, b"oops")
            total = str(asked["params"]["arguments"]["a"] + 1)
            results["tools/call"] = {"content": [{"type": "text", "text": total}]}
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]}
        data = json.dumps(answer).encode()
        if not self.streams:
            return Response(200, data)
        return Response(200, self._events(data), "text/event-stream")

    async def _events(self, data: bytes) -> AsyncIterator[bytes]:
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
        yield b": a comment\nevent: message\ndata: " + json.dumps(note).encode() + b"\n\n"
        yield b"data: " + data[:10]
        yield data[10:] + b"\n\n"


@pytest.mark.parametrize("streams", [False, True])
def test_http_answers_come_as_json_and_as_streams(streams: bool) -> None:
    fake = Fake(streams)

    async def asked() -> list[str]:
        async with Listening(fake.handle, refusal) as listening:
            url = f"http://{listening.host}:{listening.port}/mcp"
            async with Server(url=url, seconds=5.0).tools() as tools:
                said = list(await asyncio.gather(*[tools[0].call({"a": n}) for n in (1, 2, 3)]))
                try:
                    await tools[0].call({"a": 0})
                except ToolError as error:
                    said.append(str(error))
                return said

    assert asyncio.run(asked()) == ["2", "3", "4", "add failed: HTTP status 500"]
    assert fake.seen[:3] == ["initialize", "notifications/initialized", "tools/list"]


def test_the_env_of_the_page_plays_with_a_servers_tools(fake: Path, tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "agents.md"
    code = page.read_text(encoding="utf-8").partition("# with_mcp.py\n")[2].partition("```")[0]
    (tmp_path / "with_mcp.py").write_text(code, encoding="utf-8")
    made = find({}, f"{tmp_path}/with_mcp.py:Counted", "env")
    env = made((sys.executable, str(fake), "plain"))
    chat = chatml()
    call = '<tool_call>{"name": "add", "arguments": {"a": 6}}</tool_call>'
    engine = ScriptedEngine([call, "7"], chat.tokenizer, chat.end)
    player = Player(engine, env, chat, 100, 1.0, 4)
    group = asyncio.run(player.group(env.problems("train")[0], 0, 1, 0, "train"))
    assert group.rewards[0].total == 1.0
    assert "7" in group.trajectories[0].messages[2]["content"]
