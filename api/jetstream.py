"""The door to NATS JetStream: one stream of events, one durable consumer, one stream of strays.

Losing nothing rests on how these are made (`create`), so every start looks at it (`look`): what is
full refuses what comes and never drops what is there, nothing ages, and a message leaves only when
it is acknowledged.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from engine.errors import BillingError, ErrorKind

DURABLE: Final = "usance"
REPLICAS: Final = 3
MAX_BYTES: Final = 8_000_000_000
MESSAGE_BYTES: Final = 1_000_000
ACK_WAIT_SECONDS: Final = 30
UNSETTLED: Final = 10_000
"""Messages handed out and not settled, of all processes: where it ends nothing more is given."""
STRAY_BYTES: Final = 1_000_000_000
_DUPLICATES_SECONDS: Final = 0.1
_CONNECT_SECONDS: Final = 30.0
_REQUEST_SECONDS: Final = 5.0
_PULL_SECONDS: Final = 0.5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OLD_REPLY: Final = 9
_log: Final = logging.getLogger("usance.jetstream")


class Delivery:
    """One message as it was handed out; it is settled once, by one of the three methods."""

    def __init__(self, message: Msg) -> None:
        """Read what the server says of the message; its clock is exact to the nanosecond."""
        told = message.metadata
        tokens = message.reply.split(".")
        nanos = int(tokens[7 if len(tokens) == _OLD_REPLY else 9])
        self._message = message
        self.subject = message.subject
        self.body = message.data
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in (message.headers or {}).items()
        }
        self.stream = told.stream
        self.sequence = told.sequence.stream
        self.deliveries = told.num_delivered
        self.stored_at = _EPOCH + timedelta(microseconds=nanos // 1_000)

    async def accept(self) -> None:
        """It is settled for good: what is worth keeping of it is committed."""
        with _settling(self):
            await self._message.ack()

    async def refuse(self) -> None:
        """It is never to be delivered again: it is kept elsewhere."""
        with _settling(self):
            await self._message.term()

    async def put_back(self, *, seconds: float) -> None:
        """It is to be delivered again after so long."""
        with _settling(self):
            await self._message.nak(delay=seconds)


@contextlib.contextmanager
def _settling(delivery: Delivery) -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, OSError) as error:
        # Not heard: it is delivered again, and found stored.
        _log.warning("message %s was not settled: %s", delivery.sequence, error)


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the streams, and what about their making would lose events."""

    messages: int
    bytes: int
    unsettled: int
    strays: int
    replicas: int
    faults: tuple[str, ...]


