"""One transaction for one request: committed when the handler succeeded, before anyone is told."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Final, cast

import msgspec
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Send
from litestar.types import Scope as ConnectionScope
from sqlalchemy.ext.asyncio import AsyncConnection

from api.idempotency_store import (
    Kept,
    StoredAnswer,
    claim_key,
    drop_claim,
    find_answer,
    note_begun,
    save_answer,
)
from api.places import Places
from api.problems import MEDIA_TYPE, RenderedProblem, render_any
from engine.db import Database, exclusive
from engine.errors import BillingError, ErrorKind
from invoicing.ask_taxes import answer_every_tax

STATE: Final = "unit_of_work"
TAX_UNKNOWN: Final = "tax_unknown"
KEY_WAIT_SECONDS: Final = 2
"""For whoever works under the same key; then the repetition is told to come again."""
_log: Final = logging.getLogger("usance.api")


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The Idempotency-Key under which the answer is to be kept, and the fields it never keeps."""

    key: str
    request_hash: bytes
    now: datetime
    secret_fields: tuple[str, ...] = ()


class UnitOfWork:
    """The transaction of one request, opened when something first asks for it."""

    def __init__(self, *, database: Database, places: Places) -> None:
        """Nothing is opened yet; `places` are for requests that work for long."""
        self._database = database
        self._places = places
        self._stack = AsyncExitStack()
        self._connection: AsyncConnection | None = None
        self._claimed_by: int | None = None
        self.remembered: Remembered | None = None
        self.begun: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a transaction to be ended, or a key to be answered under."""
        return self._connection is not None or self._claimed_by is not None

    async def connection(self, *, seller: int) -> AsyncConnection:
        """The request's transaction in the name of the seller."""
        if self._connection is None:
            transaction = self._database.transaction(seller=seller)
            self._connection = await self._stack.enter_async_context(transaction)
        return self._connection

    async def find_place(self, *, seller: int) -> None:
        """Wait for a place to work for long in, and keep it until the request is over.

        Errors: `unavailable` when none is free in time.
        """
        await self._stack.enter_async_context(self._places.for_work(seller=seller))

    async def claim(self, *, seller: int, remembered: Remembered) -> Kept | None:
        """Hold the key while a request works that has transactions of its own.

        None for a new key. The lock ends with this process, so a claim whose holder died is taken
        over: `begun` is what that one had begun. Errors: `idempotency_in_progress`, and
        `unavailable` while as many keys are held as leave the work its connections.
        """
        await self._stack.enter_async_context(self._places.for_a_key(seller=seller))
        name = f"idempotency {seller} {remembered.key}"
        held = await self._stack.enter_async_context(
            exclusive(database=self._database, name=name, wait_seconds=KEY_WAIT_SECONDS)
        )
        if not held:
            detail = "a request with this Idempotency-Key is being worked on; send it again later"
            raise BillingError("idempotency_in_progress", detail, kind=ErrorKind.CONFLICT)
        async with self._database.transaction(seller=seller) as connection:
            found = await find_answer(connection=connection, key=remembered.key, now=remembered.now)
            if found is None:
                await claim_key(
                    connection=connection,
                    key=remembered.key,
                    request_hash=remembered.request_hash,
                    now=remembered.now,
                )
        if found is None or (
            found.answer is None and found.request_hash == remembered.request_hash
        ):
            self.remembered, self._claimed_by = remembered, seller
            self.begun = None if found is None else found.object
            return None
        return found

    async def note(self, connection: AsyncConnection, begun: str) -> None:
        """Write down what was begun (an id): a repetition of the request goes on with it."""
        if self._claimed_by is not None and self.remembered is not None:
            await note_begun(connection=connection, key=self.remembered.key, begun=begun)

    async def succeed(self, answer: StoredAnswer) -> None:
        """Keep the answer if it has a key, then commit."""
        remembered = self.remembered
        if self._claimed_by is not None:
            async with self._database.transaction(seller=self._claimed_by) as connection:
                await _save(connection, remembered, answer)
            self._claimed_by = None
        elif self._connection is not None:
            await _save(self._connection, remembered, answer)
        self._connection = None
        await self._stack.aclose()

    async def abandon(self) -> None:
        """Roll back what was not committed, and forget a key under which nothing was begun."""
        try:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await connection.rollback()
            if self._claimed_by is not None and self.remembered is not None:
                seller, self._claimed_by = self._claimed_by, None
                await self._drop(seller, self.remembered.key)
        finally:  # a place or a connection that is not given back is never anybody's again
            await self._stack.aclose()

    async def _drop(self, seller: int, key: str) -> None:
        try:
            async with self._database.transaction(seller=seller) as connection:
                await drop_claim(connection=connection, key=key)
        except Exception:  # noqa: BLE001 a repetition takes it over
            _log.warning("the claim of a key was not dropped", exc_info=True)


