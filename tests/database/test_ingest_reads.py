"""`GET /v1/usage` and `GET /v1/events`: windows in local time, and nothing dropped in silence."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import text

from engine.errors import BillingError
from metering.list_events import list_events
from metering.model import EventFilter, UsageWindow
from metering.usage import read_usage
from tests.database.test_ingest_http import served
from tests.metering_world import NOW, World, event, world

__all__ = ["world"]
PRICED = """
INSERT INTO plans (id, key, version, currency, interval, alignment, created_at)
VALUES ('pln_1', 'pro', 1, 'EUR', '{}', 'anniversary', now());
INSERT INTO prices (id, plan, ordinal, key, body)
VALUES ('prc_1', 'pln_1', 1, 'tokens', CAST('{"meter": "tokens"}' AS jsonb));
INSERT INTO subscriptions (id, key, customer, plan, currency, timezone, starts_at, anchor_at,
  alignment, created_at)
SELECT 'sub_1', 's1', id, 'pln_1', 'EUR', 'UTC', '2026-11-15Z', '2026-11-15Z', 'anniversary', now()
FROM customers;
INSERT INTO price_intervals (id, subscription, number, price, quantity, start_at)
VALUES ('pri_1', 'sub_1', 1, 'prc_1', 1, '2026-11-15Z')
"""


async def listed(world: World, **wanted) -> list[tuple[str, str, str | None]]:
    found, cursor = [], None
    while True:
        async with world.database.transaction(seller=world.seller) as connection:
            page = await list_events(
                connection=connection,
                wanted=EventFilter(status=wanted.get("status")),
                limit=wanted.get("limit", 50),
                cursor=cursor,
            )
        found += [(each.id, each.status, each.reason) for each in page.data]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def usage(world: World, start: datetime, end: datetime, window: str) -> list[tuple]:
    async with world.database.transaction(seller=world.seller) as connection:
        answer = await read_usage(
            connection=connection,
            customer="acme",
            meter="tokens",
            start=start,
            end=end,
            window=UsageWindow(window),
        )
    return [(each.start_at, each.end_at, each.quantity) for each in answer.data]


async def test_every_event_has_its_reason(world):
    await world.meter("tokens")
    await world.customer("acme")
    await world.send(
        [
            event("typo", type="cal"),
            event("stranger", subject="nobody"),
            event("text", value="many"),
            event("early", at=NOW - timedelta(days=9)),
            event("good"),
        ]
    )
    async with world.database.transaction(seller=world.seller) as connection:
        for statement in PRICED.split(";"):
            await connection.execute(text(statement))
    expected = [
        ("typo", "unmatched", "no_meter"),
        ("stranger", "unmatched", "unknown_customer"),
        ("text", "unmatched", "bad_value"),
        ("early", "unmatched", "no_subscription"),
        ("good", "measured", None),
    ]
    assert await listed(world) == expected
    assert await listed(world, status="unmatched", limit=1) == expected[:4]
    assert await listed(world, status="measured") == expected[4:]
    assert await listed(world, status="voided") == []


UNBILL_TOKENS = "UPDATE price_intervals SET end_at = '2026-11-19Z'"
COUNTED = """
INSERT INTO prices (id, plan, ordinal, key, body)
VALUES ('prc_2', 'pln_1', 2, 'calls', CAST('{"meter": "calls"}' AS jsonb));
INSERT INTO price_intervals (id, subscription, number, price, quantity, start_at)
VALUES ('pri_2', 'sub_1', 2, 'prc_2', 1, '2026-11-15Z')
"""


@pytest.mark.parametrize(
    ("meters", "statements", "bad"),
    [
        (("sum", "count"), "", ("unmatched", "bad_value")),
        (("sum", "count"), COUNTED, ("unmatched", "bad_value")),
        (("sum", "count"), COUNTED + ";" + UNBILL_TOKENS, ("unmatched", "no_subscription")),
        (
            ("sum", "count"),
            COUNTED + ";" + UNBILL_TOKENS + " WHERE number = 1",
            ("measured", None),
        ),
        (("max", "sum"), COUNTED, ("unmatched", "bad_value")),
    ],
)
async def test_a_count_does_not_hide_what_a_billed_sum_refuses(world, meters, statements, bad):
    for key, aggregation in zip(("tokens", "calls"), meters, strict=True):
        await world.meter(key, aggregation)
    await world.customer("acme")
    await world.send(
        [
            event("text", value="abc"),
            event("truth", value=True),
            event("missing", data={}),
            event("good", value="1.5"),
        ]
    )
    async with world.database.transaction(seller=world.seller) as connection:
        for statement in f"{PRICED};{statements}".strip(";").split(";"):
            await connection.execute(text(statement))
    found = await listed(world)
    assert found[:3] == [(each, *bad) for each in ("text", "truth", "missing")]
    good = ("unmatched", "no_subscription") if bad[1] == "no_subscription" else ("measured", None)
    assert found[3:] == [("good", *good)]


async def test_a_value_refused_by_a_meter_nobody_pays_is_no_matter(world):
    await world.meter("other", "sum", value="seconds")
    await world.meter("tokens")
    await world.customer("acme")
    await world.send([event("good"), event("early", at=NOW - timedelta(days=9))])
    async with world.database.transaction(seller=world.seller) as connection:
        for statement in PRICED.split(";"):
            await connection.execute(text(statement))
    assert await listed(world) == [
        ("good", "measured", None),
        ("early", "unmatched", "no_subscription"),
    ]


async def test_pages_run_through_batches(world):
    for number in range(3):
        await world.send([event(f"{number}-{each}") for each in range(4)])
    found = [each[0] for each in await listed(world, limit=5)]
    assert found == [f"{number}-{each}" for number in range(3) for each in range(4)]


async def test_days_are_the_customers(world):
    await world.meter("tokens")
    await world.customer("acme")
    async with world.database.transaction(seller=world.seller) as connection:
        await connection.execute(text("UPDATE customers SET timezone = 'America/New_York'"))
    day = timedelta(days=1)
    midnight = datetime(2026, 11, 18, 5, tzinfo=UTC)
    await world.send(
        [
            event("before", at=midnight - timedelta(microseconds=1), value=1),
            event("at", at=midnight, value=10),
            event("last", at=midnight + day - timedelta(microseconds=1), value=100),
            event("next", at=midnight + day, value=-1000),
        ]
    )
    start, end = midnight - timedelta(hours=2), midnight + timedelta(hours=30)
    assert await usage(world, start, end, "day") == [
        (start, midnight, "1"),
        (midnight, midnight + day, "110"),
        (midnight + day, end, "-1000"),
    ]
    hours = await usage(world, start, end, "hour")
    assert len(hours) == 32
    assert [each[2] for each in hours if each[2] != "0"] == ["1", "10", "100", "-1000"]
    (month,) = await usage(world, start, end, "month")
    assert month == (start, end, "-889")


async def test_an_hour_told_twice_is_two_hours(world):
    await world.meter("tokens")
    await world.customer("acme")
    async with world.database.transaction(seller=world.seller) as connection:
        await connection.execute(text("UPDATE customers SET timezone = 'Europe/Berlin'"))
    start = datetime(2026, 10, 24, 22, tzinfo=UTC)
    rows = await usage(world, start, start + timedelta(hours=25), "hour")
    assert len(rows) == 25
    assert len(await usage(world, start, start + timedelta(hours=25), "day")) == 1


@pytest.mark.parametrize(
    ("hours", "window", "code"),
    [(0, "day", "invalid_body"), (24 * 400, "hour", "too_many_windows")],
)
async def test_windows_that_cannot_be(world, hours, window, code):
    await world.meter("tokens")
    await world.customer("acme")
    with pytest.raises(BillingError) as caught:
        await usage(world, NOW, NOW + timedelta(hours=hours), window)
    assert caught.value.code == code


async def test_both_are_served(database):
    async with served(database) as client:
        meter = {"key": "tokens", "event_type": "call", "aggregation": "sum", "value": "tokens"}
        assert (await client.post("/v1/meters", meter)).ok
        assert (await client.post("/v1/customers", {"key": "acme", "name": "Acme"})).ok
        sent = event("a", value="2.50", data={"tokens": "2.50"})
        assert (await client.post("/v1/events", sent)).ok
        span = "from=2026-11-20T00:00:00Z&to=2026-11-21T00:00:00Z"
        answer = await client.get(f"/v1/usage?customer=acme&meter=tokens&{span}")
        assert answer.json() == {
            "data": [
                {"from": "2026-11-20T00:00:00Z", "to": "2026-11-21T00:00:00Z", "quantity": "2.5"}
            ]
        }
        (row,) = (await client.get("/v1/events?status=unmatched")).json()["data"]
        assert (row["id"], row["reason"], row["data"]) == (
            "a",
            "no_subscription",
            {"tokens": "2.50"},
        )
        assert (await client.get("/v1/events?cursor=x")).status == 400
        assert (await client.get(f"/v1/usage?customer=no&meter=tokens&{span}")).status == 404
        assert (await client.get("/v1/usage?customer=acme&meter=tokens")).status == 400
        for path in ("/v1/events/x", "/v1/eventsx"):
            assert (await client.get(path)).status == 404
        document = msgspec.json.decode((await client.get("/openapi.json")).body)
        assert set(document["paths"]["/v1/events"]) == {"get", "post"}
