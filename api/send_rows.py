"""Verb: send the rows of a file to the API, and keep what it refused with the reason."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar, cast

import msgspec

from api.importing import Kind, Row
from api.in_process import Answer, Client
from engine.errors import BillingError, ErrorKind

BATCH: Final = 1000
BATCH_BYTES: Final = 4_000_000
UNDER_WAY: Final = 4
Item = TypeVar("Item")


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was not taken in."""

    row: Row
    reason: str


class Sent(msgspec.Struct, kw_only=True):
    """What became of the rows so far; `duplicates` were taken in before.

    Each refused row is given to `refuse` and not kept.
    """

    refuse: Callable[[Refused], None]
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0

    @property
    def rows(self) -> int:
        """How many rows were dealt with."""
        return self.accepted + self.duplicates + self.refused

    def add_refused(self, row: Row, reason: str) -> None:
        """One row that was not taken in."""
        self.refused += 1
        self.refuse(Refused(row=row, reason=reason))


async def send_rows(
    *,
    client: Client,
    rows: Iterable[Row],
    kind: Kind,
    report: Callable[[Sent], None],
    refuse: Callable[[Refused], None],
) -> Sent:
    """Send every row, in memory that does not grow with them.

    `report` hears of the progress, `refuse` of each refused row, which never stops the others.
    Raises `import_stopped` when the API cannot take anything in.
    """
    sent = Sent(refuse=refuse)
    if kind == "events":
        await _send_batches(client=client, rows=rows, sent=sent, report=report)
        return sent
    for row in rows:
        await _send_object(client=client, row=row, kind=kind, sent=sent)
        report(sent)
    return sent


async def _send_batches(
    *, client: Client, rows: Iterable[Row], sent: Sent, report: Callable[[Sent], None]
) -> None:
    """Several batches under way at a time: one is read while another waits for the disk."""
    under_way: deque[tuple[list[Row], asyncio.Task[Answer | None]]] = deque()

    async def settle_first() -> None:
        batch, sending = under_way.popleft()
        _count(batch=batch, answer=await sending, sent=sent)
        report(sent)

    try:
        for batch in _batches(rows):
            sending = asyncio.create_task(_send_events(client=client, batch=batch))
            under_way.append((batch, sending))
            await asyncio.sleep(0)  # it begins before the next is read
            if len(under_way) == UNDER_WAY:
                await settle_first()
        while under_way:
            await settle_first()
    finally:
        for _, sending in under_way:
            sending.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to `size` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Lists of rows that fit into one body."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        length = len(row.line or b"") or 2 * sum(map(len, row.text))
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


async def _send_events(*, client: Client, batch: list[Row]) -> Answer | None:
    """Send what can be sent of a batch; None when nothing can."""
    lines = [row.line for row in batch if row.line is not None]
    if lines:
        headers = {"content-type": "application/x-ndjson"}
        return await client.send("POST", "/v1/events", content=b"\n".join(lines), headers=headers)
    bodies = [row.body for row in batch if row.body is not None]
    return await client.post("/v1/events", bodies) if bodies else None


def _count(*, batch: list[Row], answer: Answer | None, sent: Sent) -> None:
    for row in batch:
        if row.body is None and row.line is None:
            sent.add_refused(row, row.refusal)
    if answer is None:
        return
    if not answer.ok:
        raise _stopped(answer)
    rows = [row for row in batch if row.body is not None or row.line is not None]
    body = cast("dict[str, Any]", answer.json())
    sent.accepted += body["accepted"]
    sent.duplicates += body["duplicates"]
    for item in body["rejected"]:
        sent.add_refused(rows[item["index"]], f"{item['code']}: {item['detail']}")


async def _send_object(*, client: Client, row: Row, kind: Kind, sent: Sent) -> None:
    if row.body is None:
        sent.add_refused(row, row.refusal)
        return
    answer = await client.create(f"/v1/{kind}", row.body)
    if answer.ok:
        sent.accepted += 1
    elif answer.status in {400, 409, 422}:
        sent.add_refused(row, _reason(answer))
    else:
        raise _stopped(answer)


def _reason(answer: Answer) -> str:
    problem = cast("dict[str, Any]", answer.json())
    fields = "; ".join(f"{entry['pointer']} {entry['detail']}" for entry in problem["errors"])
    return f"{problem['code']}: {fields or problem['detail']}"


def _stopped(answer: Answer) -> BillingError:
    try:
        detail = _reason(answer)
    except (msgspec.DecodeError, KeyError, TypeError):
        detail = f"status {answer.status}"
    return BillingError(
        "import_stopped",
        f"The import stopped: {detail}. What was taken in stays; run it again to go on.",
        kind=ErrorKind.UNAVAILABLE,
    )
