"""A backfill that is closed while its events come and while a run bills: nothing is half there."""

import asyncio
from datetime import datetime

import msgspec
import pytest

from invoicing.rederive import rederive
from metering.backfill import close_backfill, open_backfill, reverse_backfill
from metering.intake import read_events
from metering.model import BackfillDraft
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

NOW = at("2026-05-20")
USED_AT = "2026-01-15T00:00:00Z"


async def opened(shop, key="old"):
    async with shop.database.transaction(seller=shop.seller) as connection:
        draft = BackfillDraft(key=key)
        await open_backfill(connection=connection, draft=draft, now=NOW, wall_now=NOW)


async def settle(shop, verb):
    async with shop.database.transaction(seller=shop.seller) as connection:
        return await verb(connection=connection, reference="old", now=NOW)


async def send(shop, number, size):
    events = [
        {
            "id": f"b{number}-{each}",
            "type": "call",
            "subject": "acme",
            "time": USED_AT,
            "data": {"tokens": 1},
            "backfill": "old",
        }
        for each in range(size)
    ]
    intake = read_events(msgspec.json.encode(events), lines=False)
    return await shop.ingester.submit(seller=shop.seller, intake=intake, now=NOW)


async def billed(shop, as_of: datetime):
    """The tokens on all lines of January, after a run; every charge is as it should be."""
    await shop.bill(as_of)
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        seller = await load_seller(connection=connection)
        assert (await rederive(connection=connection, seller=seller)).mismatches == ()
    return await shop.one(
        "SELECT coalesce(sum(quantity), 0) FROM line_items"
        " WHERE price_key = 'tokens' AND charge_start_at = '2026-01-01'"
    )


@pytest.mark.parametrize("before", [0, 3, 8])
async def test_what_was_accepted_counts_and_what_comes_after_the_close_is_told_so(shop, before):
    await shop.subscribe("s1", "acme")
    await shop.bill(NOW)
    await opened(shop)
    sent = [asyncio.ensure_future(send(shop, number, 4)) for number in range(before)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(settle(shop, close_backfill))
    sent += [asyncio.ensure_future(send(shop, number, 4)) for number in range(before, 12)]
    answers, closed = await asyncio.gather(*sent), await closing
    accepted = sum(answer.accepted for answer in answers)
    refused = [each.code for answer in answers for each in answer.rejected]
    assert accepted + len(refused) == 48
    assert len(set(refused)) <= 1
    assert closed.events == accepted
    late = await send(shop, 99, 1)
    assert (late.accepted, len(late.rejected)) == (0, 1)
    assert await billed(shop, NOW) == accepted


@pytest.mark.parametrize("last", [close_backfill, reverse_backfill])
async def test_a_run_beside_a_close_or_a_reversal_leaves_it_to_the_next(shop, database_url, last):
    await shop.subscribe("s1", "acme")
    await shop.bill(NOW)
    await opened(shop)
    assert (await send(shop, 1, 30)).accepted == 30
    if last is reverse_backfill:
        await settle(shop, close_backfill)
    await asyncio.gather(settle(shop, last), *(shop.bill(at(f"2026-05-2{n}")) for n in (1, 2)))
    wanted = 30 if last is close_backfill else 0
    assert await billed(shop, at("2026-05-23")) == wanted
    assert await violations(database_url) == []
