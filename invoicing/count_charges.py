"""Verb: sum what counts towards a minimum commitment. Reads only."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.charges import Charge, ProrationTerms, charges_due
from invoicing.commitments import counts_towards, is_counted
from invoicing.rate_charges import rate_charges
from plans.model import Seller


async def counted_minor(*, connection: AsyncConnection, seller: Seller, commitment: Charge) -> int:
    """Minor units of the charges, from today's facts, that the commitment is compared with."""
    agreement = commitment.agreement
    through = agreement.derived_through_at
    if through is None:
        return 0
    charges = charges_due(
        agreement=msgspec.structs.replace(agreement, derived_through_at=None, dirty_from_at=None),
        through=through,
        terms=ProrationTerms(proration=seller.proration, last_day=seller.last_day),
    )
    counted = [
        charge
        for charge in charges
        if is_counted(charge.stretch)
        and counts_towards(start=charge.active.start, commitment=commitment)
    ]
    rated = await rate_charges(connection=connection, seller=seller, charges=counted)
    return sum(line.amount_minor for line in rated)
