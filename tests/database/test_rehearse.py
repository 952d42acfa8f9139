"""What is foretold is what is then posted, and foretelling leaves nothing."""

import contextlib
import random
from datetime import timedelta

import msgspec
import pytest

from engine.errors import BillingError
from engine.money import parse_amount
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.preview import preview
from invoicing.rehearsal import PreviewDraft, refuse_far
from invoicing.rehearse_run import rehearse_run
from invoicing.run_billing import run_billing
from invoicing.run_store import Unfinished, begin_run
from tests.billing_world import OPENED, at, open_shop, shop
from tests.property.test_billing_laws import Play

__all__ = ["shop"]

INBOX = "SELECT count(*) FROM event_inbox"


async def foretell(shop, customer, now, **fields):
    draft = msgspec.convert({"customer": customer} | fields, PreviewDraft)
    return await preview(
        database=shop.database, seller=shop.seller, draft=draft, now=now, wall_now=now
    )


async def documents(shop, customer, *, known=()):
    """(invoices, credit notes) of a customer beyond those known, without their names."""
    async with shop.database.transaction(seller=shop.seller) as connection:
        wanted = {"connection": connection, "limit": 1_000, "customer": customer}
        every = [await list_invoices(**wanted), await list_credit_notes(**wanted)]
    fresh = [[one for one in kind if one.id not in known] for kind in every]
    lines = {line.id for kind in fresh for one in kind for line in one.lines}
    return tuple(tuple(unnamed(one, lines) for one in kind) for kind in fresh)


def unnamed(document, fresh):
    lines = tuple(
        msgspec.structs.replace(line, id="", adjusts="" if line.adjusts in fresh else line.adjusts)
        for line in document.lines
    )
    return msgspec.structs.replace(document, id="", number="", lines=lines)


async def known(shop):
    return {
        name
        for (name,) in await shop.rows("SELECT id FROM invoices UNION SELECT id FROM credit_notes")
    }


@pytest.mark.parametrize("seed", range(3))
async def test_a_preview_is_what_is_then_billed(database, make_seller, seed):
    """Random lives: before every stretch of time each customer's documents in it are foretold."""
    seller = await make_seller(mode="test", clock_at=OPENED.isoformat())
    async with open_shop(database, seller) as shop:
        play, told_of = Play(shop, seed), 0
        await play.open()
        for _ in range(4):
            await play.subscribe(OPENED, at("2026-02-01"))
        while play.now < at("2026-05-01"):
            for _ in range(play.dice.randrange(4) if play.now > OPENED else 0):
                match play.dice.randrange(6):
                    case 0:
                        await play.subscribe(play.now, play.now + timedelta(days=10))
                    case 1 | 2:
                        await play.use(OPENED, play.now)
                    case 3:
                        await play.cancel()
                    case _:
                        await play.change()
            later = play.now + timedelta(days=play.dice.randrange(3, 45))
            before, rows, names = await shop.written(), await shop.one(INBOX), await known(shop)
            told = {
                customer: await foretell(shop, customer, play.now, as_of=later.isoformat())
                for customer in play.zones
            }
            assert (await shop.written(), await shop.one(INBOX)) == (before, rows)
            await shop.advance(later)
            play.now = later
            for customer, found in told.items():
                posted = await documents(shop, customer, known=names)
                assert (found.invoices, found.credit_notes) == posted
                told_of += len(found.invoices)
        assert told_of > 5


@pytest.mark.parametrize(
    "supposed",
    [
        {"change": {"quantities": {"seats": "5"}}},
        {"change": {"quantities": {"seats": "5"}, "invoice_now": True}},
        {"change": {"overrides": {"seats": {"unit_amount": "1.00"}}, "effective": "period_end"}},
        {"cancel": {"effective": "now"}},
        {"cancel": {"effective": "2026-01-20T00:00:00Z", "refund": "none"}},
        {"subscribe": {"key": "s2", "customer": "acme", "plan": "team"}},
    ],
)
async def test_what_is_supposed_is_previewed_as_if_it_were_done(shop, supposed):
    await shop.subscribe("s1", "acme", quantities={"seats": "2"})
    await shop.bill(at("2026-01-01"))
    await shop.use("acme", at("2026-01-03"), 150)
    now, names = at("2026-01-11"), await known(shop)
    before = await shop.written()
    told = await foretell(shop, "acme", now, subscription="s1", **supposed)
    assert await shop.written() == before
    ((verb, body),) = supposed.items()
    if verb == "change":
        await shop.change("s1", now=now, **body)
    elif verb == "cancel":
        await shop.cancel("s1", now=now, **body)
    else:
        await shop.subscribe("s2", "acme", now=now)
    due_at = (*told.invoices, *told.credit_notes)[0].issued_at
    await shop.bill(due_at, pending=False)
    posted = await documents(shop, "acme", known=names)
    assert (told.invoices, told.credit_notes) == posted
    assert told.invoices or told.credit_notes


