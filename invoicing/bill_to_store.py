"""SQL that finds whom a document by hand goes to."""

from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import FieldError
from invoicing.assembly import BilledCustomer
from plans.catalog import refuse_invalid

_BILL_TO: Final = text("""
SELECT id, key, number, party, net_terms_days, po_number, currency FROM customers
WHERE seller = current_seller() AND (key = :reference OR id = :reference)
ORDER BY id = :reference DESC LIMIT 1
""")


class BillTo(msgspec.Struct, frozen=True, kw_only=True):
    """A customer and the currency that it is billed in where nothing else is said."""

    customer: BilledCustomer
    currency: str | None


async def bill_to(
    *, connection: AsyncConnection, reference: str, pointer: str = "/customer"
) -> BillTo:
    """The customer of that key or id. Error: `invalid_body` that names it."""
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
    )
