"""One batch to the server and what became of it."""

import contextlib
import email.utils
import gzip
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from usance_client.events import Event, Rejection

_MOST_ANSWER_BYTES = 50_000_000
_REFUSED_WHOLE = frozenset({400, 409, 413, 415, 422})
_COMPRESS_BYTES = 2_000


@dataclass(frozen=True)
class Outcome:
    """What became of a batch.

    `settled`: the server has answered for every event. Else `again`: the same events are to be
    sent again, not sooner than `wait_seconds`; or neither: the batch is refused as a whole.
    """

    settled: bool
    again: bool = False
    rejections: Sequence[Rejection] = ()
    problem: str = ""
    code: str = ""
    wait_seconds: float = 0.0


@dataclass
class Transport:
    """A connection that is kept open; for one thread."""

    url: str
    key: str
    timeout_seconds: float
    compress: bool = False
    context: ssl.SSLContext | None = None
    _connection: HTTPConnection | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is none."""
        place = urlsplit(self.url)
        if place.scheme not in {"http", "https"} or not place.hostname:
            raise ValueError("url must look like https://billing.example.com")
        self._host, self._port, self._secure = place.hostname, place.port, place.scheme == "https"
        self._path = place.path.rstrip("/") + "/v1/events"

    def send(self, events: Sequence[Event]) -> Outcome:
        """Send a batch; never raises for what the network or the server does."""
        body = b"[" + b",".join(event.content for event in events) + b"]"
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        if self.compress and len(body) > _COMPRESS_BYTES:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        try:
            if self._connection is not None:
                # The server may have ended a connection that was idle: that is no failure.
                with contextlib.suppress(ConnectionError, HTTPException):
                    return _read_answer(events, *self._post(body, headers))
                self.close()
            return _read_answer(events, *self._post(body, headers))
        except Exception as error:  # noqa: BLE001 - nothing may end the thread that sends
            # Unknown: it may be stored or not. The same ids again find that out.
            self.close()
            return Outcome(settled=False, again=True, problem=f"{type(error).__name__}: {error}")

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[HTTPResponse, bytes]:
        connection = self._connect()
        connection.request("POST", self._path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read(_MOST_ANSWER_BYTES)
        if answer.will_close or not answer.isclosed():
            self.close()
        return answer, content

    def close(self) -> None:
        """End the connection; the next batch opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> HTTPConnection:
        if self._connection is None:
            self._connection = (
                HTTPSConnection(
                    self._host, self._port, timeout=self.timeout_seconds, context=self.context
                )
                if self._secure
                else HTTPConnection(self._host, self._port, timeout=self.timeout_seconds)
            )
        return self._connection


def _read_answer(events: Sequence[Event], answer: HTTPResponse, content: bytes) -> Outcome:
    try:
        body: Any = json.loads(content)
        if answer.status == 200:
            # All or nothing: an answer that does not add up is no answer.
            rejections = [
                Rejection(event=events[item["index"]], code=item["code"], detail=item["detail"])
                for item in body["rejected"]
            ]
            if body["accepted"] + body["duplicates"] + len(rejections) == len(events):
                return Outcome(settled=True, rejections=rejections)
        problem = f"{answer.status} {body['code']}: {body['detail']}"
        code = str(body["code"])
    except (ValueError, KeyError, TypeError, IndexError):
        problem, code = f"{answer.status} without an answer of Usance", ""
    # Whoever stands between may answer anything: only a refusal of Usance's own is one for good.
    again = answer.status not in _REFUSED_WHOLE or not code
    return Outcome(
        settled=False,
        again=again,
        problem=problem,
        code=code,
        wait_seconds=_retry_after(answer.getheader("Retry-After")),
    )


def _retry_after(text: str | None) -> float:
    """Seconds from a number of them or from a date; zero when there is neither."""
    if text is None:
        return 0.0
    try:
        if text.strip().isdigit():
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
