"""Verb: find the seller of an earlier run of the demo on the same usage, or make one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec

from engine.db import Database, exclusive
from engine.errors import BillingError, ErrorKind
from engine.ids import derived_body, derived_id, new_id
from plans.api_keys import ApiKeyDraft, Scope
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.issue_key import issue_key
from plans.model import Mode
from plans.seller_directory_store import list_sellers
from plans.seller_store import revoke_named_keys

KEY_NAME: Final = "demo"
WAIT_SECONDS: Final = 10
_ORIGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The instant in the ids of sellers that are found again; any would do, for ever the same."""


class DemoSeller(msgspec.Struct, frozen=True, kw_only=True):
    """The seller's id, a key of this run, where its clock stands, and whether it was there."""

    id: str
    secret: str
    clock_at: datetime
    found: bool


@asynccontextmanager
async def demo_seller(
    *, database: Database, determined_by: bytes | None, clock_at: datetime, now: datetime
) -> AsyncIterator[DemoSeller]:
    """The seller whose id follows from `determined_by`, made in one transaction if need be.

    Nothing but the id tells whether an earlier run was here, so one that was killed anywhere is
    taken up. With None the seller is always a new one. Errors: `demo_busy` while another process
    works on the same seller.
    """
    identity = new_id(prefix="sel", now=now)
    if determined_by is not None:
        body = derived_body(at=_ORIGIN, parts=("demo", determined_by.hex()))
        identity = derived_id(prefix="sel", body=body)
    async with exclusive(
        database=database, name=f"demo-{identity}", wait_seconds=WAIT_SECONDS
    ) as alone:
        if not alone:
            message = "another `usance demo` is at work on the same file"
            raise BillingError("demo_busy", message, kind=ErrorKind.CONFLICT)
        found = await _find(database=database, identity=identity, now=now)
        if found is None:
            draft = SellerDraft(
                legal_name="Demo Inc.", country="US", series="DEMO", clock_at=clock_at
            )
            made = await create_seller(
                database=database, draft=draft, now=now, key_name=KEY_NAME, identity=identity
            )
            found = DemoSeller(id=made.id, secret=made.secret, clock_at=clock_at, found=False)
        yield found


async def _find(*, database: Database, identity: str, now: datetime) -> DemoSeller | None:
    async with database.transaction(seller=None) as connection:
        entries = await list_sellers(connection=connection)
    for entry in entries:
        if entry.id == identity:
            break
    else:
        return None
    # A key's secret is kept nowhere, so every run has one of its own, and takes the last one back.
    async with database.transaction(seller=entry.seller) as connection:
        await revoke_named_keys(connection=connection, name=KEY_NAME, now=now)
        draft = ApiKeyDraft(name=KEY_NAME, scopes=(Scope.ADMIN,))
        key = await issue_key(connection=connection, mode=Mode.TEST, draft=draft, now=now)
    assert key.secret is not None
    assert entry.clock_at is not None
    return DemoSeller(id=identity, secret=key.secret, clock_at=entry.clock_at, found=True)
