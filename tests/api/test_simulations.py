"""Simulations as routes and as a command: one answer in JSON, CSV, a table and a picture."""

import asyncio
import csv
import io
import json
import xml.etree.ElementTree as ET
from decimal import Decimal

import pytest

from api.simulations import ROUTES
from engine.db import PATIENT, open_database
from tests.api.command_line import usance
from tests.backtest_world import PLANS, tell
from tests.billing_world import open_shop

BODY = {
    "from": "2020-01-01",
    "price_lists": [{"plan": "pro", "overrides": {"base": {"flat_amount": "59.00"}}}],
}


@pytest.mark.anyio
async def test_the_answers_agree(billed_world) -> None:
    later = {"to": "2026-06-01T00:00:00Z"}
    moved = await billed_world.send("POST", "/v1/test_clock/advance", json=later)
    assert moved.is_success, moved.text
    answer = await billed_world.send("POST", "/v1/simulations", json=BODY)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "content-disposition" not in answer.headers
    found = answer.json()
    (total,) = found["totals"]
    assert Decimal(total["difference"]) > 0
    assert found["not_simulated"] == []
    table = await billed_world.send("POST", "/v1/simulations/customers.csv", json=BODY)
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text, newline=""), strict=True))
    assert (
        len(rows) == total["customers"] == total["winners"] + total["losers"] + total["unchanged"]
    )
    for name in ("billed", "waiting", "present", "simulated", "difference"):
        assert sum(Decimal(row[name]) for row in rows) == Decimal(total[name]), name
    assert sum(each["customers"] for each in total["histogram"]) == total["losers"]


@pytest.mark.anyio
async def test_bad_bodies_are_problems_before_anything_streams(billed_world) -> None:
    for route in ROUTES:
        (path,) = route.paths
        bad = BODY | {"price_lists": [{"plan": "nope", "prices": []}]}
        answer = await billed_world.send("POST", path, json=bad)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["pointer"] == "/price_lists/0/plan"
        answer = await billed_world.send("POST", path, json=BODY | {"price_lists": []})
        assert answer.status_code == 422


TOKENS = {"key": "tokens", "kind": "usage", "meter": "tokens", "model": "graduated"}
OPEN = {"up_to": None, "unit_amount": "0.5"}


def tiered(*tiers):
    return TOKENS | {"tiers": list(tiers)}


BASE = {"key": "base", "kind": "recurring", "model": "flat", "flat_amount": "1.00"}
FIRST = {"up_to": "10", "unit_amount": "1"}
FAULTS = [
    ({"prices": [BASE, tiered(FIRST, OPEN | {"unit_amount": "x"})]},
     {"/prices/1/tiers/1/unit_amount"}),
    ({"prices": [BASE, tiered(FIRST, OPEN | {"unit_amount": 0.5})]},
     {"/prices/1/tiers/1/unit_amount"}),
    ({"prices": [BASE, tiered(FIRST | {"flat_amount": "1.005"}, OPEN)]},
     {"/prices/1/tiers/0/flat_amount"}),
    ({"prices": [BASE, tiered(FIRST, FIRST, OPEN)]}, {"/prices/1/tiers/1/up_to"}),
    ({"prices": [BASE, tiered(FIRST)]}, {"/prices/1/tiers/0/up_to"}),
    ({"prices": [BASE | {"flat_amount": "1.005"}, tiered(OPEN | {"amount": "1"})]},
     {"/prices/1/tiers/0/amount"}),
    ({"prices": [BASE, tiered(OPEN) | {"meter": "none"}]}, {"/prices/1/meter"}),
    ({"prices": [BASE, BASE]}, {"/prices/1/key"}),
    ({"overrides": {"tokens": {"tiers": [FIRST, {"unit_amount": "x"}]}}},
     {"/overrides/tokens/tiers/1/unit_amount"}),
    ({"overrides": {"tokens": {"tiers": [{"unit_amount": 1, "up_two": "1"}]},
                    "base": {"flat_amount": "1.005"}}},
     {"/overrides/tokens/tiers/0/unit_amount", "/overrides/tokens/tiers/0/up_two",
      "/overrides/base/flat_amount"}),
    ({"overrides": {"base": {"amount": "1"}}}, {"/overrides/base/amount"}),
    ({"overrides": {"base": {"model": "per_unit"}}}, {"/overrides/base/unit_amount"}),
    ({"overrides": {"base": {"meter": "tokens"}}}, {"/overrides/base/meter"}),
    ({"overrides": {"seats": {"unit_amount": "1"}}}, {"/overrides/seats"}),
    ({"minimum_commitment": "1.005"}, {"/minimum_commitment"}),
    ({"minimum_commitment": "-1"}, {"/minimum_commitment"}),
    ({"with_plan": "none"}, {"/with_plan"}),
    ({"with_plan": "pro", "with_version": 9}, {"/with_version"}),
]  # fmt: skip


