"""SQL that reads what stands between lines and totals: coupons, tax rates, and what is posted."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.assembly import Draft
from invoicing.conditions import Conditions
from invoicing.credit_store import load_wallet, posted_draws
from invoicing.credits import PostedDraw, Wallet
from invoicing.discounts import Application, PostedDiscount
from invoicing.tax import PostedTax, TaxTerms
from plans.model import Seller, TaxExempt
from plans.tax_rate_store import every_tax_rate
from plans.tax_rates import TaxRate, rates_of_place

T = TypeVar("T")

_USED: Final = text("""
SELECT EXISTS (SELECT FROM tax_rates WHERE seller = current_seller()) AS taxes,
  EXISTS (SELECT FROM coupon_applications WHERE seller = current_seller()) AS coupons,
  EXISTS (SELECT FROM credit_grants WHERE seller = current_seller()) AS credits
""")
# What a coupon took counts by document, and only while that document stands.
_APPLICATIONS: Final = text("""
SELECT a.id, c.key AS coupon, a.subscription, trim_scale(c.percent_off)::text AS percentage,
  c.amount_off_minor AS amount_minor, c.currency, a.applied_at, a.removed_at, c.prices,
  CASE c.duration WHEN 'forever' THEN NULL WHEN 'once' THEN 1 ELSE c.periods END AS most,
  (SELECT count(DISTINCT d.document) FROM line_discounts d
    LEFT JOIN invoices i ON i.seller = d.seller AND i.id = d.document
    LEFT JOIN credit_notes n ON n.seller = d.seller AND n.id = d.document
    WHERE d.seller = a.seller AND d.application = a.id AND d.amount_minor > 0
      AND coalesce(i.status, n.status) <> 'void') AS used
FROM coupon_applications a JOIN coupons c ON c.seller = a.seller AND c.id = a.coupon
WHERE a.seller = current_seller() AND a.subscription = ANY(:subscriptions)
ORDER BY a.subscription, a.number
""")
_TAX_TERMS: Final = text("""
SELECT id, tax_rates, tax_exempt, coalesce(address ->> 'country', country) AS country,
  address ->> 'region' AS region
FROM customers WHERE seller = current_seller() AND id = ANY(:customers)
""")
_POSTED_TAXES: Final = text("""
SELECT line, rate, trim_scale(percentage)::text AS percentage, included, jurisdiction, category,
  amount_minor
FROM line_taxes WHERE seller = current_seller() AND line = ANY(:lines) ORDER BY line, ordinal
""")
_POSTED_DISCOUNTS: Final = text("""
SELECT line, application, amount_minor FROM line_discounts
WHERE seller = current_seller() AND line = ANY(:lines) ORDER BY line, application
""")


async def load_conditions(
    *, connection: AsyncConnection, seller: Seller, drafts: Sequence[Draft]
) -> Conditions | None:
    """What holds for these documents; None where the seller has no coupon, credit or tax rate.

    Where a tax provider is asked, it and no rate of the seller's says what a customer pays.
    """
    used = (await connection.execute(_USED)).one()
    asks = seller.tax_provider is not None
    if not (used.taxes or used.coupons or used.credits or asks):
        return None
    corrected = [
        each.id
        for draft in drafts
        for line in draft.lines
        if line.amount_minor < 0
        for each in line.adjusted
    ]
    wallet, draws = None, dict[str, list[PostedDraw]]()
    if used.credits:
        customers = list({draft.customer.id for draft in drafts})
        wallet = await load_wallet(connection=connection, customers=customers)
        draws = await posted_draws(connection=connection, lines=corrected)
        if wallet is None and any(draws.values()):
            wallet = Wallet(())
    return Conditions(
        rounding=seller.rounding,
        coupons=await _coupons(connection, drafts) if used.coupons else {},
        posted_discounts=await _posted(connection, _POSTED_DISCOUNTS, corrected, PostedDiscount),
        taxes=await _tax_terms(connection, seller, drafts) if used.taxes or asks else {},
        posted_taxes=await _posted(connection, _POSTED_TAXES, corrected, PostedTax),
        wallet=wallet,
        posted_draws=draws,
    )


async def _coupons(
    connection: AsyncConnection, drafts: Sequence[Draft]
) -> dict[str, list[Application]]:
    names = {line.subscription for draft in drafts for line in draft.lines if line.subscription}
    found: dict[str, list[Application]] = {}
    rows = await connection.execute(_APPLICATIONS, {"subscriptions": sorted(names)})
    for row in rows.mappings():
        most = row["most"]
        left = None if most is None else max(most - row["used"], 0)
        application = msgspec.convert({**row, "left": left}, Application)
        found.setdefault(application.subscription, []).append(application)
    return found


async def _tax_terms(
    connection: AsyncConnection, seller: Seller, drafts: Sequence[Draft]
) -> dict[str, TaxTerms]:
    every = await every_tax_rate(connection=connection)
    named = {rate.key: rate for rate in every}
    living = [rate for rate in every if rate.archived_at is None]
    customers = list({draft.customer.id for draft in drafts})
    rows = await connection.execute(_TAX_TERMS, {"customers": customers})
    return {
        row.id: TaxTerms(
            own=()
            if seller.tax_provider is not None and row.tax_exempt == TaxExempt.NONE
            else _own(row.tax_rates, named, living, country=row.country, region=row.region),
            named=named,
            exempt=TaxExempt(row.tax_exempt),
            tax_rounding=seller.tax_rounding,
            rounding=seller.rounding,
        )
        for row in rows
    }


def _own(
    keys: Sequence[str],
    named: Mapping[str, TaxRate],
    living: Sequence[TaxRate],
    *,
    country: str | None,
    region: str | None,
) -> tuple[TaxRate, ...]:
    if keys:
        return tuple(named[key] for key in keys)
    return rates_of_place(rates=living, country=country, region=region)


async def _posted(
    connection: AsyncConnection, query: Any, lines: Sequence[str], kind: type[T]
) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    if lines:
        for row in (await connection.execute(query, {"lines": list(lines)})).mappings():
            found.setdefault(row["line"], []).append(msgspec.convert(dict(row), kind))
    return found
