"""`matrpo report --serve`: the page of runs at a loopback port, renewed while they go on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from matrpo.errors import ConfigError

_HOST = "127.0.0.1"
_REST = 3.0
"""Times that rendering computed for until the page is rendered again: it has a quarter of a core at most."""


class LivePage:
    """A page that is rendered when somebody asks for it and its runs have changed.

    Args:
        files: those that it is made of, as they are now.
        render: makes the page with this version in it.
        clock: seconds.
        work: seconds that this thread has computed for.
    """

    def __init__(
        self,
        files: Callable[[], list[Path]],
        render: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self._files = files
        self._render = render
        self._clock = clock
        self._work = work
        self._lock = threading.Lock()
        self._rendered = "", ""
        self._rest_until = -float("inf")

    def take(self) -> tuple[str, str]:
        """The page's version, an ETag of HTTP, and the page.

        Raises:
            ConfigError: a file of a run cannot be read.
        """
        with self._lock:
            version = self._version()
            if version != self._rendered[0] and self._clock() >= self._rest_until:
                began = self._work()
                self._rendered = version, self._render(version)
                self._rest_until = self._clock() + _REST * (self._work() - began)
            return self._rendered

    def _version(self) -> str:
        """What changes whenever a file does."""
        digest = hashlib.sha256()
        for path in self._files():
            with contextlib.suppress(OSError):
                found = os.stat(path)
                digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
        return f'"{digest.hexdigest()[:16]}"'


class PageServer(ThreadingHTTPServer):
    """HTTP server of one page, for this machine alone.

    Args:
        page: the page.
        port: where to listen; 0 takes a free one.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, page: LivePage, port: int) -> None:
        self.page = page
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"cannot listen at port {port} of {_HOST}: {error.strerror}; choose another --port"
            ) from None

    @property
    def address(self) -> str:
        """The page's URL."""
        return f"http://{_HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        """Answer with the page, or that it is as the browser has it."""
        with contextlib.suppress(ConnectionError):
            if self.path != "/":
                return self._answer(HTTPStatus.NOT_FOUND, "there is one page: /")
            if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in (_HOST, "localhost")}:
                return self._answer(HTTPStatus.FORBIDDEN, "this page is for this machine")  # no name bound to it anew
            try:
                version, page = self.server.page.take()
            except ConfigError as error:
                return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            if self.headers.get("If-None-Match") == version:
                return self._answer(HTTPStatus.NOT_MODIFIED)
            return self._answer(HTTPStatus.OK, page, ("Content-Type", "text/html; charset=utf-8"), ("ETag", version))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""

    def _answer(self, status: HTTPStatus, text: str = "", *headers: tuple[str, str]) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in headers or (("Content-Type", "text/plain; charset=utf-8"),):
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
