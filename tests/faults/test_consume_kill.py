"""Three NATS nodes, the stream's leader and the consumer killed: acknowledged = stored, once."""

import asyncio
import contextlib
import itertools
import signal
import subprocess
from datetime import UTC, datetime

import msgspec
import nats.errors
import pytest
from nats.js import api
from sqlalchemy import text

from api.jetstream import DURABLE, connected
from metering.store import decode_payload
from tests.api.command_line import USANCE, environment, usance
from tests.metering_world import world
from tests.nats_nodes import client, nodes, until
from tests.processes import SECONDS, program

__all__ = ["world"]
pytestmark = pytest.mark.slow
SENDERS = 4


class Sender:
    """Sends events until it is told to stop, each again until JetStream has acknowledged it."""

    def __init__(self, *, context, subject: str) -> None:
        self.context, self.subject = context, subject
        self.acknowledged: set[str] = set()
        self.repeated = 0
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*(self._stream(number) for number in range(SENDERS)))

    async def _stream(self, number: int) -> None:
        for each in itertools.count():
            if self.stopping:
                return
            made = {"id": f"{number}-{each}", "type": "call", "subject": "acme"}
            made |= {"data": {"tokens": 1}, "time": datetime.now(UTC).isoformat()}
            body = msgspec.json.encode(made)
            while True:
                try:
                    await self.context.publish(self.subject, body, timeout=2)
                except (nats.errors.Error, TimeoutError, OSError):
                    self.repeated += 1
                    await asyncio.sleep(0.05)
                else:
                    break
            self.acknowledged.add(made["id"])

    async def reaches(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.acknowledged) >= count

        await until(enough, seconds=SECONDS)


async def stored(world) -> list[str]:
    async with world.database.transaction(seller=world.seller) as connection:
        rows = await connection.execute(text("SELECT payload FROM event_batches"))
        return [each.id for (payload,) in rows for each in decode_payload(payload)]


async def seller_id(world) -> str:
    async with world.database.transaction(seller=world.seller) as connection:
        return (await connection.execute(text("SELECT id FROM sellers"))).scalar_one()


async def led(context, stream: str, *, not_by: str | None = None) -> api.StreamInfo:
    """What JetStream says of the stream, as soon as a leader does, not the one that is gone."""
    found = []

    async def told() -> bool:
        with contextlib.suppress(nats.errors.Error):
            found.append(await context.stream_info(stream))
            return found[-1].cluster.leader not in {None, "", not_by}
        return False

    await until(told)
    return found[-1]


async def ready(context, stream: str) -> None:
    """Redelivery after two seconds instead of thirty, so that the test need not wait for it."""

    async def done() -> bool:
        with contextlib.suppress(nats.errors.Error):
            config = (await context.consumer_info(stream, DURABLE)).config
            await context.add_consumer(stream, config.evolve(ack_wait=2))
            return True
        return False

    await until(done)


async def test_acknowledged_by_jetstream_is_stored_once_through_kills(
    world, database_url, tmp_path
):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    with nodes(count=3) as cluster, contextlib.ExitStack() as stack:
        variables = environment(database_url=database_url, home=tmp_path)
        variables["USANCE_NATS_URL"] = ",".join(cluster.urls)

        def consumer():
            return stack.enter_context(program([*USANCE, "consume"], env=variables))

        async with (
            client(cluster.urls) as connection,
            connected(
                urls=cluster.urls, credentials=None, stream="USAGE_EVENTS", prefix="usance"
            ) as jetstream,
        ):
            context = connection.jetstream(timeout=10)
            await created(jetstream)
            await ready(context, jetstream.stream)
            subject = f"usance.{await seller_id(world)}.events"
            sender = Sender(context=context, subject=subject)
            first = consumer()
            sending = asyncio.create_task(sender.run())

            async def some_stored() -> bool:
                return len(await stored(world)) > 200

            await until(some_stored, seconds=SECONDS)
            first.kill()
            second = consumer()
            await sender.reaches(len(sender.acknowledged) + 200)

            info = await led(context, jetstream.stream)
            assert info.config.num_replicas == 3
            assert info.config.storage == api.StorageType.FILE
            leader = info.cluster.leader
            before = len(sender.acknowledged)
            await asyncio.to_thread(cluster.kill, leader)
            await sender.reaches(before + 200)
            await led(context, jetstream.stream, not_by=leader)
            sender.stopping = True
            await sending

            async def drained() -> bool:
                with contextlib.suppress(Exception):
                    return (await jetstream.look()).messages == 0
                return False

            await until(drained, seconds=SECONDS)
            second.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(second.wait) == 0
            told = second.err()
        found = await stored(world)
    assert sender.repeated > 0
    assert sorted(found) == sorted(sender.acknowledged)
    assert await world.total(meter, customer) == str(len(sender.acknowledged))
    assert "Usance has stopped." in told
    assert "Traceback" not in told


async def created(jetstream) -> None:
    """Make the streams as soon as the cluster has agreed on who leads it."""

    async def made() -> bool:
        with contextlib.suppress(Exception):
            await jetstream.create(max_bytes=100_000_000)
            return (await jetstream.look()).replicas == 3
        return False

    await until(made, seconds=SECONDS)


def test_the_commands_say_what_is_missing(database_url, tmp_path):
    unset = usance("consume", database_url=database_url, home=tmp_path)
    assert unset.returncode == 2
    assert "USANCE_NATS_URL" in unset.stderr
    with nodes() as node:
        variables = environment(database_url=database_url, home=tmp_path)
        variables["USANCE_NATS_URL"] = node.urls[0]

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*USANCE, *arguments],
                env=variables,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )

        missing = run("consume")
        assert missing.returncode == 2
        assert "usance consume --create" in missing.stderr
        looked = run("doctor")
        assert looked.returncode == 1
        assert "usance consume --create" in looked.stdout
        made = run("consume", "--create", "--replicas", "1")
        assert (made.returncode, made.stderr) == (0, "")
        again = run("consume", "--create", "--replicas", "1")
        assert again.returncode == 0, again.stderr
        assert "USAGE_EVENTS: 0 messages" in run("doctor").stdout
