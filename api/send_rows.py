"""Verb: send the rows of a file to the API, and keep what it refused with the reason."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar, cast

import msgspec

from api.importing import Kind, Row
from api.in_process import Answer, Client
from engine.errors import BillingError, ErrorKind

BATCH: Final = 1000
Item = TypeVar("Item")


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was not taken in."""

    row: Row
    reason: str


class Sent(msgspec.Struct, kw_only=True):
    """What became of the rows so far; `duplicates` were taken in before."""

    accepted: int = 0
    duplicates: int = 0
    refused: list[Refused] = msgspec.field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows were dealt with."""
        return self.accepted + self.duplicates + len(self.refused)


async def send_rows(
    *, client: Client, rows: Iterable[Row], kind: Kind, report: Callable[[Sent], None]
) -> Sent:
    """Send every row; `report` hears of the progress. A refused row never stops the others.

    Raises `import_stopped` when the API cannot take anything in.
    """
    sent = Sent()
    if kind == "events":
        for batch in batched(rows, BATCH):
            await _send_events(client=client, batch=batch, sent=sent)
            report(sent)
        return sent
    for row in rows:
        await _send_object(client=client, row=row, kind=kind, sent=sent)
        report(sent)
    return sent


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to `size` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


async def _send_events(*, client: Client, batch: list[Row], sent: Sent) -> None:
    sent.refused += [Refused(row=row, reason=row.refusal) for row in batch if row.body is None]
    rows = [row for row in batch if row.body is not None]
    if not rows:
        return
    answer = await client.post("/v1/events", [row.body for row in rows])
    if not answer.ok:
        raise _stopped(answer)
    body = cast("dict[str, Any]", answer.json())
    sent.accepted += body["accepted"]
    sent.duplicates += body["duplicates"]
    for item in body["rejected"]:
        reason = f"{item['code']}: {item['detail']}"
        sent.refused.append(Refused(row=rows[item["index"]], reason=reason))


async def _send_object(*, client: Client, row: Row, kind: Kind, sent: Sent) -> None:
    if row.body is None:
        sent.refused.append(Refused(row=row, reason=row.refusal))
        return
    answer = await client.post(f"/v1/{kind}", row.body)
    if answer.ok:
        sent.accepted += 1
    elif answer.status in {400, 409, 422}:
        sent.refused.append(Refused(row=row, reason=_reason(answer)))
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
