"""Clients that note, on the disk, each request that was acknowledged, and never give one up.

Every request goes again until it is answered, to either server, each time with other times; some go
to both at once, some again after the answer, some with another payload under the same ids.
"""

import asyncio
import os
import random
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec

CLIENTS = 4
SIZES = (1, 7, 40, 300)  # beyond 256 events a commit copies its keys
ATTEMPT_SECONDS = 8.0


class Plan(msgspec.Struct):
    """What the clients are told: two servers, a key, where to note, when usage was."""

    urls: list[str]
    key: str
    notes: str
    seed: int
    spans: list[tuple[datetime, datetime]]


class Note(msgspec.Struct):
    """A request that was acknowledged: whose, what it comes to in which span, and its ids."""

    customer: str
    span: int
    quantity: int
    ids: list[str]


class Tally(msgspec.Struct):
    """What a client went through."""

    acknowledged: int = 0
    unanswered: int = 0
    at_once: int = 0
    sent_again: int = 0
    conflicts: int = 0


class Sender:
    """One client with a customer of its own."""

    def __init__(self, *, number: int, plan: Plan, http: httpx.AsyncClient) -> None:
        self.customer = f"c{number}"
        self.plan, self.http = plan, http
        self.moments = random.Random(plan.seed * 1000 + number)
        self.tally = Tally()
        self.turn = 0
        path = Path(plan.notes) / f"acknowledged-{number}"
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def request(self) -> tuple[list[dict[str, Any]], Note]:
        """The next events, without their times, and what is noted once they are stored."""
        self.turn += 1
        ids = [self._id(f"{self.turn}-{each}") for each in range(self.moments.choice(SIZES))]
        values = [self.moments.randint(1, 9) for _ in ids]
        span = self.moments.randrange(len(self.plan.spans))
        events = [
            {"id": each, "type": "call", "subject": self.customer, "data": {"n": value}}
            for each, value in zip(ids, values, strict=True)
        ]
        note = Note(customer=self.customer, span=span, quantity=sum(values), ids=ids)
        return events, note

    def _id(self, stem: str) -> str:
        text = f"{self.customer}-{stem}"
        return str(uuid.UUID(bytes=self.moments.randbytes(16))) if self.turn % 2 else text

    async def post(self, url: str, events: list[dict[str, Any]], span: int) -> Any:
        """The answer, None when there is none: the same ids always, never the same times."""
        start, end = self.plan.spans[span]
        stamped = [
            each | {"time": (start + (end - start) * self.moments.random()).isoformat()}
            for each in events
        ]
        headers = {"authorization": f"Bearer {self.plan.key}"}
        try:
            answer = await self.http.post(f"{url}/v1/events", json=stamped, headers=headers)
        except httpx.HTTPError:
            self.tally.unanswered += 1
            return None
        if answer.status_code == 200:
            return answer.json()
        assert answer.status_code in {429, 500, 503}, answer.text
        self.tally.unanswered += 1
        return None

    async def deliver(self, events: list[dict[str, Any]], note: Note) -> None:
        """Send until it is acknowledged, then note it: what is noted is on the disk."""
        while True:
            urls = list(self.plan.urls)
            self.moments.shuffle(urls)
            both = self.moments.random() < 0.3
            self.tally.at_once += both
            answers = await asyncio.gather(
                *(self.post(url, events, note.span) for url in urls[: 1 + both])
            )
            told = [answer for answer in answers if answer is not None]
            for answer in told:
                assert answer["rejected"] == []
                assert answer["accepted"] + answer["duplicates"] == len(events)
            assert sum(answer["accepted"] for answer in told) <= len(events)
            if told:
                break
            await asyncio.sleep(0.05)
        os.write(self.file, msgspec.json.encode(note) + b"\n")
        os.fsync(self.file)
        self.tally.acknowledged += 1

    async def trouble(self, events: list[dict[str, Any]], note: Note) -> None:
        """What is stored comes once more, or with something else under its ids."""
        url = self.moments.choice(self.plan.urls)
        if self.moments.random() < 0.3:
            answer = await self.post(url, events, self.moments.randrange(len(self.plan.spans)))
            if answer is not None:
                assert (answer["accepted"], answer["duplicates"]) == (0, len(events))
                self.tally.sent_again += 1
        if self.moments.random() < 0.3:
            others = [each | {"data": {"n": each["data"]["n"] + 1}} for each in events]
            answer = await self.post(url, others, note.span)
            if answer is not None:
                codes = {each["code"] for each in answer["rejected"]}
                assert (answer["accepted"], answer["duplicates"], codes) == (0, 0, {"conflict"})
                self.tally.conflicts += len(events)

    async def run(self) -> Tally:
        """Send until the file `stop` is there; what was begun is brought to its end."""
        while not (Path(self.plan.notes) / "stop").exists():
            events, note = self.request()
            await self.deliver(events, note)
            await self.trouble(events, note)
        return self.tally


async def main(plan: Plan) -> None:
    async with httpx.AsyncClient(timeout=ATTEMPT_SECONDS) as http:
        senders = [Sender(number=n, plan=plan, http=http) for n in range(CLIENTS)]
        tallies = await asyncio.gather(*(each.run() for each in senders))
    (Path(plan.notes) / "tally").write_bytes(msgspec.json.encode(tallies))


def notes_of(folder: Path) -> list[Note]:
    """Every acknowledgement on the disk; a torn last line is none."""
    found: list[Note] = []
    for file in sorted(folder.glob("acknowledged-*")):
        whole = file.read_bytes().rpartition(b"\n")[0]
        found += [msgspec.json.decode(line, type=Note) for line in whole.splitlines()]
    return found


def began_before(now: datetime) -> datetime:
    """When subscriptions by the week began: a day ago their second week did."""
    return now - timedelta(days=8)


def spans_before(now: datetime) -> list[tuple[datetime, datetime]]:
    """A stretch of the week that is over, and one of the week that runs."""
    day = timedelta(days=1)
    return [(now - 7 * day, now - 2 * day), (now - day / 2, now - day / 24)]


def utc_now() -> datetime:
    """The wall clock, to which the servers go."""
    return datetime.now(UTC)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)))
