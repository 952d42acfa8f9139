"""A process that ingests until it is killed, and notes each id only after its acknowledgement."""

import asyncio
import itertools
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from engine.db import PATIENT, open_database
from engine.errors import BillingError
from metering.ingest import Ingester
from metering.intake import read_events

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SIZES = (1, 7, 300)  # beyond 256 events a commit copies its keys


def body(turn: int, stream: int, number: int) -> tuple[list[str], bytes]:
    """The ids and the body of one request; the same arguments give the same request."""
    size = SIZES[stream % len(SIZES)]
    ids = [f"{turn}-{stream}-{number}-{each}" for each in range(size)]
    events = [
        {"id": each, "type": "call", "subject": "acme", "data": {"tokens": 1}} for each in ids
    ]
    return ids, msgspec.json.encode(events)


async def main(dsn: str, seller: int, turn: int, notes: Path) -> None:
    ingester = Ingester(database=open_database(dsn=dsn, role="usance_app", waiting=PATIENT))
    await ingester.start()
    sent = os.open(notes / f"sent-{turn}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    answered = os.open(notes / f"answered-{turn}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def send(content: bytes) -> None:
        """As a client must: where the outcome is unknown, the same ids again."""
        while True:
            try:
                await ingester.submit(seller=seller, intake=read_events(content), now=NOW)
            except BillingError as error:
                if error.code != "unavailable":
                    raise
            else:
                return

    async def stream(number: int) -> None:
        for request in itertools.count():
            ids, content = body(turn, number, request)
            os.write(sent, f"{number} {request}\n".encode())
            await send(content)
            os.write(answered, "".join(f"{each}\n" for each in ids).encode())

    await asyncio.gather(*(stream(number) for number in range(6)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
