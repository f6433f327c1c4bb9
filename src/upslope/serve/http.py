"""An HTTP/1.1 server on the event loop: requests to a handler, whole answers or streams back.

h11 reads and writes the protocol; sockets, bounds and timeouts are here, routes are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import h11

BODY = 8 * 2**20  # bytes of a request, at most
PIECE = 2**16
PATIENCE = 30.0  # seconds that a request may take to arrive, or an answer to be taken
IDLE = 120.0  # seconds between two requests of a connection


@dataclass(frozen=True, slots=True)
class Request:
    """``key``: what follows ``Bearer`` in its authorisation, "" where there is none."""

    method: str
    path: str
    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A whole body, or its pieces as they come."""

    status: int
    body: bytes | AsyncIterator[bytes]
    kind: str = "application/json"


Handler = Callable[[Request], Awaitable[Response]]


class UnreadableError(Exception):
    """A request that no handler sees: the status and the words that answer it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Server:
    """Listens from ``async with`` on, until that block ends; then nothing of it is left.

    ``refusal`` makes the body that answers an unreadable request. A handler whose client has gone
    is cancelled. ``most``: connections at once; a further one is closed.
    """

    def __init__(
        self,
        handler: Handler,
        refusal: Callable[[int, str], bytes],
        host: str = "127.0.0.1",
        port: int = 0,
        most: int = 1024,
    ) -> None:
        self._handler, self._refusal, self._most = handler, refusal, most
        self.host, self.port = host, port
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """OSError where the address cannot be had."""
        self._server = await asyncio.start_server(self._accepted, self.host, self.port, backlog=512)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._most:
            writer.close()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        try:
            while await self._exchange(wire):
                wire.protocol.start_next_cycle()
        except (ConnectionError, TimeoutError, h11.ProtocolError):
            pass  # whoever asked has gone, or cannot be talked to
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, wire: Wire) -> bool:
        """One request and its answer; whether another may follow."""
        try:
            request = await wire.request()
        except h11.RemoteProtocolError as error:
            await wire.answer(self._refused(UnreadableError(error.error_status_hint, str(error))))
            return False
        except UnreadableError as error:
            await wire.answer(self._refused(error))
            return False
        if request is None:
            return False
        handling = asyncio.ensure_future(self._handled(wire, request))
        gone = asyncio.ensure_future(wire.gone())
        try:
            await asyncio.wait((handling, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (handling, gone):
                if not task.done():
                    task.cancel()
            done = await asyncio.gather(handling, gone, return_exceptions=True)
        if isinstance(done[0], BaseException):
            if isinstance(done[0], asyncio.CancelledError):
                return False
            raise done[0]
        return wire.reusable

    async def _handled(self, wire: Wire, request: Request) -> None:
        await wire.answer(await self._handler(request))

    def _refused(self, error: UnreadableError) -> Response:
        return Response(error.status, self._refusal(error.status, str(error)))


class Wire:
    """A connection: bytes on one side, requests and answers on the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.protocol = h11.Connection(h11.SERVER)

    @property
    def reusable(self) -> bool:
        """Whether both sides have said all of this exchange and will go on."""
        return self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE

    async def request(self) -> Request | None:
        """The next one; None where the other side has ended. UnreadableError of a long one."""
        head, body, wait = None, bytearray(), IDLE
        while True:
            event = self.protocol.next_event()
            if event is h11.NEED_DATA:
                if self.protocol.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                async with asyncio.timeout(wait):
                    self.protocol.receive_data(await self._reader.read(PIECE))
                wait = PATIENCE
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY:
                    raise UnreadableError(413, f"the request's body has more than {BODY} bytes")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, bytes(body))
            else:
                return None

    async def answer(self, response: Response) -> None:
        """Say it; a stream in pieces, each as soon as it is there."""
        if self.protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        whole = response.body if isinstance(response.body, bytes) else None
        headers = [("Content-Type", response.kind)]
        if whole is not None:
            headers.append(("Content-Length", str(len(whole))))
        await self._send(h11.Response(status_code=response.status, headers=headers))
        if isinstance(response.body, bytes):
            await self._send(h11.Data(data=response.body))
        else:
            async for piece in response.body:
                await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())

    async def gone(self) -> None:
        """Until the other side closes; what it says meanwhile is kept for later, to a bound."""
        early = 0
        while early <= BODY and (data := await self._reader.read(PIECE)):
            self.protocol.receive_data(data)
            early += len(data)

    async def _send(self, event: h11.Event) -> None:
        data = self.protocol.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(PATIENCE):
                await self._writer.drain()


def _request(head: h11.Request, body: bytes) -> Request:
    headers = {name: value.decode("latin-1") for name, value in head.headers}
    kind, _, key = headers.get(b"authorization", "").partition(" ")
    path = head.target.decode("ascii", "replace").partition("?")[0]
    return Request(head.method.decode(), path, key.strip() if kind == "Bearer" else "", body)
