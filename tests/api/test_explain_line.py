"""A line is told from the events behind it to the postings it made."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from engine.db import Database
from tests.api.world import World, open_world

JANUARY = "2026-04-01T12:00:00Z"
PLAN = {
    "key": "all",
    "currency": "USD",
    "interval": {"unit": "month", "count": 1},
    "prices": [
        {"key": "fee", "kind": "recurring", "model": "flat", "flat_amount": "31.00"},
        {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "3"},
        {
            "key": "units",
            "kind": "usage",
            "meter": "work",
            "model": "graduated",
            "included_quantity": "10",
            "tiers": [{"up_to": "100", "unit_amount": "0.05"}, {"unit_amount": "0.031"}],
        },
        {
            "key": "regions",
            "kind": "usage",
            "meter": "work",
            "model": "package",
            "package_size": "7",
            "unit_amount": "0.333",
            "group_by": ["region"],
            "minimum_amount": "20.00",
        },
        {
            "key": "sizes",
            "kind": "usage",
            "meter": "work",
            "model": "matrix",
            "unit_amount": "0.01",
            "matrix": [{"match": {"region": "eu", "size": "xl"}, "unit_amount": "0.4321"}],
        },
        {
            "key": "fees",
            "kind": "usage",
            "meter": "work",
            "model": "percentage",
            "rate": "2.9",
            "fixed_amount": "0.30",
            "free_events": 2,
            "free_amount": "100",
        },
        {"key": "rest", "kind": "usage", "meter": "work", "model": "dynamic"},
    ],
}
METER = {
    "key": "work",
    "event_type": "job",
    "aggregation": "sum",
    "value": "units",
    "group_by": ["region", "size"],
}


def job(number: int, units: str, **data: str) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "type": "job",
        "subject": "acme",
        "time": f"2026-03-02T10:00:{number:02}Z",
        "data": {"units": units, **data},
    }


EVENTS = [
    job(1, "60.5", region="eu", size="xl"),
    job(2, "70", region="eu", size="s"),
    job(3, "12.25", region="us", size="xl"),
    job(4, "3", size="s"),
    job(5, "33", region="eu", size="xl"),
]


@pytest.fixture
async def told(database: Database) -> AsyncIterator[tuple[World, list[Mapping[str, Any]]]]:
    """The explanations of all lines of a month with every model in it."""
    async with open_world(database) as world:
        for path, body in (
            ("/v1/meters", METER),
            ("/v1/plans", PLAN),
            ("/v1/test_clock/advance", {"to": "2026-03-03T00:00:00Z"}),
            ("/v1/events", EVENTS),
            (
                "/v1/subscriptions",
                {
                    "key": "a1",
                    "customer": "acme",
                    "plan": "all",
                    "quantities": {"seats": "4"},
                    "starts_at": "2026-03-01T12:00:00Z",
                },
            ),
            ("/v1/test_clock/advance", {"to": JANUARY}),
        ):
            answer = await world.send("POST", path, json=body)
            assert answer.is_success, answer.text
        invoices = (await world.send("GET", "/v1/invoices")).json()["data"]
        lines = [line for invoice in invoices for line in invoice["lines"]]
        answers = [
            await world.send("GET", f"/v1/invoices/lines/{line['id']}/explain") for line in lines
        ]
        assert [answer.status_code for answer in answers] == [200] * len(lines)
        yield world, [answer.json() for answer in answers]


async def test_every_trace_ends_at_the_posted_amount(
    told: tuple[World, list[Mapping[str, Any]]],
) -> None:
    _, explanations = told
    models = {each["price"]["body"]["model"] for each in explanations}
    assert models == {
        "flat", "per_unit", "graduated", "package", "matrix", "percentage", "dynamic",
    }  # fmt: skip
    for each in explanations:
        assert each["posted_total"] == each["line"]["amount"]
        if each["trace"] is None:
            assert each["price"]["body"]["key"] == "regions"
            assert each["line"]["group"] is None
        else:
            assert each["trace"]["rounded"] == each["line"]["amount"]
            assert each["trace"]["rounded"] in each["text"]


async def test_the_journal_and_the_price_version_are_named(
    told: tuple[World, list[Mapping[str, Any]]],
) -> None:
    world, explanations = told
    for each in explanations:
        (posting,) = each["journal"]
        assert (posting["account"], posting["line"]) == ("contract_balance", each["line"]["id"])
        assert posting["credit"] == each["line"]["amount"]
        entry = await world.send("GET", f"/v1/journal_entries/{each['journal_entry']}")
        assert posting in entry.json()["postings"]
        version = each["price"]["version"]
        plan = (await world.send("GET", f"/v1/plans/all?version={version}")).json()
        assert each["price"]["body"] in plan["prices"]


async def test_its_paths_list_and_sum_the_usage_of_the_line(
    told: tuple[World, list[Mapping[str, Any]]],
) -> None:
    world, explanations = told
    for each in explanations:
        if each["price"]["body"]["kind"] != "usage":
            assert each["events"] is None and each["usage"] is None
            continue
        listed = (await world.send("GET", each["events"])).json()["data"]
        assert [event["id"] for event in listed] == ["e1", "e2", "e3", "e4", "e5"]
        rows = (await world.send("GET", each["usage"])).json()["data"]
        group = each["line"]["group"]
        if group is not None:
            rows = [row for row in rows if row["group"] == group]
            assert [row["quantity"] for row in rows] == [each["line"]["quantity"]]


async def test_events_are_listed_by_customer_meter_and_window(
    told: tuple[World, list[Mapping[str, Any]]],
) -> None:
    world, _ = told
    window = "from=2026-03-02T10:00:02Z&to=2026-03-02T10:00:04Z"
    listed = (await world.send("GET", f"/v1/events?meter=work&customer=acme&{window}")).json()
    assert [event["id"] for event in listed["data"]] == ["e2", "e3"]
    tokens = (await world.send("GET", "/v1/events?meter=tokens")).json()
    assert tokens["data"] == []
    missing = await world.send("GET", "/v1/events?customer=nobody")
    assert missing.status_code == 404


async def test_a_line_and_the_credit_that_cut_it_tell_the_same_charge(database: Database) -> None:
    async with open_world(database) as world:
        subscription = {"key": "s9", "customer": "acme", "plan": "pro"}
        for path, body in (
            ("/v1/subscriptions", subscription),
            ("/v1/test_clock/advance", {"to": "2026-03-10T12:00:00Z"}),
            ("/v1/subscriptions/s9/cancel", {"effective": "now"}),
            ("/v1/test_clock/advance", {"to": "2026-03-10T12:00:00Z"}),
        ):
            answer = await world.send("POST", path, json=body)
            assert answer.is_success, answer.text
        (invoice,) = (await world.send("GET", "/v1/invoices")).json()["data"]
        (note,) = (await world.send("GET", "/v1/credit_notes")).json()["data"]
        told = [
            (await world.send("GET", f"/v1/invoices/lines/{each['id']}/explain")).json()
            for each in (*invoice["lines"], *note["lines"])
        ]
        # 9 of 31 days of 49.00 are used: 14.23 of it stays.
        assert [each["trace"]["rounded"] for each in told] == ["14.23", "14.23"]
        assert [each["posted_total"] for each in told] == ["14.23", "14.23"]
