"""ClickHouse's HTTP interface over the engine in this process, as far as its client speaks it."""

import contextlib
import email.policy
import re
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb

_INSERT = re.compile(rb"\s*INSERT INTO (\S+)\s*\(([^)]*)\)\s*FORMAT Native\s*?\n", re.DOTALL)


def form_fields(body: bytes, content_type: str) -> dict[str, str]:
    """The fields of a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    return {
        str(part.get_param("name", header="content-disposition")): bytes(
            part.get_payload(decode=True)  # type: ignore[arg-type]
        ).decode()
        for part in message.iter_parts()  # type: ignore[attr-defined]
    }


class Handler(BaseHTTPRequestHandler):
    """Answers with what the engine says."""

    client: Any
    engine: Any
    lock: threading.Lock
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self._answer(b"Ok.\n")

    def do_POST(self) -> None:
        body = b"".join(self._pieces())
        told = dict(parse_qsl(urlsplit(self.path).query))
        kind = self.headers.get("Content-Type") or ""
        if kind.startswith("multipart/form-data"):
            told |= form_fields(body, kind)
            body = b""
        body = told.get("query", "").encode() + body
        self.seen.append(told)
        try:
            with self.lock:
                self._answer(self._run(body, told))
        except Exception as error:  # noqa: BLE001 - told as the server tells it
            self._answer(str(error).encode(), code=500)

    def _pieces(self) -> Iterator[bytes]:
        """The body, which an insert sends in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _run(self, body: bytes, told: dict[str, str]) -> bytes:
        assert body
        insert = _INSERT.match(body)
        if insert is not None:
            names = [each.strip(" `\n") for each in insert[2].decode().split(",")]
            self.client.raw_insert(insert[1].decode(), names, body[insert.end() :], fmt="Native")
            return b""
        params = {
            name.removeprefix("param_"): value
            for name, value in told.items()
            if name.startswith("param_")
        }
        return bytes(self.engine.query(body.decode(), "TabSeparated", params=params).bytes())

    def _answer(self, body: bytes, *, code: int = 200) -> None:
        self.send_response(code)
        if code != 200:
            self.send_header("X-ClickHouse-Exception-Code", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def front(client: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(http://host:port, the parameters of each request so far)."""
    engine = chdb.connect(":memory:")
    seen: list[dict[str, str]] = []
    told = {"client": client, "engine": engine, "lock": threading.Lock(), "seen": seen}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Handler,), told))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        engine.close()
