"""SQL that reads the journal as it is answered: entries, postings, balances."""

from typing import Any, Final

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.model import EntryPosting, JournalEntryAnswer

_LINE_POSTINGS: Final = text("""
SELECT p.entry, p.account, c.key AS customer, p.contract, p.document, p.line, p.currency,
  p.amount_minor
FROM line_items l CROSS JOIN LATERAL postings_of(l.document) p
  JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE l.seller = current_seller() AND l.id = :line AND p.line = l.id
ORDER BY p.entry, p.ordinal
""")
_ENTRIES: Final = text("""
SELECT e.id, e.kind, e.source, e.entry_on, e.posted_at FROM journal_entries e
WHERE e.seller = current_seller() AND (CAST(:reference AS text) IS NULL OR e.id = :reference)
  AND (CAST(:source AS text) IS NULL OR e.source = :source)
  AND (CAST(:after AS text) IS NULL OR e.id > :after)
ORDER BY e.id LIMIT :limit
""")
_POSTINGS: Final = text("""
SELECT p.entry, p.account, c.key AS customer, p.contract, p.document, p.line, p.currency,
  p.amount_minor
FROM postings p JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE p.seller = current_seller() AND p.entry = ANY(:entries) ORDER BY p.entry, p.ordinal
""")
_BALANCES: Final = text("""
SELECT a.code, a.type, a.normal_side, p.currency, coalesce(sum(p.amount_minor), 0) AS amount_minor
FROM accounts a LEFT JOIN postings p ON p.seller = a.seller AND p.account = a.code
WHERE a.seller = current_seller() GROUP BY a.code, a.type, a.normal_side, p.currency
ORDER BY a.code, p.currency
""")


class AccountBalance(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of an account's postings in one currency; no currency where there are none."""

    code: str
    type: str
    normal_side: str
    currency: str | None
    amount_minor: int


def _posting(row: Row[Any]) -> EntryPosting:
    amount = format_amount(abs(row.amount_minor), currency=row.currency)
    return EntryPosting(
        account=row.account,
        debit=amount if row.amount_minor >= 0 else None,
        credit=amount if row.amount_minor < 0 else None,
        customer=row.customer,
        contract=row.contract or None,
        document=row.document,
        line=row.line or None,
    )


async def postings_of_line(
    *, connection: AsyncConnection, line: str
) -> tuple[str, list[EntryPosting]]:
    """The journal entry that posted a line, and the line's own postings in it."""
    rows = (await connection.execute(_LINE_POSTINGS, {"line": line})).all()
    return rows[0].entry, [_posting(row) for row in rows]


async def list_entries(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    source: str | None = None,
) -> list[JournalEntryAnswer]:
    """Journal entries with their postings, in the order of their ids."""
    parameters = {"limit": limit, "after": after, "reference": reference, "source": source}
    rows = (await connection.execute(_ENTRIES, parameters)).all()
    postings: dict[str, list[EntryPosting]] = {}
    currencies: dict[str, str] = {}
    for row in await connection.execute(_POSTINGS, {"entries": [row.id for row in rows]}):
        currencies[row.entry] = row.currency
        postings.setdefault(row.entry, []).append(_posting(row))
    return [
        JournalEntryAnswer(
            id=row.id,
            kind=row.kind,
            source=row.source,
            entry_on=row.entry_on,
            posted_at=row.posted_at,
            currency=currencies[row.id],
            postings=tuple(postings[row.id]),
        )
        for row in rows
    ]


async def account_balances(*, connection: AsyncConnection) -> list[AccountBalance]:
    """Every account's debits less credits, by currency."""
    rows = await connection.execute(_BALANCES)
    return [
        AccountBalance(
            code=row.code,
            type=row.type,
            normal_side=row.normal_side,
            currency=row.currency,
            amount_minor=int(row.amount_minor),
        )
        for row in rows
    ]
