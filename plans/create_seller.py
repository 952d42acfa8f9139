"""Verb: set a seller up, with its accounts and a first key."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import new_id
from engine.journal import CHART
from plans.api_keys import ApiKeyDraft, IssuedApiKey, Scope
from plans.catalog import (
    country_of,
    currency_errors,
    party_id,
    party_of_seller,
    refuse_invalid,
    timezone_errors,
)
from plans.drafts import SellerDraft
from plans.issue_key import issue_key
from plans.model import Mode, Seller
from plans.seller_store import create_seller_row, insert_accounts, save_party
from plans.tax_ids import checked_tax_ids


class CreatedSeller(msgspec.Struct, frozen=True, kw_only=True):
    """The seller's id, its number inside, and the secret of its first key, shown this once."""

    id: str
    seller: int
    secret: str


async def create_seller(
    *,
    database: Database,
    draft: SellerDraft,
    now: datetime,
    key_name: str = "first key",
    identity: str | None = None,
) -> CreatedSeller:
    """Make a seller, its chart of accounts and a key with the scope `admin`, in one transaction.

    `now` is wall time; `identity` is the id of a seller that must be found again by it, a fresh one
    when left out. Errors: `invalid_body` with the fields at fault.
    """
    tax_ids, errors = checked_tax_ids(tax_ids=draft.tax_ids, country=country_of(draft))
    refuse_invalid(errors + currency_errors(draft.currency) + timezone_errors(draft.timezone))
    draft = msgspec.structs.replace(draft, tax_ids=tax_ids)
    clock_at = (draft.clock_at or now) if draft.mode is Mode.TEST else None
    fields: dict[str, Any] = {**msgspec.structs.asdict(draft), "clock_at": clock_at}
    seller = Seller(
        **fields,
        id=identity or new_id(prefix="sel", now=now),
        created_at=now,
    )
    party = party_of_seller(seller)
    async with database.transaction(seller=None) as connection:
        body = {**msgspec.to_builtins(seller), "party": party_id(party)}
        number = await create_seller_row(connection=connection, body=body)
        await save_party(connection=connection, party=party)
        await insert_accounts(connection=connection, accounts=CHART)
        key = await _first_key(connection=connection, mode=draft.mode, name=key_name, now=now)
    assert key.secret is not None
    return CreatedSeller(id=seller.id, seller=number, secret=key.secret)


async def _first_key(
    *, connection: AsyncConnection, mode: Mode, name: str, now: datetime
) -> IssuedApiKey:
    draft = ApiKeyDraft(name=name, scopes=(Scope.ADMIN,))
    return await issue_key(connection=connection, mode=mode, draft=draft, now=now)
