"""An outside tax engine is asked before anything is locked, once, and nothing is guessed for it."""

import pytest

from invoicing.rehearse_run import rehearse_run
from plans.change_seller import change_seller
from plans.model import SellerPatch
from plans.tax_providers import TaxProviderTerms
from tests.billing_world import at, shop, violations
from tests.tax_engine import tax_engine

__all__ = ["shop"]

PARKED = (
    "SELECT c.key, p.code, p.detail FROM parked_accounts p JOIN customers c ON c.id = p.customer"
)
INVOICES = (
    "SELECT c.key, i.total_minor, i.tax_minor FROM invoices i"
    " JOIN customers c ON c.id = i.customer ORDER BY i.number"
)


@pytest.fixture
def engine():
    with tax_engine() as running:
        yield running


@pytest.fixture
async def taxed(shop, engine):
    """The shop, its seller taxed by the engine, its customers in Texas; two are subscribed."""
    shop.database.private_addresses = True
    await name_provider(shop, engine.url)
    for key in ("beta", "gamma"):
        await shop.customer(key, country="US", address={"region": "TX"})
        await shop.subscribe(key, key)
    yield shop
    shop.database.private_addresses = False


async def name_provider(shop, url, *, deadline_seconds=30):
    terms = TaxProviderTerms(url=url, deadline_seconds=deadline_seconds)
    async with shop.database.transaction(seller=shop.seller) as connection:
        await change_seller(connection=connection, patch=SellerPatch(tax_provider=terms))


async def test_documents_are_taxed_as_the_engine_says_and_it_is_asked_once(
    taxed, engine, database_url
):
    told = await rehearse_run(database=taxed.database, seller=taxed.seller, as_of=at("2026-01-01"))
    assert [(one.customer, one.total) for one in told.first] == [
        ("beta", "33.56"),
        ("gamma", "33.56"),
    ]
    assert len(engine.asked) == 2
    run = await taxed.bill(at("2026-01-01"))
    assert (run.documents, list(run.parked), len(engine.asked)) == (2, [], 2)
    assert await taxed.rows(INVOICES) == [("beta", 3356, 256), ("gamma", 3356, 256)]
    (question,) = [one for one in engine.asked if one["customer_key"] == "beta"]
    assert question["customer"]["address"]["region"] == "TX"
    assert (question["date"], question["currency"]) == ("2026-01-01", "EUR")
    assert [(one["product"], one["amount"]) for one in question["lines"]] == [("seats", "31.00")]
    owed = "SELECT dimension, sum(amount_minor) FROM postings WHERE account = 'tax_payable'"
    assert await taxed.rows(f"{owed} GROUP BY 1 ORDER BY 1") == [("Austin", -124), ("US-TX", -388)]
    assert (await taxed.bill(at("2026-01-02"))).documents == 0
    assert await violations(database_url) == []


async def test_what_is_given_back_takes_its_tax_along_and_nobody_is_asked(
    taxed, engine, database_url
):
    await taxed.bill(at("2026-01-01"))
    asked = len(engine.asked)
    await taxed.cancel("beta", now=at("2026-01-11"), effective="now")
    await taxed.bill(at("2026-01-11"))
    ((total, tax),) = await taxed.rows("SELECT total_minor, tax_minor FROM credit_notes")
    assert (abs(total), abs(tax)) == (2273, 173)  # 21 of 31 days: 21.00; 1.31 and 0.42
    assert len(engine.asked) == asked
    assert await violations(database_url) == []


@pytest.mark.parametrize(
    ("mood", "code", "words"),
    [
        ("down", "tax_provider_failed", "500"),
        ("moved", "tax_provider_failed", "302"),
        ("mute", "tax_provider_failed", "within 1 second"),
        ("wrong", "tax_answer_invalid", "9999.00"),
        ("short", "tax_answer_invalid", "every line"),
        ("garbled", "tax_answer_invalid", "cannot be read"),
        ("nul", "tax_answer_invalid", "cannot be read"),
    ],
)
async def test_who_gets_no_answer_is_parked_and_billed_when_there_is_one(
    taxed, engine, mood, code, words
):
    if mood == "mute":
        await name_provider(taxed, engine.url, deadline_seconds=1)
    engine.moods["beta"] = mood
    await taxed.bill(at("2026-01-01"))
    parked = {key: (why, detail) for key, why, detail in await taxed.rows(PARKED)}
    if mood == "mute":  # a second may be too short for everybody
        parked.pop("gamma", None)
    ((why, detail),) = (parked.pop("beta"),)
    assert (why, parked) == (code, {})
    assert words in detail
    billed = [row[0] for row in await taxed.rows(INVOICES)]
    assert billed == ["gamma"] or mood == "mute"
    await name_provider(taxed, engine.url)
    engine.moods.clear()
    engine.asked.clear()
    run = await taxed.bill(at("2026-01-02"))
    assert (run.documents, list(run.parked)) == (2 - len(billed), [])
    asked = {one["customer_key"] for one in engine.asked}
    assert asked == {"beta", "gamma"} - set(billed)


async def test_an_engine_that_is_away_is_not_waited_for_by_everybody(taxed, engine):
    for number in range(30):
        await taxed.customer(f"c{number:02}")
        await taxed.subscribe(f"c{number:02}", f"c{number:02}")
        engine.moods[f"c{number:02}"] = "down"
    engine.moods |= {"beta": "down", "gamma": "down"}
    run = await taxed.bill(at("2026-01-01"))
    assert (run.documents, len(run.parked)) == (0, 32)
    assert len(engine.asked) < 20


async def test_our_own_network_is_not_called(taxed, engine):
    taxed.database.private_addresses = False
    await taxed.bill(at("2026-01-01"))
    assert {code for _, code, _ in await taxed.rows(PARKED)} == {"tax_provider_failed"}
    await name_provider(taxed, engine.url.replace("http://127.0.0.1", "https://localhost"))
    await taxed.bill(at("2026-01-02"))
    assert {detail for *_, detail in await taxed.rows(PARKED)} >= {
        "the tax provider's address lies in a private network"
    }
    assert engine.asked == []


async def test_of_an_exempt_customer_nobody_is_asked(taxed, engine):
    await taxed.customer("free", tax_exempt="exempt")
    await taxed.subscribe("free", "free")
    await taxed.bill(at("2026-01-01"))
    assert ("free", 3100, 0) in await taxed.rows(INVOICES)
    assert {one["customer_key"] for one in engine.asked} == {"beta", "gamma"}
