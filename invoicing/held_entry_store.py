"""SQL of entries that wait: those of invoices that may still be cancelled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.journal import Posting

_LOCK: Final = text("""
SELECT h.invoice, i.currency, h.postings FROM held_entries h
  JOIN invoices i ON i.seller = h.seller AND i.id = h.invoice
WHERE h.seller = current_seller() AND h.ended_at IS NULL
  AND (CAST(:invoices AS text[]) IS NULL OR h.invoice = ANY(:invoices))
  AND (CAST(:by AS timestamptz) IS NULL OR h.enter_by_at <= :by)
ORDER BY h.enter_by_at, i.sequence FOR UPDATE OF h
""")
_END: Final = text("""
UPDATE held_entries SET ended_at = :now, is_entered = :is_entered
WHERE seller = current_seller() AND invoice = :invoice AND ended_at IS NULL
RETURNING invoice
""")
_NEXT: Final = text("""
SELECT min(enter_by_at) FROM held_entries
WHERE seller = current_seller() AND ended_at IS NULL AND enter_by_at <= :through
""")


class HeldEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the issue of an invoice (id) will enter, locked."""

    invoice: str
    currency: str
    postings: tuple[Posting, ...]


async def lock_held(
    *,
    connection: AsyncConnection,
    invoices: Sequence[str] | None = None,
    by: datetime | None = None,
) -> list[HeldEntry]:
    """The entries that wait, of those invoices (ids) or of all, due by then."""
    wanted = {"invoices": None if invoices is None else list(invoices), "by": by}
    rows = (await connection.execute(_LOCK, wanted)).mappings()
    return [msgspec.convert(dict(row), HeldEntry) for row in rows]


async def end_held(
    *, connection: AsyncConnection, invoice: str, now: datetime, is_entered: bool
) -> bool:
    """The entry of the invoice (id) was made, or never will be; whether it waited."""
    ended = {"invoice": invoice, "now": now, "is_entered": is_entered}
    return (await connection.execute(_END, ended)).first() is not None


async def next_held(*, connection: AsyncConnection, through: datetime) -> datetime | None:
    """The earliest instant not later than `through` at which an entry is to be made."""
    return (await connection.execute(_NEXT, {"through": through})).scalar_one()