class JetStream:
    """A connection to the stream, through which messages are pulled."""

    def __init__(self, *, client: Client, stream: str, prefix: str) -> None:
        """`connected` makes it."""
        self._client = client
        self._context = client.jetstream(timeout=_REQUEST_SECONDS)
        self._pulling: JetStreamContext.PullSubscription | None = None
        self.stream, self.prefix = stream, prefix

    async def create(self, *, replicas: int = REPLICAS, max_bytes: int = MAX_BYTES) -> None:
        """Make the streams and the consumer; nothing happens where they are there as they should.

        Error: `invalid_stream` where they are there in another form.
        """
        try:
            for config in self._streams(replicas=replicas, max_bytes=max_bytes):
                await self._context.add_stream(config)
            await self._context.add_consumer(self.stream, _consumer())
        except nats.js.errors.APIError as error:
            detail = f"NATS refused: {error.description}"
            raise BillingError("invalid_stream", detail) from error

    def _streams(self, *, replicas: int, max_bytes: int) -> tuple[api.StreamConfig, ...]:
        shared = api.StreamConfig(
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            discard=api.DiscardPolicy.NEW,
            max_age=0,
            deny_delete=True,
        )
        events = shared.evolve(
            name=self.stream,
            subjects=[f"{self.prefix}.*.events"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            max_bytes=max_bytes,
            max_msg_size=MESSAGE_BYTES,
            deny_purge=True,
            # The least there is: what repeats is told by event, and an id of one sender's
            # message must not make another sender's message pass for a repeat.
            duplicate_window=_DUPLICATES_SECONDS,
        )
        strays = shared.evolve(
            name=f"{self.stream}_STRAYS", subjects=[f"{self.prefix}.strays"], max_bytes=STRAY_BYTES
        )
        return events, strays

    async def look(self) -> StreamState:
        """How full the streams are, and what is wrong with them.

        Error: `no_stream` where the streams or the consumer are not there.
        """
        try:
            events = await self._context.stream_info(self.stream)
            strays = await self._context.stream_info(f"{self.stream}_STRAYS")
            consumer = await self._context.consumer_info(self.stream, DURABLE)
        except nats.js.errors.NotFoundError as error:
            detail = (
                f"NATS has no stream {self.stream} with a consumer {DURABLE!r}: "
                "`usance consume --create` makes them."
            )
            raise BillingError("no_stream", detail, kind=ErrorKind.NOT_FOUND) from error
        except (nats.errors.Error, TimeoutError) as error:
            detail = f"JetStream does not answer: {error or 'it took too long'}"
            raise BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE) from error
        return StreamState(
            messages=events.state.messages,
            bytes=events.state.bytes,
            unsettled=consumer.num_ack_pending or 0,
            strays=strays.state.messages,
            replicas=events.config.num_replicas or 1,
            faults=tuple(_faults(events.config, consumer.config)),
        )

    async def pull(self, *, most: int) -> list[Delivery]:
        """Up to `most` messages; none when none came in half a second, or NATS is away."""
        try:
            if self._pulling is None:
                # What is pulled is bounded by who pulls. A limit here would drop messages, which
                # then come again only when their time to be settled has passed.
                self._pulling = await self._context.pull_subscribe_bind(
                    DURABLE, self.stream, pending_bytes_limit=0
                )
            messages = await self._pulling.fetch(most, timeout=_PULL_SECONDS)
        except TimeoutError:
            return []
        except (nats.errors.Error, OSError) as error:
            _log.warning("nothing could be pulled: %s", error)
            await asyncio.sleep(_PULL_SECONDS)
            return []
        return [Delivery(each) for each in messages]

    async def put_aside(self, delivery: Delivery, *, reason: str) -> None:
        """Keep a message that belongs to no seller in the stream of strays.

        Error: `unavailable` when that could not be done.
        """
        kept = {
            name: value
            for name, value in delivery.headers.items()
            if not name.startswith("nats-")  # those are orders to the server
        }
        stored_at = delivery.stored_at.isoformat()
        told = {
            "Usance-Subject": delivery.subject,
            "Usance-Reason": reason,
            "Usance-Stored-At": stored_at,
            "Nats-Msg-Id": f"{delivery.stream}-{delivery.sequence}-{stored_at}",
        }
        try:
            await self._context.publish(
                f"{self.prefix}.strays",
                delivery.body,
                stream=f"{self.stream}_STRAYS",
                headers=kept | told,
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            detail = f"the stream of strays took nothing: {error or 'no answer'}"
            raise BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE) from error

    async def flush(self) -> None:
        """Wait until the server has what was settled."""
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await self._client.flush(timeout=5)


def _consumer() -> api.ConsumerConfig:
    return api.ConsumerConfig(
        durable_name=DURABLE,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_SECONDS,
        max_deliver=-1,
        max_ack_pending=UNSETTLED,
    )


def _faults(stream: api.StreamConfig, consumer: api.ConsumerConfig) -> Iterator[str]:
    """What about the stream and its consumer loses events."""
    if stream.discard != api.DiscardPolicy.NEW:
        yield "a full stream drops its oldest messages (discard: new keeps them)"
    if stream.max_age:
        yield "messages are dropped by age (max_age: 0 keeps them)"
    if stream.storage != api.StorageType.FILE:
        yield "messages are in memory only (storage: file keeps them)"
    if stream.allow_rollup_hdrs or stream.allow_msg_ttl:
        yield "a sender's header may drop messages (allow_rollup_hdrs, allow_msg_ttl)"
    if (stream.max_msgs_per_subject or -1) > 0:
        yield "a seller's messages are dropped by number (max_msgs_per_subject)"
    if (stream.duplicate_window or 0) > 1:
        yield "one sender's Nats-Msg-Id may hide another's message (duplicate_window: 100ms)"
    if stream.retention != api.RetentionPolicy.WORK_QUEUE:
        yield "messages stay when they are settled, until it is full (retention: workqueue)"
    if consumer.ack_policy != api.AckPolicy.EXPLICIT or (consumer.max_deliver or -1) > 0:
        yield "messages are given up (ack_policy: explicit, max_deliver: -1)"


@contextlib.asynccontextmanager
async def connected(
    *, urls: Sequence[str], credentials: Path | None, stream: str, prefix: str
) -> AsyncIterator[JetStream]:
    """A connection that comes back by itself for as long as the block lasts.

    Error: `unavailable` where no node answers within half a minute.
    """
    client = Client()

    async def told(error: Exception) -> None:
        _log.info("NATS: %s", error or type(error).__name__)

    try:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await client.connect(
                    list(urls),
                    name="usance consume",
                    error_cb=told,
                    max_reconnect_attempts=-1,  # the client's own default gives up for ever
                    reconnect_time_wait=1,
                    connect_timeout=5,
                    ping_interval=10,
                    user_credentials=None if credentials is None else str(credentials),
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            detail = f"NATS cannot be reached: {error or 'no node answered'}"
            raise BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE) from error
        yield JetStream(client=client, stream=stream, prefix=prefix)
    finally:
        await client.close()
