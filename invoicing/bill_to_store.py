"""SQL that finds whom a document by hand goes to."""

from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import FieldError
from invoicing.assembly import BilledCustomer
from plans.catalog import refuse_invalid

_BILL_TO: Final = text("""
SELECT p.id, p.key, p.number, p.party, p.net_terms_days, p.po_number,
  coalesce(p.currency, c.currency) AS currency, c.invoice_group,
  CASE WHEN c.id <> p.id THEN c.id END AS child
FROM customers c JOIN customers p ON p.seller = c.seller AND p.id = coalesce(c.payer, c.id)
WHERE c.seller = current_seller() AND (c.key = :reference OR c.id = :reference)
ORDER BY c.id = :reference DESC LIMIT 1
""")


class BillTo(msgspec.Struct, frozen=True, kw_only=True):
    """Who gets the document, and the currency where nothing else is said.

    `child` (id) is whom it is about where that is another one, `invoice_group` is theirs.
    """

    customer: BilledCustomer
    currency: str | None
    invoice_group: str = ""
    child: str | None = None

    @property
    def named(self) -> str:
        """The id of the customer that was named."""
        return self.child or self.customer.id


async def bill_to(
    *, connection: AsyncConnection, reference: str, pointer: str = "/customer"
) -> BillTo:
    """Who pays for the customer of that key or id. Error: `invalid_body` that names it."""
    row = (await connection.execute(_BILL_TO, {"reference": reference})).one_or_none()
    if row is None:
        detail = f"no customer {reference!r}"
        refuse_invalid([FieldError(pointer=pointer, code="unknown_customer", detail=detail)])
    assert row is not None, "a customer that is none was refused"
    return BillTo(
        customer=BilledCustomer(
            id=row.id,
            key=row.key,
            number=row.number,
            party=row.party,
            net_terms_days=row.net_terms_days,
            po_number=row.po_number,
        ),
        currency=row.currency,
        invoice_group=row.invoice_group or "",
        child=row.child,
    )
