"""A tax engine to be asked: a real HTTP server on the loopback that answers as it is told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Engine:
    """What it was asked, and how it behaves towards a customer: `down`, `mute`, `wrong` or well."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.moods: dict[str, str] = {}
        self.url = ""
        self.closing = threading.Event()

    def answer(self, question: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body: 6.25 percent for Texas and 2 for Austin, of every line."""
        self.asked.append(question)
        match self.moods.get(question["customer_key"], "well"):
            case "down":
                return 500, b"{}"
            case "moved":
                return 302, b""
            case "mute":
                self.closing.wait()
                return 200, b"{}"
            case "wrong":
                lines = [taxed(line, "8.25", "Texas") for line in question["lines"]]
                lines[0]["taxes"][0]["amount"] = "9999.00"
            case "short":
                lines = []
            case "nul":
                lines = [taxed(line, "6.25", "US-TX") for line in question["lines"]]
                lines[0]["taxes"][0]["name"] = "a\x00"
            case "garbled":
                return 200, b"tax: yes"
            case _:
                lines = [taxed(line, "6.25", "US-TX", "2", "Austin") for line in question["lines"]]
        return 200, json.dumps({"lines": lines}).encode()


def taxed(line: dict[str, Any], *pairs: str) -> dict[str, Any]:
    """The line with a tax for each (percentage, jurisdiction)."""
    cents = round(float(line["amount"]) * 100)
    taxes = [
        {
            "jurisdiction": whose,
            "name": f"{whose} sales tax",
            "percentage": rate,
            "amount": f"{round(cents * float(rate) / 100) / 100:.2f}",
        }
        for rate, whose in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return {"index": line["index"], "taxes": taxes}


@contextmanager
def tax_engine() -> Iterator[Engine]:
    """The engine, listening for the length of the block."""
    engine = Engine()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            engine.headers.append(dict(self.headers))
            status, body = engine.answer(json.loads(self.rfile.read(length)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", engine.url)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # whoever waited no longer is gone

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    engine.url = f"http://127.0.0.1:{server.server_port}/tax"
    try:
        yield engine
    finally:
        engine.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