async def _save(
    connection: AsyncConnection, remembered: Remembered | None, answer: StoredAnswer
) -> None:
    if remembered is not None:
        await save_answer(
            connection=connection,
            key=remembered.key,
            request_hash=remembered.request_hash,
            answer=_without(answer, remembered.secret_fields),
            now=remembered.now,
        )


def _without(answer: StoredAnswer, fields: tuple[str, ...]) -> StoredAnswer:
    if not fields:
        return answer
    body = cast("dict[str, Any]", msgspec.json.decode(answer.body))
    blanked = msgspec.json.encode({**body, **dict.fromkeys(fields)})
    return msgspec.structs.replace(answer, body=blanked)


class _Replayed:
    """A body that can be read again from its beginning."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._came: list[Any] = []
        self._next = 0

    async def receive(self) -> Any:
        """The next message: one that came before, else the next to come."""
        if self._next == len(self._came):
            self._came.append(await self._receive())
        self._next += 1
        return self._came[self._next - 1]

    def rewind(self) -> None:
        """Begin again."""
        self._next = 0


class CommitBeforeAnswer(ASGIMiddleware):
    """Holds an answer back until its transaction has ended; what fails then is a problem."""

    scopes = (ScopeType.HTTP,)

    def __init__(
        self, *, database: Database, clock: Callable[[], datetime], body_timeout_seconds: int
    ) -> None:
        """Every request gets a unit of work on `database`, and so long to send its body."""
        self._database = database
        self._places = Places(connections=database.size)
        self._clock = clock
        self._body_timeout_seconds = body_timeout_seconds

    async def handle(
        self, scope: ConnectionScope, receive: Receive, send: Send, next_app: ASGIApp
    ) -> None:
        """Run the request inside its unit of work.

        A tax provider is asked when that is over and nothing of it stands; then the request is run
        again, as often as answers lead to further questions.
        """
        body = _Replayed(self._patient(receive))
        while True:
            again = cast("ConnectionScope", {**scope, "state": {**scope["state"]}})
            await self._run(again, body.receive, send, next_app)
            unknown = again["state"].get(TAX_UNKNOWN)
            if unknown is None:
                return
            try:
                await answer_every_tax(
                    database=self._database,
                    seller=again["state"]["principal"].seller,
                    unknown=unknown,
                    now=self._clock(),
                )
            except Exception as error:  # noqa: BLE001 - the caller must be told
                for message in _messages(render_any(error)):
                    await send(message)
                return
            body.rewind()

    async def _run(
        self, scope: ConnectionScope, receive: Receive, send: Send, next_app: ASGIApp
    ) -> None:
        unit = UnitOfWork(database=self._database, places=self._places)
        state = scope["state"]
        state[STATE] = unit
        held: list[Message] = []

        async def hold(message: Message) -> None:
            if TAX_UNKNOWN in state:
                return
            if not unit.is_open and not held:
                await send(message)
                return
            held.append(message)
            if message["type"] != "http.response.body" or message.get("more_body", False):
                return
            released = await _end(unit, held)
            held.clear()
            for one in released:
                await send(one)

        try:
            await next_app(scope, receive, hold)
        finally:
            await unit.abandon()

    def _patient(self, receive: Receive) -> Receive:
        """`receive` as it is, but for a body that does not come to its end in time: 408."""
        deadline = asyncio.get_running_loop().time() + self._body_timeout_seconds
        complete = False

        async def wait() -> Any:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(status_code=408) from error
            complete = not message.get("more_body", False)
            return message

        return wait


async def _end(unit: UnitOfWork, held: list[Message]) -> list[Message]:
    """Commit or roll back, and give the messages that may now be sent."""
    answer = _read(held)
    try:
        if answer.status < 400:
            await unit.succeed(answer)
        else:
            await unit.abandon()
    except Exception as error:  # noqa: BLE001 - whatever ends a commit, the caller must be told
        return _messages(render_any(error))
    return list(held)


def _read(held: list[Message]) -> StoredAnswer:
    status, media_type, parts = 500, "", list[bytes]()
    for message in held:
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {bytes(name).lower(): bytes(value) for name, value in message["headers"]}
            media_type = headers.get(b"content-type", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            parts.append(bytes(message.get("body", b"")))
    return StoredAnswer(status=status, media_type=media_type, body=b"".join(parts))


def _messages(problem: RenderedProblem) -> list[Message]:
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(problem.body))}
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in {**headers, **problem.headers}.items()
    ]
    start = {"type": "http.response.start", "status": problem.status, "headers": pairs}
    body = {"type": "http.response.body", "body": problem.body, "more_body": False}
    return cast("list[Message]", [start, body])
