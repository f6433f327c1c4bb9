"""As much of the Hugging Face hub as a download needs, to be served on this machine."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The one repository owner/tiny, model or data set, made of ``files``.

    ``failure`` answers in place of everything.
    """

    files: dict[str, bytes] = {}
    failure: tuple[int, str] | None = None
    asked: list[str] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if self.failure is not None or "owner/tiny" not in path:
            status, code = self.failure or (404, "RepoNotFound")
            self.answer(status, b"{}", {"X-Error-Code": code})
        elif "/resolve/" in path:
            name = path.partition("/resolve/")[2].partition("/")[2]
            etag = hashlib.sha1(self.files[name]).hexdigest()
            self.answer(200, self.files[name], {"ETag": etag, "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            entries = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for n, b in self.files.items()
            ]
            self.answer(200, json.dumps(entries).encode(), {})
        else:
            info = {"id": "owner/tiny", "sha": COMMIT, "siblings": [], "tags": [], "private": False}
            self.answer(200, json.dumps(info).encode(), {})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
