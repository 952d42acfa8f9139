"""`POST /v1/events`: the one route where every microsecond counts.

The body goes from the socket to msgspec without the framework's parsing. The route is an ordinary
one for routing and for the description; a middleware of its own answers in its place.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Final, cast

import msgspec
from litestar import Litestar, post
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Send
from litestar.types import Scope as ConnectionScope
from prometheus_client import REGISTRY

from api.admission import Admission, Refusal
from api.auth import INGEST_KEY_AGE, Authenticator, Principal
from api.body_form import BodyForm, body_form
from api.event_body import BODY_LIMIT_BYTES, Body, Patience, Receiver, too_large
from api.event_tallies import EventTallies
from api.problems import MEDIA_TYPE, RenderedProblem, render, render_any
from engine.db import Database
from metering.ingest import Ingester
from metering.intake import Intake, read_events
from metering.model import EventAnswer
from plans.api_keys import Scope
from plans.model import Mode
from plans.seller_store import load_seller

PATH: Final = "/v1/events"
BODY_SECONDS: Final = 10.0
_DRAINED: Final = frozenset({400, 413, 429})
_KNOWN_KEYS: Final = 1_000
_LONG_LENGTH: Final = len(str(BODY_LIMIT_BYTES))
_encode: Final = msgspec.json.Encoder().encode
_TALLIES: Final = EventTallies()
_JSON: Final = (b"content-type", b"application/json")
REGISTRY.register(_TALLIES)


@lru_cache(maxsize=256)
def _form(content_type: bytes, content_encoding: bytes) -> BodyForm | RenderedProblem:
    """What the headers say of the body; senders say the same again and again."""
    form = body_form(
        content_type=content_type.decode("latin-1"),
        content_encoding=content_encoding.decode("latin-1"),
    )
    if isinstance(form, str):
        return render(status=415, code="unsupported_media_type", detail=form)
    return form


async def _test_now(database: Database, *, seller: int) -> datetime:
    """Where a test seller's own clock stands."""
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
    assert found.clock_at is not None
    return found.clock_at


