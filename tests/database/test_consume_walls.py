"""Who may publish for whom: the accounts of docs/jetstream.md, as they are printed there."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import nats.errors
import pytest

from api.consume import Taker, consume
from api.jetstream import connected
from tests.nats_nodes import client, nodes, until
from tests.processes import SECONDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "jetstream.md"
BLOCK = re.compile(r"<!-- tested -->\n```text\n(.*?)```", re.DOTALL)
PASSWORDS = {f"{name.upper()}_PASSWORD": f"{name}-secret" for name in ("usance", "acme", "globex")}


def settings(acme: str, globex: str) -> str:
    [found] = BLOCK.findall(PAGE.read_text())
    return found.replace("sel_acme", acme).replace("sel_globex", globex)


def event(id: str) -> bytes:
    made = {"id": id, "type": "call", "subject": "acme", "time": datetime.now(UTC).isoformat()}
    return msgspec.json.encode([made])


async def seller_ids(database) -> list[str]:
    from plans.seller_directory_store import list_sellers

    async with database.transaction(seller=None) as connection:
        return [each.id for each in await list_sellers(connection=connection)]


async def test_a_seller_reaches_its_own_subject_and_nothing_else(database, make_seller):
    numbers = [await make_seller(), await make_seller()]
    acme, globex = await seller_ids(database)
    with nodes(settings=settings(acme, globex), variables=PASSWORDS) as node:

        def address(user: str) -> str:
            return node.urls[0].replace("//", f"//{user}:{user}-secret@")

        async with (
            connected(
                urls=[address("usance")], credentials=None, stream="EVENTS", prefix="usance"
            ) as jetstream,
            client([address("acme")]) as sender,
            client([address("globex")]) as other,
        ):
            await jetstream.create(replicas=1, max_bytes=10_000_000)
            ours, theirs = f"usance.{acme}.events", f"usance.{globex}.events"
            context = sender.jetstream(timeout=SECONDS)
            await context.publish(ours, event("mine"), headers={"Content-Type": "application/json"})
            await other.jetstream(timeout=SECONDS).publish(theirs, event("theirs"))
            for subject in (theirs, "usance.sel_x.events", "usance.strays"):
                with pytest.raises(nats.errors.Error):
                    await context.publish(subject, event("forged"))
            # Where the server is asked to send its acknowledgement must stay within the account.
            for reply in (
                theirs,
                "usance.strays",
                "$JS.API.STREAM.PURGE.EVENTS",
                "$JS.API.STREAM.MSG.DELETE.EVENTS",
                "$JS.API.STREAM.PURGE.EVENTS_STRAYS",
            ):
                await sender.publish(ours, event("asked"), reply=reply)
            for call in ("$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.INFO.EVENTS"):
                answer = await sender.request(call, b"", timeout=SECONDS)
                assert b"not enabled for account" in answer.data
            await context.publish(ours, event("last"))
            taker = Taker(jetstream=jetstream, database=database, clock=lambda: datetime.now(UTC))
            await taker.start()
            stop = asyncio.Event()
            running = asyncio.create_task(
                consume(jetstream=jetstream, taker=taker, stop=stop, drain_seconds=SECONDS)
            )

            async def empty() -> bool:
                return (await jetstream.look()).messages == 0

            await until(empty)
            stop.set()
            await running
            await taker.stop()
            assert (await jetstream.look()).strays == 0
    assert taker.taken.messages == 8
    assert (taker.taken.accepted, taker.taken.rejected, taker.taken.duplicates) == (4, 0, 4)
    for number, expected in zip(numbers, (["asked", "last", "mine"], ["theirs"]), strict=True):
        assert await stored(database, number) == expected


async def stored(database, seller: int) -> list[str]:
    from sqlalchemy import text

    from metering.store import decode_payload

    async with database.transaction(seller=seller) as connection:
        rows = await connection.execute(text("SELECT payload FROM event_batches"))
        return sorted(each.id for (payload,) in rows for each in decode_payload(payload))
