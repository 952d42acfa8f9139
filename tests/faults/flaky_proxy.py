"""Servers between a client and Usance: one that loses what it carries, one that says its lines."""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.processes import SECONDS


class Handler(BaseHTTPRequestHandler):
    """Reads a request whole; the class of each server says what comes of it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.take(body)

    def take(self, body: bytes) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def serving_handler(handler: type[Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def flaky_proxy(upstream: str, *, seed: int) -> Iterator[tuple[str, Counter[str]]]:
    """Carries one request in three well; gives its address and what it did, by kind."""
    place = urlsplit(upstream)
    numbers, done, lock = random.Random(seed), Counter[str](), threading.Lock()
    kinds = ("carried", "carried", "lost before", "lost after", "lost after", "503", "page")

    class Proxy(Handler):
        def take(self, body: bytes) -> None:
            with lock:
                kind = numbers.choice(kinds)
                done[kind] += 1
            if kind == "lost before":
                self.hang_up()
            elif kind == "503":
                problem = b'{"code": "unavailable", "detail": "not now"}'
                self.answer(503, problem, {"Retry-After": "0"})
            elif kind == "page":
                self.answer(400, b"<html>who are you?</html>")
            else:
                status, content = self.carry(body)
                if kind == "lost after":
                    self.hang_up()
                else:
                    self.answer(status, content, {"Content-Type": "application/json"})

        def carry(self, body: bytes) -> tuple[int, bytes]:
            connection = HTTPConnection(place.netloc, timeout=SECONDS)
            try:
                kept = ("authorization", "content-type", "content-encoding")
                named = {each: self.headers[each] for each in kept if each in self.headers}
                connection.request("POST", self.path, body=body, headers=named)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

    with serving_handler(Proxy) as address:
        yield address, done


@contextlib.contextmanager
def scripted(
    lines: Sequence[tuple[int, bytes, dict[str, str]]],
) -> Iterator[tuple[str, list[bytes]]]:
    """Says its lines, one a request, then accepts all there is; gives the bodies it was sent."""
    left, bodies = list(lines), list[bytes]()

    class Actor(Handler):
        def take(self, body: bytes) -> None:
            bodies.append(body)
            if left:
                self.answer(*left.pop(0))
            else:
                count = body.count(b'"id":')
                self.answer(200, b'{"accepted": %d, "duplicates": 0, "rejected": []}' % count)

    with serving_handler(Actor) as address:
        yield address, bodies
