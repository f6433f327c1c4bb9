"""A chat completion of any OpenAI-compatible server, over HTTP, in bounded time, with retries.

The standard library's client in a few threads: the event loop never waits for a socket.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from upslope.rewards.failures import VerdictError
from upslope.types import UserError

PIECE = 1 << 16
MOST = 1 << 22  # bytes of an answer, beyond which it is none


@dataclass(frozen=True)
class Endpoint:
    """``url``: up to ``/v1``; ``model``: what the server calls it. ``key``: the environment's
    variable that holds the API key, "" for none. ``timeout``: seconds of one try; ``retries``:
    tries after the first where nobody was reached, time was up, or the server was busy (429, 5xx),
    the first after ``backoff`` seconds, each next after twice as many. ``at_once``: requests under
    way.
    """

    url: str
    model: str = ""
    key: str = ""
    timeout: float = 30.0
    retries: int = 3
    backoff: float = 0.5
    at_once: int = 32

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        if not (0 < self.timeout <= 300 and self.retries >= 0 and 0 <= self.backoff <= 60):
            raise ValueError("timeout must be up to 300 seconds, retries and backoff at least 0")
        if self.at_once < 1:
            raise ValueError(f"at_once must be at least 1, got {self.at_once}")

    def client(self) -> Client:
        """UserError where the environment has no key."""
        if self.key and not os.environ.get(self.key):
            raise UserError(
                f"the environment has no {self.key}, which endpoint.key names for the API key of "
                f"{self.url}: set it, or leave endpoint.key out"
            )
        return Client(self, os.environ[self.key] if self.key else "")


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered, and the tokens that it read and wrote, 0 where nobody counted."""

    text: str
    tokens: int


class Client:
    """Asks one server. ``secret`` goes into a header and nowhere else."""

    def __init__(self, settings: Endpoint, secret: str) -> None:
        self.settings, self._secret = settings, secret
        self._pool: ThreadPoolExecutor | None = None

    async def ask(self, prompt: str, max_tokens: int, temperature: float, seed: int) -> Said:
        """The answer to one message; VerdictError, after the last try, where there is none."""
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed % 2**31,
        }
        data, loop = json.dumps(body).encode(), asyncio.get_running_loop()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.settings.at_once, "upslope-judge")
        for tried in range(self.settings.retries + 1):
            try:
                return await loop.run_in_executor(self._pool, self._post, data)
            except VerdictError as failed:
                if tried == self.settings.retries or not failed.again:
                    raise
            await asyncio.sleep(self.settings.backoff * 2**tried)
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """End its threads; what they still wait for is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _post(self, data: bytes) -> Said:
        settings, until = self.settings, time.monotonic() + self.settings.timeout
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        url = f"{settings.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, data, headers)
        late = VerdictError("timeout", f"no answer within {settings.timeout:g} s", again=True)
        try:
            with urllib.request.urlopen(request, timeout=settings.timeout) as answer:
                return _said(_whole(answer, until, late))
        except urllib.error.HTTPError as error:
            error.close()
            busy = error.code == 429 or error.code >= 500
            raise VerdictError("refused", f"HTTP status {error.code}", again=busy) from None
        except TimeoutError:
            raise late from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise late from None
            raise VerdictError("unreachable", str(error.reason), again=True) from None
        except (OSError, http.client.HTTPException) as error:
            raise VerdictError("unreachable", type(error).__name__, again=True) from None


def _whole(answer: http.client.HTTPResponse, until: float, late: VerdictError) -> bytes:
    """The body; a server that sends a little now and then has no more time than any other."""
    found = b""
    while piece := answer.read1(PIECE):
        found += piece
        if time.monotonic() > until:
            raise late
        if len(found) > MOST:
            raise VerdictError("unparsable", f"an answer of more than {MOST} bytes")
    return found


def _said(body: bytes) -> Said:
    """The first choice's text; VerdictError where the answer has another form."""
    try:
        answer: Any = json.loads(body)
        text = answer["choices"][0]["message"]["content"]
        tokens = (answer.get("usage") or {}).get("total_tokens") or 0
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise VerdictError("unparsable", "the answer is no chat completion") from error
    if not isinstance(text, str) or not isinstance(tokens, int):
        raise VerdictError("unparsable", "the answer is no chat completion")
    return Said(text, tokens)
