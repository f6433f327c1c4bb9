"""A server on this machine that speaks the dialect of OpenAI's, with verdicts by a function."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes]


def completion(text: str, tokens: int = 11) -> Answer:
    """What a server answers that has something to say."""
    said = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return 200, json.dumps({**said, "usage": {"total_tokens": tokens}}).encode()


@dataclass
class Served:
    """``url`` up to /v1; ``asked``: bodies; ``keys``: authorisations; ``most``: at once."""

    url: str
    asked: list[Any] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    under_way: int = 0
    most: int = 0


@contextmanager
def serving(answer: Callable[[str], Answer], seconds: float = 0.0) -> Iterator[Served]:
    """A server until the block ends; ``answer`` gets each prompt, after ``seconds``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                served.asked.append(body | {"path": self.path})
                served.keys.append(self.headers.get("Authorization"))
                served.under_way += 1
                served.most = max(served.most, served.under_way)
            time.sleep(seconds)
            status, data = answer(body["messages"][0]["content"])
            with lock:
                served.under_way -= 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None:
            pass  # who asked has gone

    server = Server(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