@pytest.mark.anyio
async def test_each_fault_names_its_own_field(billed_world) -> None:
    for fields, pointers in FAULTS:
        good = {"plan": "pro", "overrides": {"base": {"flat_amount": "2.00"}}}
        lists = [good | {"plan_version": 1}, {"plan": "pro"} | fields]
        answer = await billed_world.send(
            "POST", "/v1/simulations", json=BODY | {"price_lists": lists}
        )
        assert answer.status_code == 422, (fields, answer.text)
        told = {error["pointer"] for error in answer.json()["errors"]}
        told -= {"/price_lists/1/plan"}  # the same version twice
        assert told == {f"/price_lists/1{pointer}" for pointer in pointers}, answer.text


@pytest.fixture(scope="module")
def told(cluster, tmp_path_factory):
    """The address of a database with the story in it."""
    name = asyncio.run(cluster.make_clone())
    dsn = cluster.dsn(name)

    async def fill() -> None:
        from tests.faults import billing_kills as kills

        await kills.open_books(dsn, mode="live", timezone="Europe/Berlin")
        database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
        try:
            async with open_shop(database, 1) as shop:
                await tell(shop, PLANS, customers=25)
        finally:
            await database.close()

    asyncio.run(fill())
    yield dsn
    asyncio.run(cluster.drop(name))


PRICES = """
# tokens at one price, seats a little dearer
- plan: team
  overrides:
    seats: {unit_amount: 32.50}
    tokens: {tiers: [{unit_amount: 0.07}]}
- plan: pledge
  minimum_commitment: "310.00"
"""


def test_the_command_writes_a_table_a_file_and_a_picture(told, tmp_path) -> None:
    prices, table, chart = (tmp_path / name for name in ("prices.yaml", "out.csv", "out.svg"))
    prices.write_text(PRICES)
    common = {"database_url": told, "home": tmp_path}
    stretch = ("--from", "2025-12-01", "--to", "2026-05-01")
    done = usance(
        "backtest", str(prices), *stretch, "--csv", str(table), "--chart", str(chart), **common
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is posted" in done.stdout
    assert "EUR" in done.stdout and "JPY" in done.stdout
    rows = list(csv.DictReader(io.StringIO(table.read_text("utf-8"), newline="")))
    assert {row["currency"] for row in rows} == {"EUR", "JPY"}
    picture = ET.fromstring(chart.read_text("utf-8"))
    svg = "{http://www.w3.org/2000/svg}"
    assert picture.attrib["role"] == "img"
    assert "Customers paying less: " in (picture.findtext(f"{svg}desc") or "")
    asked = usance("backtest", str(prices), *stretch, "--json", **common)
    answer = json.loads(asked.stdout)
    euro = next(one for one in answer["totals"] if one["currency"] == "EUR")
    listed = [Decimal(row["difference"]) for row in rows if row["currency"] == "EUR"]
    assert sum(listed) == Decimal(euro["difference"]) != 0
    parts = [Decimal(euro[name]["present"]) for name in ("recurring", "usage")]
    assert sum(parts) == Decimal(euro["mrr"]["present"])
    assert abs(sum(parts) * 5 - Decimal(euro["present"])) < 100  # five months, and what is one-time


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("- plan: team\n  prices: []\n", (), "--from"),
        ("- plan: team\n  pries: []\n", ("--from", "2026-01-01"), "pries"),
        ("- plan: none\n  prices: []\n", ("--from", "2026-01-01"), "/price_lists/0/plan"),
        (
            "- plan: team\n  prices: [{key: a, kind: recurring, model: flat, flat_amount: x}]\n",
            ("--from", "2026-01-01"),
            "/price_lists/0/prices/0/flat_amount: ",
        ),
        (
            "- plan: team\n  overrides: {tokens: {tiers: [{unit_amount: -1}]}}\n",
            ("--from", "2026-01-01"),
            "/price_lists/0/overrides/tokens/tiers/0/unit_amount: ",
        ),
        ("just words", ("--from", "2026-01-01"), "holds no price lists"),
        ("- plan: [", ("--from", "2026-01-01"), "line 1"),
        ("- plan: team\n  prices: []\n", ("--from", "2026-01-01", "--to", "2999-01-01"), "/to"),
    ],
)
def test_the_command_says_what_is_wrong(told, tmp_path, content, arguments, said) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(content)
    done = usance("backtest", str(prices), *arguments, database_url=told, home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
