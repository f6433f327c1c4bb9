"""MCP's streamable HTTP: each message is a POST, answered with JSON or with a stream of events.

The standard library's client in threads: the event loop never waits for a socket.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

MOST = 2**24  # bytes of an answer
AT_ONCE = 16
SESSION = "Mcp-Session-Id"


class Streamable:
    """``mcp.Wire`` to a URL. Messages of the server's own accord come in the streams of answers."""

    def __init__(self, url: str, headers: Mapping[str, str], seconds: float) -> None:
        self._url, self._headers, self._seconds = url, dict(headers), seconds
        self._pool = ThreadPoolExecutor(AT_ONCE, "upslope-mcp")
        self._inbox: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Post it; what comes back is received later. OSError where nobody answers."""
        loop = asyncio.get_running_loop()

        def told(found: Mapping[str, Any]) -> None:
            loop.call_soon_threadsafe(self._inbox.put_nowait, found)
            if found.get("id") == message.get("id") and isinstance(found.get("result"), dict):
                version = found["result"].get("protocolVersion")
                if version is not None:
                    self._headers["MCP-Protocol-Version"] = str(version)

        def post() -> None:
            for found in self._post(message):
                told(found)

        await loop.run_in_executor(self._pool, post)

    async def receive(self) -> Mapping[str, Any]:
        """The next message."""
        return await self._inbox.get()

    async def close(self) -> None:
        """Take leave, where the server keeps a session."""
        if SESSION in self._headers:
            request = urllib.request.Request(self._url, headers=self._headers, method="DELETE")

            def leave() -> None:
                with suppress(OSError, http.client.HTTPException):
                    urllib.request.urlopen(request, timeout=1.0).close()

            await asyncio.get_running_loop().run_in_executor(self._pool, leave)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _post(self, message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        kinds = "application/json, text/event-stream"
        headers = {**self._headers, "Content-Type": "application/json", "Accept": kinds}
        request = urllib.request.Request(self._url, json.dumps(message).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                if (session := answer.headers.get(SESSION)) is not None:
                    self._headers[SESSION] = session
                if answer.headers.get_content_type() == "text/event-stream":
                    yield from _events(answer)
                else:
                    yield from _messages(answer.read(MOST))
        except urllib.error.HTTPError as error:
            error.close()
            raise ConnectionError(f"HTTP status {error.code}") from None
        except urllib.error.URLError as error:
            raise ConnectionError(str(error.reason)) from None
        except http.client.HTTPException as error:
            raise ConnectionError(type(error).__name__) from None


def _events(answer: http.client.HTTPResponse) -> Iterator[Mapping[str, Any]]:
    """The messages of a stream, until it ends."""
    data, length = b"", 0
    while line := answer.readline(MOST):
        length += len(line)
        if length > MOST:
            raise ConnectionError(f"an answer of more than {MOST} bytes")
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data += line[5:].strip()
        elif not line and data:
            yield from _messages(data)
            data = b""


def _messages(body: bytes) -> Iterator[Mapping[str, Any]]:
    """One message, or a list of several; nothing where it is neither."""
    with suppress(ValueError, RecursionError):
        found = json.loads(body)
        yield from (
            one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict)
        )
