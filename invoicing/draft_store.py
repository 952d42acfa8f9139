"""SQL of drafts: which documents wait for their grace to end, and the lines added to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import LISTED, joined
from invoicing.assembly import document_ids
from invoicing.drafts import WaitingEdit
from invoicing.store import document_counts
from plans.model import Seller

_WAITING: Final = text("""
SELECT DISTINCT d.customer, c.key COLLATE "C" AS key, d.due_at, s.currency,
  coalesce(s.invoice_group, o.invoice_group, '') AS invoice_group
FROM (
  SELECT i.bill_to AS customer, min(i.next_due_at) AS due_at
  FROM due_instants i WHERE i.seller = current_seller() AND i.next_due_at <= :now
  GROUP BY 1 HAVING min(i.next_due_at) > :posted_by
) d JOIN customers c ON c.seller = current_seller() AND c.id = d.customer
  JOIN subscriptions s ON s.seller = c.seller AND coalesce(s.payer, s.customer) = d.customer
  JOIN customers o ON o.seller = s.seller AND o.id = s.customer
WHERE CAST(:wanted AS text) IS NULL OR c.id = :wanted OR c.key = :wanted
ORDER BY d.due_at, 2, s.currency, invoice_group
""")
_EDITS: Final = text(f"""
SELECT id, customer, billed_at, currency, invoice_group, key, name, amount_minor,
  trim_scale(quantity)::text AS quantity, unit_amount, tax_rates, adjusts
FROM draft_edits
WHERE seller = current_seller() AND document IS NULL
  AND customer = ANY({LISTED.format(":customers")})
ORDER BY number
""")
_INSERT: Final = text("""
INSERT INTO draft_edits (id, customer, billed_at, currency, invoice_group, key, name, amount_minor,
  quantity, unit_amount, tax_rates, adjusts)
VALUES (:id, :customer, :billed_at, :currency, :invoice_group, :key, :name, :amount_minor,
  CAST(CAST(:quantity AS text) AS numeric), :unit_amount, CAST(:tax_rates AS text[]),
  :adjusts)
""")
_MARK: Final = text("""
UPDATE draft_edits e SET document = u.document
FROM unnest(CAST(:edits AS text[]), CAST(:documents AS text[])) AS u (edit, document)
WHERE e.seller = current_seller() AND e.id = u.edit
""")


class WaitingDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A document that may come of what a customer's subscriptions owe at a due instant.

    `body` is its id without the prefix, which tells an invoice from a credit note.
    """

    body: str
    customer: str
    due_at: datetime
    currency: str
    invoice_group: str


async def waiting_drafts(
    *, connection: AsyncConnection, seller: Seller, now: datetime, customer: str | None = None
) -> list[WaitingDraft]:
    """Those of each customer's first due instant inside its grace, in the order of posting.

    `customer` (key or id) leaves out all others.
    """
    if not seller.grace_hours:
        return []
    asked = {"now": now, "posted_by": now - seller.grace, "wanted": customer}
    rows = (await connection.execute(_WAITING, asked)).all()
    counts = await document_counts(
        connection=connection,
        customers=list({row.customer for row in rows}),
        instants=list({row.due_at for row in rows}),
    )
    found: list[WaitingDraft] = []
    for row in rows:
        _, ids = document_ids(
            seller_id=seller.id,
            customer=row.customer,
            billed_at=row.due_at,
            currency=row.currency,
            group=row.invoice_group,
            ordinal=counts.get((row.customer, row.due_at), 0),
        )
        found.append(
            WaitingDraft(
                body=ids.find("inv").partition("_")[2],
                customer=row.customer,
                due_at=row.due_at,
                currency=row.currency,
                invoice_group=row.invoice_group,
            )
        )
    return found


async def waiting_edits(
    *, connection: AsyncConnection, customers: Sequence[str]
) -> list[WaitingEdit]:
    """Lines by hand that no document of these customers (ids) has yet, in the order given."""
    rows = await connection.execute(_EDITS, {"customers": joined(sorted(customers))})
    return [msgspec.convert(dict(row), WaitingEdit) for row in rows.mappings()]


async def insert_edit(*, connection: AsyncConnection, edit: WaitingEdit) -> None:
    """Keep a line for the customer's document."""
    await connection.execute(
        _INSERT, msgspec.structs.asdict(edit) | {"tax_rates": list(edit.tax_rates)}
    )


async def mark_edits(*, connection: AsyncConnection, posted: Sequence[tuple[str, str]]) -> None:
    """Note (edit, document): the line is on that document and on no other."""
    if posted:
        edits, documents = [edit for edit, _ in posted], [document for _, document in posted]
        await connection.execute(_MARK, {"edits": edits, "documents": documents})
