"""SQL that writes one journal entry, and one event of the outbox, at a time."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.journal import Posting

_ENTRY: Final = text("""
INSERT INTO journal_entries (id, kind, source, entry_on, accounting_month, posted_at)
VALUES (:entry, :kind, :source, :entry_on, :month, :now)
""")
_POSTINGS: Final = text("""
INSERT INTO postings (entry, ordinal, account, dimension, customer, contract, document, line,
  currency, amount_minor)
SELECT :entry, u.ordinal, u.account, u.dimension, u.customer, u.contract, u.document, u.line,
  :currency, u.amount
FROM unnest(CAST(:accounts AS text[]), CAST(:dimensions AS text[]), CAST(:customers AS text[]),
  CAST(:contracts AS text[]), CAST(:documents AS text[]), CAST(:lines AS text[]),
  CAST(:amounts AS bigint[])) WITH ORDINALITY
  AS u (account, dimension, customer, contract, document, line, amount, ordinal)
""")
_TELL: Final = text("""
INSERT INTO outbox (id, type, object, version, occurred_at)
SELECT u.id, u.type, u.object, u.version, :now
FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:objects AS text[]),
  CAST(:versions AS integer[])) AS u (id, type, object, version)
""")


async def write_entry(
    *,
    connection: AsyncConnection,
    entry: str,
    kind: str,
    source: str,
    entry_on: date,
    now: datetime,
    currency: str,
    postings: Sequence[Posting],
) -> None:
    """A journal entry in the month of its date; (source, kind) is unique."""
    month = entry_on.replace(day=1)
    head = {"entry": entry, "kind": kind, "source": source, "entry_on": entry_on}
    await connection.execute(_ENTRY, head | {"month": month, "now": now})
    await connection.execute(
        _POSTINGS,
        {
            "entry": entry,
            "currency": currency,
            "accounts": [each.account for each in postings],
            "dimensions": [each.dimension for each in postings],
            "customers": [each.customer for each in postings],
            "contracts": [each.contract for each in postings],
            "documents": [each.document for each in postings],
            "lines": [each.line for each in postings],
            "amounts": [each.amount_minor for each in postings],
        },
    )


async def tell(
    *, connection: AsyncConnection, events: Sequence[tuple[str, str, str, int]], now: datetime
) -> None:
    """What the outside world will hear: (id, type, object, version of the object)."""
    await connection.execute(
        _TELL,
        {
            "ids": [event[0] for event in events],
            "types": [event[1] for event in events],
            "objects": [event[2] for event in events],
            "versions": [event[3] for event in events],
            "now": now,
        },
    )
