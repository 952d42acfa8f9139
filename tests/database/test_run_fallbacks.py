"""A run that bills one by one, because billing together failed, says so."""

import logging

from api.run_metrics import run_metrics
from invoicing.portions import Portions
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")
TOGETHER = Portions(segment=40, chunk=10, few=0)


async def fill(shop, count):
    for number in range(count):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}", starts_at="2026-01-31T00:00:00Z")


async def test_a_failure_of_ours_is_logged_once_and_counted(shop, superuser, database_url, caplog):
    await fill(shop, 20)
    await superuser.execute(
        "CREATE FUNCTION not_so_many() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (SELECT count(*) FROM fresh) > 3 THEN RAISE numeric_value_out_of_range; END IF;"
        " RETURN NULL; END $$;"
        " CREATE TRIGGER not_so_many AFTER INSERT ON invoices REFERENCING NEW TABLE AS fresh"
        " FOR EACH STATEMENT EXECUTE FUNCTION not_so_many()"
    )
    with caplog.at_level(logging.ERROR, "usance.billing"):
        run = await shop.bill(FEBRUARY, portions=TOGETHER)
    assert (run.status, run.documents, run.parked) == ("finished", 20, ())
    (told,) = run.fallbacks
    assert (told.reason, told.times, told.customers) == ("impossible", 2, 20)
    (logged,) = [each for each in caplog.records if each.name == "usance.billing"]
    assert logged.exc_info is not None
    assert run.id in logged.getMessage()
    metrics = (await run_metrics(database=shop.database)).decode().splitlines()
    (counted,) = [each for each in metrics if each.startswith("usance_billing_fallbacks_total{")]
    assert 'reason="impossible"' in counted
    assert counted.endswith(" 2.0")
    assert await violations(database_url) == []


async def test_what_is_not_alike_is_counted_and_no_failure(shop, superuser, caplog):
    await fill(shop, 10)
    await superuser.execute(
        "INSERT INTO customer_balances (seller, customer, currency, amount_minor)"
        " SELECT seller, id, 'EUR', 100 FROM customers WHERE key = 'c00'"
    )
    with caplog.at_level(logging.ERROR, "usance.billing"):
        run = await shop.bill(FEBRUARY, portions=TOGETHER)
    assert (run.documents, run.parked) == (10, ())
    assert [(each.reason, each.customers) for each in run.fallbacks] == [("not_alike", 1)]
    assert not caplog.records
