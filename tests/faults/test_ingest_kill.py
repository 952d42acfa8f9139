"""IN1: whatever was acknowledged is stored once, however often the process is killed."""

import asyncio
import sys
from pathlib import Path

from sqlalchemy import text

from metering.store import decode_payload
from tests.faults.ingest_sender import NOW, body
from tests.metering_world import World, world
from tests.processes import program, wait_until

__all__ = ["world"]
KILLS = 4


def acknowledged(notes: Path) -> set[str]:
    """Ids of which the sender was told that they are stored; a torn last line is none."""
    found: set[str] = set()
    for file in notes.glob("answered-*"):
        found.update(file.read_text().rpartition("\n")[0].split())
    return found


async def stored(world: World) -> list[str]:
    async with world.database.transaction(seller=world.seller) as connection:
        rows = await connection.execute(text("SELECT payload FROM event_batches"))
        return [each.id for (payload,) in rows for each in decode_payload(payload)]


def kill_while_it_sends(seller: int, dsn: str, turn: int, notes: Path) -> None:
    script = "-m", "tests.faults.ingest_sender"
    answered, wanted = notes / f"answered-{turn}", 2_000 * (turn + 1)
    with program([sys.executable, *script, dsn, str(seller), str(turn), str(notes)]) as process:

        def enough() -> bool:
            process.require_running()
            return answered.exists() and answered.stat().st_size >= wanted

        wait_until(enough)


async def test_acknowledged_is_stored_once_through_sigkill(world, database_url, tmp_path):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    for turn in range(KILLS):
        await asyncio.to_thread(kill_while_it_sends, world.seller, database_url, turn, tmp_path)
    told = acknowledged(tmp_path)
    found = await stored(world)
    assert told
    assert len(found) == len(set(found))
    assert told <= set(found)

    for turn in range(KILLS):
        for line in (tmp_path / f"sent-{turn}").read_text().splitlines():
            ids, content = body(turn, *map(int, line.split()))
            answer = await world.send(content, now=NOW)
            assert answer.accepted + answer.duplicates == len(ids)
            told.update(ids)
    found = await stored(world)
    assert sorted(found) == sorted(told)
    assert await world.total(meter, customer) == str(len(told))
