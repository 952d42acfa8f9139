"""Verb: tell what grants would pay of the usage so far, were it billed now. Reads only."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.assembly import BilledCustomer, assemble
from invoicing.charges import INSTANT, ProrationTerms, charges_due
from invoicing.conditions import complete
from invoicing.conditions_store import load_conditions
from invoicing.credits import Key
from invoicing.difference import Difference, RatedCharge, differences_of
from invoicing.posted_store import posted_lines
from invoicing.rate_charges import rate_charges
from plans.agreement import Agreement
from plans.model import Seller
from plans.prices import Kind
from plans.subscription_store import PriceBook, agreements_billed_to

BOUNDLESS: Final = 10**17
Draws = dict[str, dict[Key, int]]


async def project_draws(
    *,
    connection: AsyncConnection,
    seller: Seller,
    customers: Sequence[str],
    at: datetime,
    boundless: Collection[str] = (),
) -> Draws:
    """What each grant (id) would pay of usage before `at` that is not billed yet, by charge key.

    Coupons, scopes, order and tax are those of a document. Grants in `boundless` are taken as if
    they never ran out.
    """
    unbilled = await _unbilled(connection, seller, customers, at)
    drafts = [
        draft
        for customer, differences in unbilled.items()
        for draft in assemble(
            seller_id=seller.id,
            customer=_nobody(customer),
            billed_at=at,
            issued_at=at,
            default_terms_days=0,
            ordinal=0,
            differences=differences,
        )
    ]
    conditions = await load_conditions(connection=connection, seller=seller, drafts=drafts)
    found: Draws = {}
    if conditions is None or conditions.wallet is None:
        return found
    for grant in boundless:
        conditions.wallet.left[grant] = BOUNDLESS
    for draft in drafts:
        done = complete(draft, conditions)
        for draw in done.draws:
            line = done.lines[draw.line]
            if line.price_interval is not None and line.charge_start_at is not None:
                key = (line.price_interval, line.charge_start_at)
                mine = found.setdefault(draw.grant, {})
                mine[key] = mine.get(key, 0) + draw.amount_minor
    return {
        grant: {key: amount for key, amount in amounts.items() if amount > 0}
        for grant, amounts in found.items()
    }


def _nobody(customer: str) -> BilledCustomer:
    """A customer of whom a document that is never written needs the id alone."""
    return BilledCustomer(
        id=customer, key="", number=0, party="", net_terms_days=None, po_number=None
    )


async def _unbilled(
    connection: AsyncConnection, seller: Seller, customers: Sequence[str], at: datetime
) -> dict[str, list[Difference]]:
    """By who pays, what running usage owes beyond what is posted: its own and its children's."""
    terms = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
    agreements = await agreements_billed_to(
        connection=connection, customers=customers, book=PriceBook()
    )
    charges = [
        charge
        for agreement in agreements
        for charge in charges_due(agreement=_cut(agreement, at), through=at, terms=terms)
    ]
    intervals = list(dict.fromkeys(charge.stretch.id for charge in charges))
    posted = await posted_lines(connection=connection, intervals=intervals)
    rated: dict[tuple[str, datetime], list[RatedCharge]] = {}
    for line in await rate_charges(connection=connection, seller=seller, charges=charges):
        rated.setdefault(line.charge.key, []).append(line)
    found: dict[str, list[Difference]] = {}
    for charge in charges:
        found.setdefault(charge.agreement.bill_to, []).extend(
            differences_of(
                rated=rated.get(charge.key, ()),
                charge=charge,
                posted=posted.get(charge.key, ()),
            )
        )
    return found


def _cut(agreement: Agreement, at: datetime) -> Agreement:
    """The usage prices alone, ending at `at`: then all that they measured is due."""
    derived = agreement.derived_through_at
    return msgspec.structs.replace(
        agreement,
        derived_through_at=None if derived is None else min(derived, at - INSTANT),
        dirty_from_at=None,
        intervals=tuple(
            msgspec.structs.replace(
                stretch,
                end_at=at if stretch.end_at is None else min(stretch.end_at, at),
                end_is_cancellation=False,
                closed_at=None,
            )
            for stretch in agreement.intervals
            if stretch.price.kind is Kind.USAGE and stretch.start_at < at
        ),
    )
