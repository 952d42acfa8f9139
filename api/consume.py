"""Verb: take events from JetStream; a message is settled only after what it holds is committed.

A message that comes twice is told by its events, whose identity is theirs for ever. So it does not
matter who was killed when, as long as nothing is settled before it is committed.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from api.admission import Admission, Refusal
from api.body_form import body_form
from api.event_body import Body
from api.jetstream import Delivery, JetStream
from engine.database_errors import anticipated
from engine.db import Database
from engine.errors import BillingError, ErrorKind
from metering.ingest import Ingester
from metering.intake import Intake, read_events
from metering.intake_error_store import mark_stored, save_refused
from metering.intake_errors import (
    ITEMS_REFUSED,
    NOT_STORED_YET,
    IntakeStatus,
    Refused,
    intake_error_id,
)
from metering.model import Rejection
from plans.model import Mode
from plans.seller_directory_store import FoundSeller, find_seller

MESSAGES: Final = 1_000
"""Messages of one process under way, at most."""
BYTES: Final = 8_000_000
"""Bytes of them at which no more are asked for."""
PULLED: Final = 256
COMMIT_SECONDS: Final = 20.0
"""Nobody waits for an answer, so a commit may take its time; less than until a redelivery."""
QUEUED_EVENTS: Final = 500_000
FAILURES: Final = 5
"""After so many deliveries that failed on our side a message becomes visible."""
REFUSALS: Final = 20
"""The same where the database was away or busy each time."""
_FIRST_SIZE: Final = 100_000
_SIZE_FADES: Final = 0.9
_QUIET_PULLS: Final = 30
_LISTEN_SECONDS: Final = 0.5
_INFLATED_BYTES: Final = 64_000_000
_SELLER: Final = re.compile(r"sel_[0-9a-z]{1,40}")
_KNOWN: Final = 10_000
_CONNECTIONS: Final = 2
_LONGEST_SECONDS: Final = 30.0
_BUSY: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.TOO_MANY})
_log: Final = logging.getLogger("usance.consume")


class Taken(msgspec.Struct, kw_only=True):
    """What became of messages and their events so far."""

    messages: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    refused_messages: int = 0
    strays: int = 0
    put_back: int = 0


class Taker:
    """Takes one message after the other, many at a time; one per process."""

    def __init__(
        self,
        *,
        jetstream: JetStream,
        database: Database,
        clock: Callable[[], datetime],
        failures: int = FAILURES,
    ) -> None:
        """`clock` gives wall time in UTC. Three connections are held, two more are used."""
        self._jetstream = jetstream
        self._database = database
        self._clock = clock
        self._failures = failures
        self._ingester = Ingester(
            database=database, queued_events=QUEUED_EVENTS, commit_seconds=COMMIT_SECONDS
        )
        # What failed for no reason of the sender's is stored alone, so that it fails alone.
        self._alone = Ingester(database=database, committers=1, commit_seconds=COMMIT_SECONDS)
        self._being_alone = asyncio.Lock()
        self._suspects: set[int] = set()
        self._live: dict[str, FoundSeller] = {}
        self._asked: dict[str, asyncio.Task[FoundSeller | None]] = {}
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._admission = Admission(body_bytes=_INFLATED_BYTES)
        self._large = asyncio.Lock()
        self.taken = Taken()

    async def start(self) -> None:
        """Begin to commit."""
        await self._ingester.start()
        await self._alone.start()

    async def stop(self) -> None:
        """Commit what waits, end."""
        await self._ingester.stop()
        await self._alone.stop()

    async def take(self, delivery: Delivery) -> None:
        """Store what the message holds and settle it; never raises, what fails is put back."""
        try:
            await self._take(delivery)
        except Exception as error:  # noqa: BLE001 - it is delivered again, and visible if it stays
            await self._put_back(delivery, error)
        else:
            self._suspects.discard(delivery.sequence)
            self.taken.messages += 1

    async def _take(self, delivery: Delivery) -> None:
        seller = await self._seller_of(delivery.subject)
        if seller is None:
            await self._jetstream.put_aside(delivery, reason="there is no such seller")
            self.taken.strays += 1
            await delivery.refuse()
            return
        try:
            intake = await self._read(delivery)
        except BillingError as error:
            await self._keep(delivery, seller=seller, error=error)
            self.taken.refused_messages += 1
            await delivery.refuse()
            return
        # A live seller's event happened when the stream took it, unless it says otherwise: how
        # long it waited there changes nothing. A clock of NATS that is ahead is not believed.
        now = seller.clock_at or min(delivery.stored_at, self._clock())
        if delivery.sequence in self._suspects:
            async with self._being_alone:
                answer = await self._alone.submit(seller=seller.seller, intake=intake, now=now)
        else:
            answer = await self._ingester.submit(seller=seller.seller, intake=intake, now=now)
        if answer.rejected:
            await self._keep(delivery, seller=seller, rejected=answer.rejected)
        elif delivery.deliveries > self._failures:
            async with self._transaction(seller) as connection:
                await mark_stored(connection=connection, intake_error=_id_of(delivery))
        self.taken.accepted += answer.accepted
        self.taken.duplicates += answer.duplicates
        self.taken.rejected += len(answer.rejected)
        await delivery.accept()

    async def _seller_of(self, subject: str) -> FoundSeller | None:
        """The seller a subject names: who may publish there is what NATS looks at."""
        middle = subject.removeprefix(f"{self._jetstream.prefix}.").removesuffix(".events")
        if _SELLER.fullmatch(middle) is None:
            return None
        known = self._live.get(middle)
        if known is not None:
            return known
        # Hundreds of messages ask at once: one of them does, the others wait for it.
        asked = self._asked.get(middle)
        if asked is None:
            asked = asyncio.create_task(self._look_up(middle))
            self._asked[middle] = asked
            asked.add_done_callback(lambda _: self._asked.pop(middle, None))
        return await asyncio.shield(asked)

    async def _look_up(self, seller_id: str) -> FoundSeller | None:
        async with self._connections, self._database.transaction(seller=None) as connection:
            found = await find_seller(connection=connection, seller_id=seller_id)
        if found is not None and found.mode is Mode.LIVE:  # a test seller's clock is moved by hand
            if len(self._live) >= _KNOWN:
                self._live.clear()
            self._live[seller_id] = found
        return found

    async def _read(self, delivery: Delivery) -> Intake:
        """The events of a message. Errors: those of a body of `POST /v1/events`."""
        form = body_form(
            content_type=delivery.headers.get("content-type", ""),
            content_encoding=delivery.headers.get("content-encoding", ""),
        )
        if isinstance(form, str):
            raise BillingError("unsupported_media_type", form, kind=ErrorKind.MALFORMED)
        body = Body(gzip=form.gzip, admission=self._admission)
        try:
            body.add(delivery.body)
            large, content = body.is_large, body.whole()
            if not large:
                return read_events(content, lines=form.lines, cloudevents=form.cloudevents)
            async with self._large:
                return await asyncio.to_thread(
                    read_events, content, lines=form.lines, cloudevents=form.cloudevents
                )
        finally:
            body.release()

    async def _keep(
        self,
        delivery: Delivery,
        *,
        seller: FoundSeller,
        error: BillingError | None = None,
        rejected: tuple[Rejection, ...] = (),
        status: IntakeStatus = "refused",
    ) -> None:
        """Commit what is refused of a message, where its seller can see it."""
        refused = Refused(
            id=_id_of(delivery),
            status=status,
            stream=delivery.stream,
            sequence=delivery.sequence,
            received_at=delivery.stored_at,
            code=ITEMS_REFUSED if error is None else error.code,
            detail="some of its events were refused" if error is None else error.detail,
            rejected=rejected,
            content_type=delivery.headers.get("content-type", ""),
            content_encoding=delivery.headers.get("content-encoding", ""),
            body=delivery.body,
        )
        async with self._transaction(seller) as connection:
            await save_refused(connection=connection, refused=refused, now=self._clock())

    @contextlib.asynccontextmanager
    async def _transaction(self, seller: FoundSeller) -> AsyncIterator[AsyncConnection]:
        """A transaction of the seller, waited for here and not where waiting has an end."""
        async with (
            self._connections,
            self._database.transaction(seller=seller.seller) as connection,
        ):
            yield connection

    async def _put_back(self, delivery: Delivery, error: Exception) -> None:
        known = error if isinstance(error, BillingError) else anticipated(error)
        busy = isinstance(error, Refusal) or (known is not None and known.kind in _BUSY)
        if busy:
            _log.warning("message %s comes again: %s", delivery.sequence, error or "too much")
        else:
            _log.error("message %s failed", delivery.sequence, exc_info=error)
            if len(self._suspects) >= _KNOWN:
                self._suspects.clear()
            self._suspects.add(delivery.sequence)
        if delivery.deliveries >= (REFUSALS if busy else self._failures):
            await self._show(delivery)
        self.taken.put_back += 1
        await delivery.put_back(seconds=_wait_seconds(delivery))

    async def _show(self, delivery: Delivery) -> None:
        """Make a message that cannot be stored visible, where that can be stored at all."""
        detail = f"it failed {delivery.deliveries} times on our side and is tried again"
        try:
            seller = await self._seller_of(delivery.subject)
            if seller is not None:
                error = BillingError(NOT_STORED_YET, detail)
                await self._keep(delivery, seller=seller, error=error, status="waiting")
        except Exception as error:  # noqa: BLE001 - the next delivery tries that again too
            _log.warning("message %s could not be shown: %s", delivery.sequence, error)


def _id_of(delivery: Delivery) -> str:
    return intake_error_id(
        stream=delivery.stream, sequence=delivery.sequence, received_at=delivery.stored_at
    )


def _wait_seconds(delivery: Delivery) -> float:
    """Longer each time, and of messages that failed together not for all the same."""
    doubled = min(_LONGEST_SECONDS, 0.5 * 2 ** min(delivery.deliveries - 1, 10))
    return doubled * (1 + delivery.sequence % 8 / 16)


class _Flight:
    """What was pulled and is not settled; bounds what is pulled next."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._size = float(_FIRST_SIZE)
        self._landed = asyncio.Event()

    def room(self) -> int:
        """How many messages may be asked for now; none until there is room for a good part."""
        left = min(MESSAGES - len(self.tasks), int((BYTES - self._bytes) / self._size), PULLED)
        return left if left >= PULLED // 4 else int(not self.tasks) * max(1, left)

    def add(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        """Count a message until its task is done."""
        size = len(delivery.body) + 1
        self._bytes += size
        self._size = self._size * _SIZE_FADES + size * (1 - _SIZE_FADES)
        self.tasks.add(task)

        def land(_: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            self._bytes -= size
            self._landed.set()

        task.add_done_callback(land)

    async def landing(self) -> None:
        """Wait until one is settled, not so long that an order to stop is not heard."""
        self._landed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LISTEN_SECONDS):
                await self._landed.wait()


async def consume(
    *, jetstream: JetStream, taker: Taker, stop: asyncio.Event, drain_seconds: float
) -> None:
    """Take messages until `stop` is set; those under way are settled before it returns.

    After `drain_seconds` the rest is left to be delivered again.
    """
    flight, quiet = _Flight(), 0
    while not stop.is_set():
        most = flight.room()
        if not most:
            await flight.landing()
            continue
        deliveries = await jetstream.pull(most=most)
        for delivery in deliveries:
            flight.add(delivery, asyncio.create_task(taker.take(delivery)))
        quiet = 0 if deliveries else quiet + 1
        if quiet and quiet % _QUIET_PULLS == 0:
            await _look(jetstream)
    if flight.tasks:
        _, left = await asyncio.wait(flight.tasks, timeout=drain_seconds)
        for task in left:
            task.cancel()
    await jetstream.flush()


async def _look(jetstream: JetStream) -> None:
    """Whether it is quiet because nothing comes, or because nothing can."""
    try:
        await jetstream.look()
    except BillingError as error:
        _log.error("nothing can be pulled: %s", error.detail)
