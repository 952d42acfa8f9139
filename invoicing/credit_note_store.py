"""SQL of credit notes by hand: what of an invoice can be credited, and the undoing of a note."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.period import Period
from invoicing.credit_notes import Creditable
from invoicing.difference import StandingLine, credits_of
from invoicing.numbers import named
from invoicing.posted_store import credits_of_lines, posted_lines

_LINES: Final = text("""
SELECT l.id, l.document, l.price_key, coalesce(l.name, r.body ->> 'name') AS name, l.subscription,
  l.customer, l.price_interval, l.charge_start_at, l.charge_group, l.period_start_at,
  l.period_end_at,
  l.amount_minor, l.discount_minor, l.promotional_minor, p.contract, p.account
FROM line_items l
  JOIN journal_entries e ON e.seller = l.seller AND e.source = l.document AND e.kind = 'issued'
  JOIN postings p ON p.seller = l.seller AND p.entry = e.id AND p.line = l.id
  LEFT JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  LEFT JOIN prices r ON r.seller = v.seller AND r.id = v.price
WHERE l.seller = current_seller() AND l.document = :invoice AND l.id = ANY(:lines)
""")
_STANDING: Final = text("""
SELECT EXISTS (SELECT FROM credit_notes
  WHERE seller = current_seller() AND invoice = :invoice AND status = 'issued')
""")
_LOCK: Final = text("""
SELECT id, number, customer, currency, status, invoice, applied_minor, credited_minor,
  refunded_minor, version
FROM credit_notes WHERE seller = current_seller()
  AND (id = :reference OR (series = :series AND sequence = :sequence))
ORDER BY id = :reference DESC LIMIT 1 FOR UPDATE
""")
_REFUND: Final = text("""
SELECT id, status, version FROM refunds
WHERE seller = current_seller() AND credit_note = :note AND status <> 'void' FOR UPDATE
""")
_VOID: Final = text("""
UPDATE credit_notes SET status = 'void', voided_at = :now, version = version + 1
WHERE seller = current_seller() AND id = :note
""")
_VOID_REFUND: Final = text("""
UPDATE refunds SET status = 'void', version = version + 1
WHERE seller = current_seller() AND id = :refund
""")
_UNSETTLE: Final = text("""
INSERT INTO settlements (id, invoice, kind, credit_note, amount_minor, settled_at)
VALUES (:id, :invoice, 'credit_note', :note, -CAST(:amount_minor AS bigint), :now)
""")
_REOPEN: Final = text("""
UPDATE invoices SET status = 'open', paid_at = NULL, version = version + 1,
  amount_due_minor = amount_due_minor + CAST(:amount_minor AS bigint)
WHERE seller = current_seller() AND id = :invoice
""")
# Credits that a run gave less of because of the note are owed again.
_FREE: Final = text("""
UPDATE subscriptions s SET dirty_from_at = least(s.dirty_from_at, f.first_at)
FROM (
  SELECT l.subscription, min(l.charge_start_at) - interval '1 microsecond' AS first_at
  FROM line_items h JOIN line_items l ON l.seller = h.seller AND l.id = h.adjusts
  WHERE h.seller = current_seller() AND h.document = :note AND l.subscription IS NOT NULL
  GROUP BY l.subscription
) f
WHERE s.seller = current_seller() AND s.id = f.subscription
""")


class IssuedNote(msgspec.Struct, frozen=True, kw_only=True):
    """A credit note locked against every other change; by hand it names its invoice."""

    id: str
    number: str
    customer: str
    currency: str
    status: str
    invoice: str | None
    applied_minor: int
    credited_minor: int
    refunded_minor: int
    version: int


class StandingRefund(msgspec.Struct, frozen=True, kw_only=True):
    """What of a credit note is to be paid as money, or was, locked."""

    id: str
    status: str
    version: int


async def creditable_lines(
    *, connection: AsyncConnection, invoice: str, lines: Sequence[str]
) -> dict[str, Creditable]:
    """Those of the lines that the invoice (id) has, by id, with all that stands of their keys."""
    wanted = {"invoice": invoice, "lines": list(lines)}
    rows = (await connection.execute(_LINES, wanted)).all()
    intervals = list({row.price_interval for row in rows if row.price_interval is not None})
    posted = await posted_lines(connection=connection, intervals=intervals)
    alone = [row.id for row in rows if row.price_interval is None]
    by_hand = await credits_of_lines(connection=connection, lines=alone)
    found: dict[str, Creditable] = {}
    for row in rows:
        if row.price_interval is None:
            adjusted = (_standing(row), *by_hand.get(row.id, ()))
        else:
            key = posted[row.price_interval, row.charge_start_at]
            mine = [line for line in key if line.group == row.charge_group]
            counting = [line for line in mine if line.counts]
            adjusted = (*counting, *credits_of(mine))
        found[row.id] = _creditable(row, adjusted)
    return found


def _standing(row: Row[Any]) -> StandingLine:
    return StandingLine(
        id=row.id,
        document=row.document,
        amount_minor=row.amount_minor,
        discount_minor=row.discount_minor,
        promotional_minor=row.promotional_minor,
    )


def _creditable(row: Row[Any], adjusted: tuple[StandingLine, ...]) -> Creditable:
    start = row.period_start_at
    return Creditable(
        id=row.id,
        key=row.price_key,
        name=row.name,
        subscription=row.subscription,
        customer=row.customer,
        group=row.charge_group,
        period=None if start is None else Period(start, row.period_end_at),
        taxable_minor=_standing(row).taxable_minor,
        contract=row.contract,
        account=row.account,
        adjusted=adjusted,
    )


async def is_credited_by_hand(*, connection: AsyncConnection, invoice: str) -> bool:
    """Whether a credit note by hand stands on the invoice (id)."""
    return (await connection.execute(_STANDING, {"invoice": invoice})).scalar_one()


async def lock_note(*, connection: AsyncConnection, reference: str) -> IssuedNote | None:
    """The credit note of that id or number, locked until the transaction ends."""
    row = (await connection.execute(_LOCK, named(reference=reference))).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), IssuedNote)


async def lock_refund(*, connection: AsyncConnection, note: str) -> StandingRefund | None:
    """The refund of the credit note (id) that is not void, locked."""
    row = (await connection.execute(_REFUND, {"note": note})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), StandingRefund)


async def mark_note_void(*, connection: AsyncConnection, note: str, now: datetime) -> None:
    """Void the note; what it credited of subscriptions is derived again."""
    await connection.execute(_VOID, {"note": note, "now": now})
    await connection.execute(_FREE, {"note": note})


async def mark_refund_void(*, connection: AsyncConnection, refund: str) -> None:
    """The refund (id) is not paid out."""
    await connection.execute(_VOID_REFUND, {"refund": refund})


async def reopen_invoice(
    *,
    connection: AsyncConnection,
    settlement: str,
    invoice: str,
    note: str,
    amount_minor: int,
    now: datetime,
) -> None:
    """What the note reduced of the invoice is open again."""
    settled: dict[str, Any] = {"id": settlement, "invoice": invoice, "note": note, "now": now}
    await connection.execute(_UNSETTLE, settled | {"amount_minor": amount_minor})
    await connection.execute(_REOPEN, {"invoice": invoice, "amount_minor": amount_minor})