async def test_a_preview_names_what_is_wrong(shop):
    await shop.customer("beta")
    await shop.subscribe("s1", "acme")
    for customer, fields, pointer in (
        ("nobody", {}, "/customer"),
        ("beta", {"subscription": "s1"}, "/subscription"),
        ("acme", {"subscription": "s9", "cancel": {}}, "/subscription"),
        ("acme", {"cancel": {}}, "/subscription"),
        ("acme", {"subscription": "s1", "change": {"plan": "none"}}, "/change/plan"),
        (
            "acme",
            {"subscribe": {"key": "x", "customer": "beta", "plan": "team"}},
            "/subscribe/customer",
        ),
        (
            "acme",
            {"subscribe": {"key": "s1", "customer": "acme", "plan": "team"}},
            "/subscribe/key",
        ),
    ):
        with pytest.raises(BillingError) as refused:
            await foretell(shop, customer, at("2026-01-05"), **fields)
        assert [error.pointer for error in refused.value.errors] == [pointer]


async def some_lives(shop):
    dice = random.Random(7)
    for number in range(12):
        key = f"c{number:02}"
        await shop.customer(key)
        await shop.subscribe(key, key, starts_at=at(f"2026-01-{number + 1:02}").isoformat())
    await shop.bill(at("2026-01-20"))
    for number in range(0, 12, 2):
        await shop.use(f"c{number:02}", at("2026-01-21"), dice.randrange(500))
    await shop.cancel("c03", now=at("2026-01-22"))
    await shop.change("c05", now=at("2026-01-22"), quantities={"seats": "3"})
    return dice


async def test_a_dry_run_tells_what_the_run_posts(shop, superuser):
    await some_lives(shop)
    spoilt = await shop.one("SELECT id FROM customers WHERE key = 'c07'")
    await superuser.execute(
        f"ALTER TABLE invoices ADD CONSTRAINT spoilt CHECK (customer <> '{spoilt}') NOT VALID"
    )
    before, inbox = await shop.written(), await shop.one(INBOX)
    told = await rehearse_run(
        database=shop.database, seller=shop.seller, as_of=at("2026-03-20"), portion=5
    )
    assert (await shop.written(), await shop.one(INBOX)) == (before, inbox)
    names = await known(shop)
    run = await shop.bill(at("2026-03-20"))
    assert (told.documents, told.lines) == (run.documents, run.lines)
    assert [one.customer for one in told.parked] == [one.customer for one in run.parked] == ["c07"]
    sums = {}
    for table in ("invoices", "credit_notes"):
        rows = await shop.rows(
            f"SELECT total_minor FROM {table} WHERE NOT id = ANY(:known)", known=list(names)
        )
        sums[table] = sum(minor for (minor,) in rows)
    (total,) = told.totals
    assert total.currency == "EUR"
    for table, minor in sums.items():
        assert parse_amount(getattr(total, table), currency="EUR") == minor > 0
    assert len(told.first) == min(run.documents, 40)
    again = await rehearse_run(database=shop.database, seller=shop.seller, as_of=at("2026-03-20"))
    assert (again.documents, again.totals) == (0, ())


async def test_a_run_of_some_customers_leaves_the_others_alone_even_when_it_died(shop):
    await some_lives(shop)
    ids = [
        await shop.one("SELECT id FROM customers WHERE key = :key", key=k) for k in ("c01", "c02")
    ]
    as_of = at("2026-02-20")
    told = await rehearse_run(
        database=shop.database, seller=shop.seller, as_of=as_of, customers=ids
    )
    async with shop.database.transaction(seller=shop.seller) as connection:
        died = Unfinished(as_of=at("2026-02-19"), customers=(ids[0],))
        await begin_run(connection=connection, run="run_died", begun=died, now=as_of)
    names = await known(shop)
    run = await run_billing(
        database=shop.database, seller=shop.seller, as_of=as_of, now=as_of, customers=ids
    )
    assert (told.documents, run.documents) == (2, 1)
    rows = await shop.rows(
        "SELECT c.key, i.issued_at FROM invoices i JOIN customers c ON c.id = i.customer"
        " WHERE NOT i.id = ANY(:known) ORDER BY 1",
        known=list(names),
    )
    assert rows == [("c01", at("2026-02-19")), ("c02", as_of)]


async def test_a_preview_looks_only_so_far_ahead_that_posting_need_not_wait_long(shop):
    await shop.subscribe("s1", "acme", quantities={"seats": "2"})
    before = await shop.written()
    with pytest.raises(BillingError) as refused:
        await foretell(shop, "acme", at("2026-01-01"), as_of="2046-01-01T00:00:00Z")
    (error,) = refused.value.errors
    assert (error.pointer, error.code) == ("/as_of", "too_far_ahead")
    assert await shop.written() == before


@pytest.mark.parametrize(("as_of", "refused"), [("2031-01-05", False), ("2031-01-06", True)])
def test_a_dry_run_looks_five_years_ahead(as_of, refused):
    with pytest.raises(BillingError) if refused else contextlib.nullcontext():
        refuse_far(as_of=at(as_of), now=at("2026-01-01"))
