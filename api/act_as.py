"""Acting for a seller from the command line: which one, and with a key that ends with the act."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from engine.db import Database
from engine.errors import BillingError, ErrorKind, not_found
from plans.api_keys import ApiKeyDraft, Scope
from plans.issue_key import issue_key
from plans.seller_directory_store import SellerEntry, list_sellers
from plans.seller_store import revoke_api_key

KEY_LIFE: Final = timedelta(hours=12)


async def choose_seller(*, database: Database, seller_id: str | None) -> SellerEntry:
    """The seller with that id, or the only one there is.

    Errors: `not_found`, and `seller_needed` when there are none or several to choose from.
    """
    async with database.transaction(seller=None) as connection:
        entries = await list_sellers(connection=connection)
    if seller_id is not None:
        for entry in entries:
            if entry.id == seller_id:
                return entry
        raise not_found(noun="seller", reference=seller_id)
    if len(entries) == 1:
        return entries[0]
    names = "".join(f"\n  {entry.id}  {entry.legal_name} ({entry.mode.value})" for entry in entries)
    detail = (
        f"There are {len(entries)} sellers, choose one with --seller:{names}"
        if entries
        else "There is no seller yet: `usance seller create --name …` makes one."
    )
    raise BillingError("seller_needed", detail, kind=ErrorKind.INVALID)


@asynccontextmanager
async def acting_key(
    *, database: Database, seller: SellerEntry, name: str, now: datetime
) -> AsyncIterator[str]:
    """The secret of an admin key for the length of the block; it is revoked after.

    A process that is killed leaves a key that nobody knows and that expires by itself.
    """
    async with database.transaction(seller=seller.seller) as connection:
        draft = ApiKeyDraft(name=name, scopes=(Scope.ADMIN,), expires_at=now + KEY_LIFE)
        key = await issue_key(connection=connection, mode=seller.mode, draft=draft, now=now)
    assert key.secret is not None
    try:
        yield key.secret
    finally:
        async with database.transaction(seller=seller.seller) as connection:
            await revoke_api_key(connection=connection, key_id=key.id, now=now)
