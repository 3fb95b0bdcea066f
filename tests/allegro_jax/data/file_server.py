"""A small HTTP server of files, with what servers in the world do well and badly."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class FileServer:
    """What is served, how, and what was asked for.

    Attributes:
        address: of the server, without a slash at its end.
        files: content by path, ``"/set/file"``.
        breaks: after how many bytes each of the next answers breaks off.
        statuses: HTTP statuses of the next answers, instead of the file.
        ranges: whether ranges are served. tags: whether entity tags are sent.
        content_type: of the files.
        requests: path and headers of each request.
        sent: bytes sent to each.
    """

    address: str = ""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    breaks: list[int] = dataclasses.field(default_factory=list)
    statuses: list[int] = dataclasses.field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    content_type: str = "application/octet-stream"
    requests: list[tuple[str, Mapping[str, str]]] = dataclasses.field(default_factory=list)
    sent: list[int] = dataclasses.field(default_factory=list)

    @property
    def asked(self) -> list[str | None]:
        """The range that each request asked for."""
        return [headers.get("Range") for _, headers in self.requests]


@contextmanager
def serve() -> Iterator[FileServer]:
    """A server on a free port of this machine, while the context lasts."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, dict(self.headers)))
            content = state.files.get(self.path)
            status = state.statuses.pop(0) if state.statuses else None
            if status or content is None:
                self.send_error(status or 404)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"' if state.tags else None
            start = self._start(tag)
            if start >= len(content) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", state.content_type)
            if tag:
                self.send_header("ETag", tag)
            self.end_headers()
            body = content[start:]
            if state.breaks:
                body = body[: state.breaks.pop(0)]
                self.close_connection = True
            state.sent.append(len(body))
            self.wfile.write(body)

        def _start(self, tag: str | None) -> int:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if not state.ranges or asked is None:
                return 0
            condition = self.headers.get("If-Range")
            return int(asked[1]) if condition in (None, tag) else 0

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