class _KnownKeys:
    """Principals by header, for as long as a look-up may be old."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._seen: dict[bytes, tuple[Principal, float]] = {}
        self._asked: dict[bytes, asyncio.Task[Principal]] = {}

    def known(self, header: bytes, *, now_seconds: float) -> Principal | None:
        """The principal of the header, unless it is to be looked up."""
        seen = self._seen.get(header)
        return seen[0] if seen is not None and now_seconds < seen[1] else None

    async def find(self, header: bytes) -> Principal:
        """The principal of the header. Errors: those of `Authenticator.authenticate`."""
        # Whoever comes while the key is looked up waits for that: a key grows too old for
        # all that use it at once.
        asked = self._asked.get(header)
        if asked is None:
            asked = asyncio.create_task(self._ask(header))
            self._asked[header] = asked
            asked.add_done_callback(lambda _: self._asked.pop(header, None))
        return await asyncio.shield(asked)

    async def _ask(self, header: bytes) -> Principal:
        now = _monotonic()
        principal = await self._authenticator.authenticate(
            authorization=header.decode("latin-1") or None, scope=Scope.INGEST
        )
        if len(self._seen) >= _KNOWN_KEYS:
            self._seen.clear()
        self._seen[header] = (principal, now + INGEST_KEY_AGE.total_seconds())
        return principal


class _Door:
    """What one application has at hand for those who send events."""

    def __init__(self, state: Any) -> None:
        """Nobody came yet."""
        self.database = cast("Database", state.database)
        self.clock = cast("Callable[[], datetime]", state.clock)
        self.ingester = cast("Ingester", state.ingester)
        self.keys = _KnownKeys(cast("Authenticator", state.authenticator))
        self.admission = Admission()
        self.patience = Patience()
        self._large = asyncio.Lock()

    async def read(self, reading: Callable[[], Intake]) -> Intake:
        """Read a large body beside the loop, one at a time: the small ones do not wait for it."""
        async with self._large:
            return await asyncio.to_thread(reading)


async def _answer(
    given: Mapping[bytes, bytes], receiver: Receiver, door: _Door
) -> EventAnswer | RenderedProblem | None:
    form = _form(given.get(b"content-type", b""), given.get(b"content-encoding", b""))
    if isinstance(form, RenderedProblem):
        return form
    authorization = given.get(b"authorization", b"")
    principal = door.keys.known(authorization, now_seconds=_monotonic())
    if principal is None:
        principal = await door.keys.find(authorization)
    length = given.get(b"content-length", b"")
    if len(length) >= _LONG_LENGTH and length.isdigit() and int(length) > BODY_LIMIT_BYTES:
        raise too_large()
    admission = door.admission
    limited = principal.events_per_second is not None
    if limited:
        admission.check_rate(principal=principal, now_seconds=_monotonic(), events=0)
    with admission.of_key(key_id=principal.key_id):
        try:
            body = Body(gzip=form.gzip, admission=admission)
            try:
                text = await door.patience.read(receiver, body, seconds=BODY_SECONDS)
                if text is None:
                    return None
                if body.is_large:
                    reading = partial(
                        read_events, text, lines=form.lines, cloudevents=form.cloudevents
                    )
                    del text
                    intake = await door.read(reading)
                else:
                    intake = read_events(text, lines=form.lines, cloudevents=form.cloudevents)
            finally:
                body.release()
        except TimeoutError:
            return _too_slow()
        if limited:
            count = len(intake.events) + len(intake.rejected)
            admission.check_rate(principal=principal, now_seconds=_monotonic(), events=count)
        if principal.mode is Mode.TEST:
            now = await _test_now(door.database, seller=principal.seller)
        else:
            now = door.clock()
        return await door.ingester.submit(seller=principal.seller, intake=intake, now=now)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _too_slow() -> RenderedProblem:
    detail = f"the body did not arrive within {BODY_SECONDS:.0f} seconds"
    return render(status=408, code="body_too_slow", detail=detail, headers={"Connection": "close"})


async def _send(send: Send, *, status: int, headers: Mapping[str, str], body: bytes) -> None:
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in {**headers, "content-length": str(len(body))}.items()
    ]
    await _send_pairs(send, status=status, pairs=pairs, body=body)


async def _send_pairs(
    send: Send, *, status: int, pairs: list[tuple[bytes, bytes]], body: bytes
) -> None:
    start = {"type": "http.response.start", "status": status, "headers": pairs}
    rest = {"type": "http.response.body", "body": body, "more_body": False}
    await send(cast("Message", start))
    await send(cast("Message", rest))


_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {"schema": {"type": ["object", "array"], "items": {"type": "object"}}},
        "application/cloudevents+json": {"schema": {"type": "object"}},
        "application/cloudevents-batch+json": {
            "schema": {"type": "array", "items": {"type": "object"}}
        },
        "application/x-ndjson": {"schema": {"type": "string"}},
    },
}


async def _take_events(
    headers: Iterable[tuple[bytes, bytes]], receive: Receive, send: Send, door: _Door
) -> None:
    """Read, store, answer."""
    given = dict(headers)
    receiver = Receiver(receive, given)
    try:
        with door.admission.request():
            answer = await _answer(given, receiver, door)
    except Refusal as refusal:
        answer = refusal.problem
    except Exception as error:  # noqa: BLE001 - whatever fails, the caller is told in one form
        answer = render_any(error)
    if isinstance(answer, EventAnswer):
        _TALLIES.count(answer)
        body = _encode(answer)
        pairs = [_JSON, (b"content-length", b"%d" % len(body))]
        await _send_pairs(send, status=200, pairs=pairs, body=body)
    elif answer is not None:
        _TALLIES.count_refusal(status=answer.status)
        if answer.status in _DRAINED:
            await receiver.drain()
        told = {**answer.headers, "content-type": MEDIA_TYPE}
        await _send(send, status=answer.status, headers=told, body=answer.body)


class EventsFirst(Litestar):
    """The application, with events let in before the framework looks at the request.

    Routing and the middlewares of the other routes cost a single event more than storing it does.
    """

    _door: _Door | None = None

    @property
    def door(self) -> _Door:
        """Where events come in."""
        if self._door is None:
            self._door = _Door(self.state)
        return self._door

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection."""
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await _take_events(scope["headers"], receive, send, self._door or self.door)
            return
        await super().__call__(scope, receive, send)


class TakeEvents(ASGIMiddleware):
    """Answers the route itself, however the framework came to it."""

    scopes = (ScopeType.HTTP,)

    async def handle(
        self, scope: ConnectionScope, receive: Receive, send: Send, next_app: ASGIApp
    ) -> None:
        """The route's own handler is never reached."""
        del next_app
        headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
        door = cast("EventsFirst", scope["litestar_app"]).door
        await _take_events(headers, receive, send, door)


@post(
    PATH,
    operation_id="ingestEvents",
    summary="Send usage events",
    description=(
        "One event, an array, or one a line (`application/x-ndjson`), plain or as CloudEvents;"
        " `Content-Encoding: gzip` is understood. An event has `id`, `type`, `subject` (a"
        " customer's key or id) and optionally `source`, `time` and `data`; as a CloudEvent it also"
        " has `specversion` 1.0. The answer comes when"
        " the events are durable. (source, id) identifies an event for ever: a repeat is a"
        " duplicate whatever its time, another payload under the same id a `conflict`. A bad item"
        " never harms its neighbours: item codes are `conflict`, `too_old`, `too_far_ahead`,"
        " `required` and `invalid`. After a 503 send the same ids again; after a 429 too, nothing"
        " was stored: `overloaded`, `rate_limited` and `too_many_requests_under_way` say in"
        " `Retry-After` when. A body holds at most 10 MB, compressed or not, and 10,000 events,"
        " and arrives within ten seconds."
    ),
    tags=["Usage"],
    status_code=200,
    middleware=[TakeEvents()],
    opt={"scope": "ingest", "idempotent": False, "request_body": _BODY},
)
async def ingest_events() -> EventAnswer:
    """Described here, answered by `TakeEvents`."""
    raise AssertionError("the middleware answers this route")
