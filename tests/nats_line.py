"""A stream of a seller's events and both ends of it: what tests of `usance consume` stand on."""

import asyncio
import contextlib
from datetime import UTC, datetime
from itertools import count

import msgspec
from sqlalchemy import text

from api.consume import Taker, consume
from api.jetstream import connected
from engine.errors import BillingError
from metering.intake_error_store import list_intake_errors
from metering.store import decode_payload
from tests.metering_world import World
from tests.nats_nodes import client, until
from tests.processes import SECONDS

NUMBERS = count(1)


def now() -> datetime:
    """Wall time: the nodes stamp messages with theirs."""
    return datetime.now(UTC)


def event(id: str, **fields: object) -> dict[str, object]:
    body = {"id": id, "type": "call", "subject": "acme", "data": {"tokens": 1}}
    return body | {"time": now().isoformat()} | fields


class Line:
    """A stream of its own, a sender's connection, and the product's end of it."""

    def __init__(self, *, sender, jetstream, world: World, seller_id: str) -> None:
        self.sender, self.jetstream, self.world = sender, jetstream, world
        self.seller_id = seller_id
        self.context = sender.jetstream(timeout=SECONDS)

    async def publish(self, body: object, *, seller: str | None = None, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        subject = f"{self.jetstream.prefix}.{seller or self.seller_id}.events"
        await self.context.publish(subject, raw, headers=named or None)

    async def waiting(self) -> int:
        """How many messages are in the stream, as soon as the node answers."""
        found: list[int] = []

        async def told() -> bool:
            with contextlib.suppress(BillingError):
                found.append((await self.jetstream.look()).messages)
            return bool(found)

        await until(told)
        return found[0]

    async def take_all(self, **options: object) -> Taker:
        """Consume until nothing is left in the stream."""

        async def empty() -> bool:
            return await self.waiting() == 0

        async with self.taking(**options) as taker:
            await until(empty)
        return taker

    @contextlib.asynccontextmanager
    async def taking(self, *, database=None, clock=now, **options):
        taker = Taker(
            jetstream=self.jetstream,
            database=database or self.world.database,
            clock=clock,
            **options,
        )
        await taker.start()
        stop = asyncio.Event()
        running = asyncio.create_task(
            consume(jetstream=self.jetstream, taker=taker, stop=stop, drain_seconds=SECONDS)
        )
        try:
            yield taker
        finally:
            stop.set()
            await running
            await taker.stop()

    async def stored(self) -> list[str]:
        async with self.world.database.transaction(seller=self.world.seller) as connection:
            rows = await connection.execute(text("SELECT payload FROM event_batches"))
            return sorted(each.id for (payload,) in rows for each in decode_payload(payload))

    async def times(self) -> dict[str, datetime]:
        async with self.world.database.transaction(seller=self.world.seller) as connection:
            rows = await connection.execute(text("SELECT payload FROM event_batches"))
            return {each.id: each.time for (payload,) in rows for each in decode_payload(payload)}

    async def errors(self, status=None):
        async with self.world.database.transaction(seller=self.world.seller) as connection:
            return await list_intake_errors(
                connection=connection, limit=100, after=None, status=status
            )


@contextlib.asynccontextmanager
async def opened(node, world: World):
    number = next(NUMBERS)
    async with (
        client(node.urls) as sender,
        connected(
            urls=node.urls, credentials=None, stream=f"LINE_{number}", prefix=f"line{number}"
        ) as jetstream,
    ):
        await jetstream.create(replicas=1, max_bytes=50_000_000)
        async with world.database.transaction(seller=world.seller) as connection:
            seller_id = (await connection.execute(text("SELECT id FROM sellers"))).scalar_one()
        yield Line(sender=sender, jetstream=jetstream, world=world, seller_id=seller_id)
