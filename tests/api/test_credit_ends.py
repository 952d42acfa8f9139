"""A billing run that is asked for ends the credit due by then, each after what falls due before."""

from datetime import UTC, datetime

import pytest

from plans.model import Mode
from tests.api.world import World, make_seller

PAYG = {
    "key": "payg",
    "currency": "USD",
    "interval": {"unit": "month", "count": 1},
    "prices": [
        {"key": "calls", "kind": "usage", "meter": "calls", "model": "per_unit", "unit_amount": "1"}
    ],
}
GRANT = {"kind": "promotional", "amount": "100.00", "expires_at": "2026-03-20T00:00:00Z"}


@pytest.mark.parametrize("customers", [None, ["beta"]], ids=["everybody", "one of two"])
async def test_a_run_that_is_asked_for_ends_credit_in_order(world: World, customers) -> None:
    seller = await make_seller(world.database, name="Alive", mode=Mode.LIVE)
    key = seller.keys["admin"]
    bodies = [("/v1/meters", {"key": "calls", "event_type": "call", "aggregation": "count"})]
    bodies.append(("/v1/plans", PAYG))
    for name in ("beta", "gamma"):
        bodies.append(("/v1/customers", {"key": name, "name": name}))
        bodies.append(("/v1/subscriptions", {"key": name, "customer": name, "plan": "payg"}))
        grant = {"key": f"gift-{name}", "customer": name, "rollover_fraction": "0.5", **GRANT}
        bodies.append(("/v1/credit_grants", grant))
    bodies += [
        ("/v1/events", {"id": str(number), "type": "call", "subject": "beta"})
        for number in range(40)
    ]
    for path, body in bodies:
        answer = await world.send("POST", path, json=body, key=key)
        assert answer.is_success, answer.text
    world.clock.now = datetime(2026, 4, 5, tzinfo=UTC)
    run = {"as_of": "2026-04-02T00:00:00Z", "customers": customers}
    answer = await world.send("POST", "/v1/billing_runs", json=run, key=key)
    assert answer.is_success, answer.text
    grants = (await world.send("GET", "/v1/credit_grants", key=key)).json()["data"]
    told = {one["key"]: (one["status"], one["expired"], one["rolled_over"]) for one in grants}
    assert told.pop("gift-beta") == ("expired", "30.00", "30.00")
    rest = {"gift-beta:rolled": ("active", "0.00", "0.00")}
    if customers is None:
        rest["gift-gamma"] = ("expired", "50.00", "50.00")
        rest["gift-gamma:rolled"] = ("active", "0.00", "0.00")
        assert told == rest
    else:
        assert (told.pop("gift-gamma")[1:], told) == (("0.00", "0.00"), rest)
    (invoice,) = (await world.send("GET", "/v1/invoices?customer=beta", key=key)).json()["data"]
    assert (invoice["promotional_applied"], invoice["total"]) == ("40.00", "0.00")
