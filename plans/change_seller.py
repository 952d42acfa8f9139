"""Verb: change what is known of the seller, and the choices its billing rules leave open."""

from typing import Final

import msgspec
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, FieldError
from plans.catalog import (
    country_of,
    currency_errors,
    party_of_seller,
    refuse_invalid,
    timezone_errors,
)
from plans.letterhead import locale_errors, payment_errors
from plans.mailing import mailing_errors
from plans.model import Seller, SellerPatch
from plans.seller_store import has_postings, load_seller, save_party, save_seller
from plans.tax_ids import checked_tax_ids
from plans.tax_providers import kept, tax_provider_errors

# Every posted amount was derived under these: another choice would make differences of them all.
SETTLED_BY_POSTING: Final = ("currency", "rounding", "proration", "last_day")


async def change_seller(*, connection: AsyncConnection, patch: SellerPatch) -> Seller:
    """Change what the patch names and give the seller as it is then.

    Errors: `invalid_body`; `settled_terms` (conflict) when a choice in `SETTLED_BY_POSTING` would
    change although documents were posted under it.
    """
    seller = await load_seller(connection=connection)
    named = {name: getattr(patch, name) for name in patch.__struct_fields__}
    changes = {name: value for name, value in named.items() if value is not UNSET}
    changed = msgspec.structs.replace(seller, **changes)
    tax_ids, errors = checked_tax_ids(tax_ids=changed.tax_ids, country=country_of(changed))
    changed = msgspec.structs.replace(
        changed,
        tax_ids=tax_ids,
        tax_provider=kept(changed.tax_provider, present=seller.tax_provider),
    )
    refuse_invalid(
        [
            *errors,
            *currency_errors(changed.currency),
            *timezone_errors(changed.timezone),
            *payment_errors(changed.payment_details),
            *tax_provider_errors(changed.tax_provider),
            *mailing_errors(changed.emails),
            *locale_errors(changed.default_locale, pointer="/default_locale"),
        ]
    )
    settled = [
        name for name in SETTLED_BY_POSTING if getattr(changed, name) != getattr(seller, name)
    ]
    if settled and await has_postings(connection=connection):
        detail = f"documents were posted under the present {', '.join(settled)}"
        errors = tuple(
            FieldError(pointer=f"/{name}", code="settled_terms", detail=detail) for name in settled
        )
        raise BillingError("settled_terms", detail, kind=ErrorKind.CONFLICT, errors=errors)
    party = await save_party(connection=connection, party=party_of_seller(changed))
    await save_seller(connection=connection, seller=changed, party=party)
    return changed
