"""SQL that reads what reduces and taxes the lines of documents, as it is answered."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.model import AppliedCredit, AppliedDiscount, AppliedTax

_TAXES: Final = text("""
SELECT document, line, rate, trim_scale(percentage)::text AS percentage, included, jurisdiction,
  category, taxable_minor, amount_minor
FROM line_taxes WHERE seller = current_seller() AND document = ANY(:documents)
ORDER BY document, ordinal
""")
_DISCOUNTS: Final = text("""
SELECT d.line, c.key AS coupon, d.amount_minor, d.document
FROM line_discounts d JOIN coupon_applications a ON a.seller = d.seller AND a.id = d.application
  JOIN coupons c ON c.seller = a.seller AND c.id = a.coupon
WHERE d.seller = current_seller() AND d.document = ANY(:documents)
ORDER BY d.document, d.line, a.subscription, a.number
""")
_CREDITS: Final = text("""
SELECT d.document, d.line, d.kind, d.amount_minor, g.key AS credit_grant, l.price_key
FROM credit_draws d JOIN credit_grants g ON g.seller = d.seller AND g.id = d.credit_grant
  JOIN line_items l ON l.seller = d.seller AND l.id = d.line
WHERE d.seller = current_seller() AND d.document = ANY(:documents)
ORDER BY d.document, d.kind = 'prepaid', g.priority, g.expires_at NULLS LAST, g.aged_at, g.number,
  l.ordinal
""")


class LineParts(msgspec.Struct, frozen=True, kw_only=True):
    """Discounts and taxes by line id; taxes summed up by rate, and credits, by document id."""

    discounts: Mapping[str, tuple[AppliedDiscount, ...]]
    taxes: Mapping[str, tuple[AppliedTax, ...]]
    document_taxes: Mapping[str, tuple[AppliedTax, ...]]
    credits: Mapping[str, tuple[AppliedCredit, ...]]


async def parts_of_lines(
    *, connection: AsyncConnection, currencies: Mapping[str, str], sign: int
) -> LineParts:
    """What stands beside the lines of the documents, {id: currency}; amounts times `sign`."""
    documents = {"documents": list(currencies)}
    discounts: dict[str, list[AppliedDiscount]] = {}
    taxes: dict[str, list[AppliedTax]] = {}
    sums: dict[str, dict[tuple[Any, ...], list[int]]] = {}
    applied: dict[str, list[AppliedCredit]] = {}
    if currencies:
        for row in await connection.execute(_DISCOUNTS, documents):
            amount = format_amount(sign * row.amount_minor, currency=currencies[row.document])
            discounts.setdefault(row.line, []).append(
                AppliedDiscount(coupon=row.coupon, amount=amount)
            )
        for row in await connection.execute(_CREDITS, documents):
            applied.setdefault(row.document, []).append(
                AppliedCredit(
                    grant=row.credit_grant,
                    kind=row.kind,
                    price=row.price_key,
                    line=row.line,
                    amount=format_amount(
                        sign * row.amount_minor, currency=currencies[row.document]
                    ),
                )
            )
        for row in await connection.execute(_TAXES, documents):
            key = (row.rate, row.percentage, row.included, row.jurisdiction, row.category)
            amounts = (sign * row.taxable_minor, sign * row.amount_minor)
            currency = currencies[row.document]
            taxes.setdefault(row.line, []).append(_tax(key, amounts, currency))
            known = sums.setdefault(row.document, {}).setdefault(key, [0, 0])
            known[0] += amounts[0]
            known[1] += amounts[1]
    return LineParts(
        discounts={line: tuple(found) for line, found in discounts.items()},
        taxes={line: tuple(found) for line, found in taxes.items()},
        document_taxes={
            document: tuple(
                _tax(key, amounts, currencies[document]) for key, amounts in found.items()
            )
            for document, found in sums.items()
        },
        credits={document: tuple(found) for document, found in applied.items()},
    )


def _tax(key: tuple[Any, ...], amounts: Sequence[int], currency: str) -> AppliedTax:
    rate, percentage, included, jurisdiction, category = key
    return AppliedTax(
        tax_rate=rate or None,
        percentage=percentage,
        inclusive=included,
        jurisdiction=jurisdiction,
        category=category,
        taxable=format_amount(amounts[0], currency=currency),
        amount=format_amount(amounts[1], currency=currency),
    )
