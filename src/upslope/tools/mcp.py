"""Tools of an MCP server (Model Context Protocol), by stdio or streamable HTTP.

A client of the part of the protocol that tools need: initialise, list, call. What a server asks of
its client is answered with what JSON-RPC says of unknown methods, but for a ping.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from upslope.tools import ToolError
from upslope.tools.mcp_http import Streamable
from upslope.types import UserError

VERSION = "2025-06-18"
CLIENT = {"name": "upslope", "version": "1"}
UNKNOWN = {"code": -32601, "message": "this client has no such method"}
PAGES = 100  # of tools, at most
LINE = 2**24  # bytes of a message, at most
FAREWELL = 2.0


class Wire(Protocol):
    """How messages travel."""

    async def send(self, message: Mapping[str, Any]) -> None:
        """To the server; ConnectionError where there is none."""

    async def receive(self) -> Mapping[str, Any]:
        """The next one from it; ConnectionError where it has gone."""


@dataclass(frozen=True)
class Server:
    """``command``: a program to start, or ``url``: of one that runs, with ``headers``. ``seconds``:
    for one answer, and for the start."""

    command: tuple[str, ...] = ()
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise UserError("an MCP server has either a command, to start it, or a url: give one")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise UserError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.seconds <= 0:
            raise UserError(f"seconds must be above 0, got {self.seconds}")

    @asynccontextmanager
    async def tools(self) -> AsyncIterator[Sequence[Remote]]:
        """Its tools, as long as the block lasts; UserError where it cannot be reached."""
        name = self.url or self.command[0]
        async with AsyncExitStack() as stack:
            try:
                opened = self._stdio() if self.command else self._http()
                client = Client(await stack.enter_async_context(opened), self.seconds)
                stack.push_async_callback(client.close)
                found = await client.begin()
            except (OSError, TimeoutError, ProtocolError) as error:
                why = str(error) or f"no answer within {self.seconds:g} s"
                raise UserError(f"the MCP server {name} cannot be used: {why}") from error
            yield found

    @asynccontextmanager
    async def _stdio(self) -> AsyncIterator[Wire]:
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE,
            start_new_session=True,
        )
        try:
            yield Stdio(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # as the protocol has it: then it may end by itself
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[Wire]:
        wire = Streamable(self.url, self.headers, self.seconds)
        try:
            yield wire
        finally:
            await wire.close()


class ProtocolError(Exception):
    """The server speaks, and not this protocol, or refuses."""


class Client:
    """Requests and their answers, as many at once as there are."""

    def __init__(self, wire: Wire, seconds: float) -> None:
        self._wire, self._seconds = wire, seconds
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._hearing = asyncio.ensure_future(self._hear())

    async def begin(self) -> list[Remote]:
        """Shake hands; the tools that there are."""
        given = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": CLIENT}
        answer = await self.ask("initialize", given)
        if not isinstance(answer.get("protocolVersion"), str):
            raise ProtocolError("it named no version of the protocol")
        await self._wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        found: list[Remote] = []
        cursor: Mapping[str, Any] = {}
        for _ in range(PAGES):
            page = await self.ask("tools/list", cursor)
            found += [_remote(self, given) for given in page.get("tools", [])]
            if not page.get("nextCursor"):
                return found
            cursor = {"cursor": page["nextCursor"]}
        raise ProtocolError(f"its list of tools has more than {PAGES} pages")

    async def ask(self, method: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A result; ProtocolError where there is an error instead, TimeoutError after a while."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(given)}
        try:
            async with asyncio.timeout(self._seconds):
                if self._hearing.done():
                    raise ConnectionError("it has ended")
                await self._wire.send(message)
                result = await answer
        except TimeoutError:
            about = {"requestId": number, "reason": "timeout"}
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": about}
            with suppress(OSError):
                await self._wire.send(note)
            raise
        finally:
            self._asked.pop(number, None)
        if not isinstance(result, dict):
            raise ProtocolError(f"its answer to {method} is no object")
        return result

    async def close(self) -> None:
        """Hear no more."""
        self._hearing.cancel()
        await asyncio.gather(self._hearing, return_exceptions=True)

    async def _hear(self) -> None:
        try:
            while True:
                await self._heard(await self._wire.receive())
        except (OSError, ProtocolError) as error:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(ConnectionError(str(error) or "it has ended"))

    async def _heard(self, message: Mapping[str, Any]) -> None:
        number, method = message.get("id"), message.get("method")
        if method is not None:
            if number is not None:
                said = {"result": {}} if method == "ping" else {"error": UNKNOWN}
                await self._wire.send({"jsonrpc": "2.0", "id": number, **said})
            return
        answer = self._asked.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            return
        if "error" in message:
            error = message["error"]
            words = error.get("message") if isinstance(error, dict) else error
            answer.set_exception(ProtocolError(str(words)))
        else:
            answer.set_result(message.get("result"))


@dataclass(frozen=True)
class Remote:
    """``tools.Tool`` of a server."""

    client: Client
    name: str
    description: str
    parameters: Mapping[str, Any]

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Its text; ToolError where the server says error, or nothing."""
        given = {"name": self.name, "arguments": dict(arguments)}
        try:
            result = await self.client.ask("tools/call", given)
        except TimeoutError as error:
            raise ToolError(f"{self.name} gave no answer in time") from error
        except (OSError, ProtocolError) as error:
            raise ToolError(f"{self.name} failed: {error}") from error
        text = _text(result)
        if result.get("isError"):
            raise ToolError(text or f"{self.name} failed")
        return text


class Stdio:
    """A message a line, to and from a program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._writer, self._reader = process.stdin, process.stdout

    async def send(self, message: Mapping[str, Any]) -> None:
        """One line."""
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def receive(self) -> Mapping[str, Any]:
        """The next line that is a message; a server that prints other things is forgiven."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError as error:
                raise ProtocolError(f"a message of more than {LINE} bytes") from error
            if not line:
                raise ConnectionError("the program has ended")
            with suppress(ValueError, RecursionError):
                message = json.loads(line)
                if isinstance(message, dict):
                    return message


def _remote(client: Client, given: Any) -> Remote:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ProtocolError("its list has a tool without a name")
    schema = given.get("inputSchema")
    known = schema if isinstance(schema, dict) else {"type": "object", "properties": {}}
    return Remote(client, given["name"], str(given.get("description") or ""), known)


def _text(result: Mapping[str, Any]) -> str:
    """The texts of a result, or else what it is made of."""
    parts = [part for part in result.get("content") or [] if isinstance(part, dict)]
    texts = [
        str(part.get("text", "")) if part.get("type") == "text" else f"[{part.get('type')}]"
        for part in parts
    ]
    if not texts and "structuredContent" in result:
        return json.dumps(result["structuredContent"])
    return "\n".join(texts)
