"""Drafts are what posting makes of a due instant inside its grace; edits are facts of their own."""

from datetime import timedelta

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.drafts import DraftEdit, FinalizeDraft
from invoicing.finalize import edit_draft, finalize
from invoicing.show_drafts import show_drafts
from plans.change_seller import change_seller
from plans.model import SellerPatch
from plans.seller_directory_store import list_due_sellers
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

TOTALS = "SELECT total_minor, issued_at, billed_at FROM invoices ORDER BY number"


@pytest.fixture
async def patient(shop):
    """The shop with a grace of a day."""
    async with shop.database.transaction(seller=shop.seller) as connection:
        await change_seller(connection=connection, patch=SellerPatch(grace_hours=24))
    return shop


async def drafts(shop, now, **fields):
    async with shop.database.transaction(seller=shop.seller) as connection:
        found = await load_seller(connection=connection)
        asked = {"kind": None, "limit": 100} | fields
        return await show_drafts(connection=connection, seller=found, now=now, **asked)


async def act(shop, verb, reference, now, **body):
    async with shop.database.transaction(seller=shop.seller) as connection:
        found = await load_seller(connection=connection)
        kind, name = (DraftEdit, "edit") if verb is edit_draft else (FinalizeDraft, "draft")
        return await verb(
            connection=connection,
            seller=found,
            reference=reference,
            actor="key_a",
            now=now,
            wall_now=now,
            **{name: msgspec.convert(body, kind)},
        )


async def test_what_is_due_waits_for_its_grace_and_the_worker_with_it(patient, database_url):
    await patient.subscribe("s1", "acme")
    for as_of, posted in ((at("2026-01-01T23:00"), []), (at("2026-01-02"), [31_00])):
        run = await patient.bill(as_of)
        assert run.documents == len(posted)
        async with patient.database.transaction(seller=None) as connection:
            due = await list_due_sellers(connection=connection, now=as_of)
        assert (patient.seller in due) is False
        assert [row[0] for row in await patient.rows(TOTALS)] == posted
    async with patient.database.transaction(seller=None) as connection:
        early, late = at("2026-02-01T23:59"), at("2026-02-02")
        assert patient.seller not in await list_due_sellers(connection=connection, now=early)
        assert patient.seller in await list_due_sellers(connection=connection, now=late)
    assert await violations(database_url) == []


async def test_a_difference_that_waits_comes_on_the_draft(patient):
    await patient.subscribe("s1", "acme")
    await patient.bill(at("2026-01-02"))
    await patient.use("acme", at("2026-01-04"), 10)
    await patient.bill(at("2026-02-02"))
    await patient.use("acme", at("2026-01-05"), 10)
    (draft,) = await drafts(patient, at("2026-03-01"))
    assert [line.reason.value for line in draft.lines] == ["initial", "late_usage"]
    run = await patient.bill(at("2026-03-01T12:00"))
    assert run.documents == 0
    await patient.bill(at("2026-03-02"))
    ((total, issued_at, billed_at),) = (await patient.rows(TOTALS))[2:]
    assert (total, issued_at, billed_at) == (32_00, at("2026-03-02"), at("2026-03-01"))


async def test_pages_of_drafts_in_the_order_of_posting(patient):
    for key in ("beta", "gamma", "delta"):
        await patient.customer(key)
    for number, customer in enumerate(("gamma", "acme", "delta", "beta")):
        starts_at = (at("2026-01-01") + timedelta(hours=number // 2)).isoformat()
        await patient.subscribe(f"s{number}", customer, starts_at=starts_at)
    before, now = await patient.written(), at("2026-01-01T12:00")
    every = await drafts(patient, now)
    assert [one.customer for one in every] == ["acme", "gamma", "beta", "delta"]
    assert {(one.number, one.status.value) for one in every} == {(None, "draft")}
    first = await drafts(patient, now, limit=1)
    rest = await drafts(patient, now, after=first[0].id)
    assert [*first, *rest] == every
    assert await drafts(patient, now, reference=every[2].id) == [every[2]]
    assert await drafts(patient, now, customer="delta") == [every[3]]
    assert await drafts(patient, now, kind="cn") == []
    assert await patient.written() == before
    await patient.bill(at("2026-01-03"))
    rows = await patient.rows("SELECT id FROM invoices ORDER BY number")
    assert [name for (name,) in rows] == [one.id for one in every]


async def test_lines_by_hand_are_posted_once_and_told(patient, database_url):
    await patient.subscribe("s1", "acme")
    now = at("2026-01-01T06:00")
    (draft,) = await drafts(patient, now)
    edited = await act(
        patient, edit_draft, draft.id, now, key="x", quantity="-3", unit_amount="15", reason="why"
    )
    assert (edited.total, edited.id.partition("_")[0]) == ("14.00", "cn")
    with pytest.raises(BillingError) as refused:
        await act(patient, edit_draft, draft.id, now, line="li_none", amount="1.00", reason="x")
    assert refused.value.errors[0].pointer == "/line"
    again = await act(patient, edit_draft, edited.id, now, key="y", amount="14.00", reason="why")
    assert (again.total, again.id) == ("0.00", draft.id)
    posted = await act(patient, finalize, edited.id, now, reason="asked for")
    assert (posted.id, posted.total, posted.status.value) == (draft.id, "0.00", "paid")
    told = await patient.rows("SELECT action, reason FROM audit_log WHERE actor = 'key_a'")
    assert sorted(told) == [
        ("draft.finalized", "asked for"),
        ("draft.line_added", "why"),
        ("draft.line_added", "why"),
    ]
    assert await patient.rows("SELECT DISTINCT document FROM draft_edits") == [(draft.id,)]
    for verb, body in ((finalize, {}), (edit_draft, {"key": "z", "amount": "1", "reason": "x"})):
        with pytest.raises(BillingError) as refused:
            await act(patient, verb, draft.id, now, **body)
        assert refused.value.code == "already_issued"
    await patient.bill(at("2026-02-02"))
    assert [row[0] for row in await patient.rows(TOTALS)] == [0, 31_00]
    assert await violations(database_url) == []
