"""An HTTP proxy on loopback that stands in front of an object store and lets chosen requests go wrong."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
NO_ACCESS = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
)
NO_BUCKET = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchBucket</Code>'
    b"<Message>The specified bucket does not exist</Message></Error>"
)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with one request.

    "status" answers with `status` and `body`, and the store hears nothing of the request; "drop_before" closes the
    connection, and the store hears nothing; "drop_after" closes it once the store has done what was asked;
    "truncate" sends the headers and half of the store's answer; "delay" waits `seconds` and then does as asked.
    """

    kind: Literal["status", "drop_before", "drop_after", "truncate", "delay"]
    status: int = 503
    body: bytes = SLOW_DOWN
    seconds: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request as it came, `number` counting from 0 over all connections; `trouble` is what it met."""

    number: int
    method: str
    path: str
    nbytes: int
    trouble: Trouble | None = None


class FaultProxy:
    """Forwards every request to `target`, but for those to which `rule(method, path, number)` gives a Trouble.

    `rule` may be replaced at any time; None lets everything through. `seen` grows by every request.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.rule: Callable[[str, str, int], Trouble | None] | None = None
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its own address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def met(self, kind=None, method=None):
        """The requests that met trouble, of one kind and one method where these are given."""
        found = [seen for seen in list(self.seen) if seen.trouble is not None]
        return [s for s in found if kind in {None, s.trouble.kind} and method in {None, s.method}]

    def judge(self, method: str, path: str, nbytes: int) -> Trouble | None:
        """What the request that just came meets; it is noted down."""
        with self._lock:
            number = len(self.seen)
            trouble = self.rule(method, path, number) if self.rule else None
            self.seen.append(Seen(number, method, path, nbytes, trouble))
        return trouble


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a client that went away is no news


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.upstream = None

    def finish(self):
        if self.upstream:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_):
        pass

    def relay(self):
        body = self._body()
        trouble = self.server.proxy.judge(self.command, self.path, len(body))
        kind = trouble.kind if trouble else None
        if kind == "drop_before":
            return self._drop()
        if kind == "status":
            return self._send(trouble.status, [("Content-Type", "application/xml")], trouble.body)
        if kind == "delay":
            time.sleep(trouble.seconds)
        status, headers, answer = self._forward(body)
        if kind == "drop_after":
            return self._drop()
        half = len(answer) // 2 if kind == "truncate" else len(answer)
        self._send(status, headers, answer, sent=half)
        return self._drop() if half < len(answer) else None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = relay  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _forward(self, body):
        headers = {n: v for n, v in self.headers.items() if n.lower() not in {"expect", "transfer-encoding"}}
        if body or "Content-Length" in headers:
            headers["Content-Length"] = str(len(body))
        for fresh in (False, True):  # a kept connection may have been closed by the store
            if self.upstream is None:
                self.upstream = http.client.HTTPConnection(
                    self.server.proxy.target.hostname, self.server.proxy.target.port, timeout=60
                )
            try:
                self.upstream.request(self.command, self.path, body or None, headers)
                response = self.upstream.getresponse()
                return response.status, response.getheaders(), response.read()
            except (http.client.HTTPException, ConnectionError):
                self.upstream.close()
                self.upstream = None
                if fresh:
                    raise
        raise AssertionError

    def _send(self, status, headers, answer, sent=None):
        self.send_response_only(status)
        dropped = {"transfer-encoding", "connection", "content-length"}
        for name, value in headers:
            if name.lower() not in dropped:
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", len(answer))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[:sent])
            self.wfile.flush()

    def _drop(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
