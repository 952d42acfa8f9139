"""A small set of books, row by row: the least that satisfies every guard and every invariant.

One customer, two invoices, one credit note, the balance it gave, the journal, a batch of usage.
"""

import json
from typing import Any, Final

AT: Final = "2026-02-01T00:00:00+00:00"
START: Final = "2026-01-01T00:00:00+00:00"
SELLER: Final = {
    "legal_name": "Nordwind GmbH",
    "mode": "live",
    "country": "DE",
    "currency": "EUR",
    "timezone": "UTC",
    "tax_ids": [],
    "series": "INV",
    "rounding": "half_up",
    "proration": "second",
    "last_day": "exclude",
    "net_terms_days": 30,
    "party": "party_s",
    "created_at": START,
}
Row = dict[str, object]
LINES: Final = {-10_000: "li_1", -1_700: "li_2", -3_000: "li_3", 800: "li_4"}
_EARNED: Final = (("contract_balance", -10_000), ("contract_balance", -1_700))
FIRST: Final = (("accounts_receivable", 11_900), *_EARNED, ("tax_payable", -200))


async def insert(raw: Any, table: str, *rows: Row) -> None:
    """Insert rows of the same columns in one statement; everything else takes its default."""
    columns = ", ".join(rows[0])
    await raw.execute(
        f"INSERT INTO {table} ({columns})"
        f" SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, $1::jsonb)",
        json.dumps(rows),
    )


async def create_seller(raw: Any, *, id: str, **fields: object) -> int:
    """Make a seller through the database's own function and give its number."""
    body = json.dumps(SELLER | {"id": id} | fields)
    return int(await raw.fetchval("SELECT create_seller($1::jsonb)", body))


def invoice(sequence: int, **fields: object) -> Row:
    """An open invoice of acme over 100.00."""
    return {
        "id": f"inv_{sequence}",
        "series": "INV",
        "sequence": sequence,
        "number": f"INV-{sequence:06}",
        "customer": "cus_a",
        "currency": "EUR",
        "status": "open",
        "billed_at": AT,
        "issued_at": AT,
        "due_at": AT,
        "subtotal_minor": 10_000,
        "total_minor": 10_000,
        "balance_applied_minor": 0,
        "amount_due_minor": 10_000,
        "billed_from": "party_s",
        "billed_to": "party_a",
        "run": "run_a",
    } | fields


def credit_note(sequence: int, **fields: object) -> Row:
    """A credit note over 8.00, of which 5.00 reduced an invoice."""
    return {
        "id": f"cn_{sequence}",
        "series": "INV-CN",
        "sequence": sequence,
        "number": f"INV-CN-{sequence:06}",
        "customer": "cus_a",
        "currency": "EUR",
        "status": "issued",
        "reason": "correction",
        "billed_at": AT,
        "issued_at": AT,
        "subtotal_minor": 800,
        "total_minor": 800,
        "applied_minor": 500,
        "credited_minor": 300,
        "billed_from": "party_s",
        "billed_to": "party_a",
        "run": "run_a",
    } | fields


def line(id: str, document: str, ordinal: int, **fields: object) -> Row:
    """A line of the subscription's only price."""
    return {
        "id": id,
        "document": document,
        "ordinal": ordinal,
        "subscription": "sub_a",
        "price_interval": "pri_a",
        "price_key": "seats",
        "charge_start_at": START,
        "charge_group": "",
        "sequence": 1,
        "period_start_at": START,
        "period_end_at": AT,
        "quantity": 1,
        "amount_minor": 10_000,
        "reason": "initial",
        "adjusts": None,
    } | fields


def entry(id: str, source: str, kind: str = "issued") -> Row:
    """The head of a journal entry."""
    return {
        "id": id,
        "kind": kind,
        "source": source,
        "entry_on": "2026-02-01",
        "accounting_month": "2026-02-01",
        "posted_at": AT,
    }


def postings(entry_id: str, document: str, *sides: tuple[str, int], **fields: object) -> list[Row]:
    """The postings of an entry from pairs of account and amount."""
    return [
        {
            "entry": entry_id,
            "ordinal": ordinal,
            "account": account,
            "customer": "cus_a",
            "contract": "s1" if account == "contract_balance" else "",
            "line": LINES.get(amount_minor, "") if account == "contract_balance" else "",
            "dimension": "DE" if account == "tax_payable" else "",
            "document": document,
            "currency": "EUR",
            "amount_minor": amount_minor,
        }
        | fields
        for ordinal, (account, amount_minor) in enumerate(sides, start=1)
    ]


async def write_catalogue(raw: Any) -> None:
    """The customer and what it subscribed to, for the seller the session has named."""
    named = {"name": "Acme", "created_at": START}
    await insert(raw, "parties", {"id": "party_s", "body": {}}, {"id": "party_a", "body": {}})
    await insert(raw, "logos", {"id": "logo_a", "content": "\\x89504e47"})
    customer = {"id": "cus_a", "key": "acme", "emails": [], "tax_ids": [], "party": "party_a"}
    await insert(raw, "customers", customer | named)
    meter = {"id": "mtr_a", "key": "calls", "event_type": "call", "aggregation": "count"}
    await insert(raw, "meters", meter | named)
    plan = {"id": "pln_a", "key": "team", "version": 1, "currency": "EUR", "alignment": "calendar"}
    interval = {"interval": {"unit": "month", "count": 1}}
    await insert(raw, "plans", plan | interval | named)
    price = {"id": "prc_a", "plan": "pln_a", "ordinal": 1, "key": "seats", "body": {}}
    await insert(raw, "prices", price)
    subscription = {
        "id": "sub_a",
        "key": "s1",
        "customer": "cus_a",
        "plan": "pln_a",
        "currency": "EUR",
        "timezone": "UTC",
        "starts_at": START,
        "anchor_at": START,
        "alignment": "calendar",
        "next_due_at": AT,
        "created_at": START,
    }
    await insert(raw, "subscriptions", subscription)
    on = {"subscription": "sub_a", "price": "prc_a", "number": 1, "quantity": 1, "start_at": START}
    await insert(raw, "price_intervals", {"id": "pri_a"} | on)
    asked = {"kind": "pause", "number": 1, "effective_at": START, "recorded_at": START}
    how = {"prorate": True, "invoice_now": False, "undone_at": START}
    await insert(
        raw, "subscription_changes", {"id": "chg_a", "subscription": "sub_a"} | asked | how
    )
    rate = {"id": "txr_a", "key": "vat", "percentage": 20, "inclusive": False, "country": "DE"}
    await insert(raw, "tax_rates", rate | {"created_at": START})
    coupon = {"id": "cpn_a", "key": "spring", "percent_off": 10, "duration": "forever"}
    await insert(raw, "coupons", coupon | {"prices": [], "created_at": START})
    given = {"id": "cpa_a", "coupon": "cpn_a", "subscription": "sub_a", "number": 1}
    await insert(raw, "coupon_applications", given | {"applied_at": START})
    chart = [
        ("accounts_receivable", "asset", "debit"),
        ("contract_balance", "liability", "credit"),
        ("customer_balance", "liability", "credit"),
        ("refunds_payable", "liability", "credit"),
        ("tax_payable", "liability", "credit"),
        ("cash", "asset", "debit"),
        ("unapplied_cash", "liability", "credit"),
        ("prepaid_credits", "liability", "credit"),
    ]
    names = ("code", "type", "normal_side")
    await insert(raw, "accounts", *(dict(zip(names, row, strict=True)) for row in chart))


async def write_line_parts(raw: Any) -> None:
    """What reduces and taxes the second line."""
    of_line = {"document": "inv_1", "line": "li_2"}
    lists = {"prices": [], "meters": [], "rollover_fraction": 0}
    taxed = {"ordinal": 1, "rate": "vat", "percentage": 20, "included": False}
    told = {"jurisdiction": "DE", "category": "standard", "taxable_minor": 1_700}
    await insert(raw, "line_taxes", of_line | taxed | told | {"amount_minor": 200})
    await insert(raw, "line_discounts", of_line | {"application": "cpa_a", "amount_minor": 100})
    gift = {"id": "grt_a", "key": "welcome", "customer": "cus_a", "currency": "EUR"}
    gift |= {"kind": "promotional", "amount_minor": 700, "priority": 50, "effective_at": START}
    ended = {"aged_at": START, "created_at": START, "ended_at": AT, "ended_by": "expired"}
    await insert(raw, "credit_grants", gift | ended | lists)
    moved = {"id": "cmv_a", "credit_grant": "grt_a", "kind": "expired", "amount_minor": 450}
    await insert(raw, "credit_moves", moved | {"moved_at": AT})
    kept = {"credit_grant": "grt_a", "price_interval": "pri_a", "charge_start_at": AT}
    await insert(raw, "credit_reservations", kept | {"amount_minor": 50})
    bought = {"id": "grt_b", "key": "pack", "kind": "prepaid", "amount_minor": 900}
    open_end = {"ended_at": None, "ended_by": None}
    await insert(raw, "credit_grants", gift | ended | lists | bought | open_end)
    await insert(raw, "journal_entries", entry("je_grant", "grt_b", "granted"))
    sides = (("contract_balance", 900), ("prepaid_credits", -900))
    await insert(raw, "postings", *postings("je_grant", "grt_b", *sides, contract="grt_b", line=""))
    drawn = {"credit_grant": "grt_a", "kind": "promotional", "amount_minor": 200}
    await insert(raw, "credit_draws", of_line | drawn)


async def write_documents(raw: Any) -> None:
    """Two invoices and a credit note with their lines, settlements and journal."""
    run = {"id": "run_a", "as_of": AT, "status": "finished", "started_at": AT, "finished_at": AT}
    await insert(raw, "billing_runs", run | {"documents": 3, "lines": 4})
    await insert(raw, "billing_state", {"sweeps": 0})
    issued = {"last_issued_at": AT}
    await insert(raw, "number_series", {"series": "INV", "next_sequence": 3} | issued)
    await insert(raw, "number_series", {"series": "INV-CN", "next_sequence": 2} | issued)
    # 120.00 less 1.00 of coupon and 2.00 of promotional credit, and 20 percent of 10.00: 119.00.
    reduced = {"discount_minor": 100, "promotional_minor": 200, "tax_minor": 200}
    first = invoice(1, subtotal_minor=12_000, total_minor=11_900, amount_due_minor=11_400) | reduced
    used = {"balance_applied_minor": 200, "amount_due_minor": 2_200}
    await insert(raw, "invoices", first)
    await insert(raw, "invoices", invoice(2, subtotal_minor=3_000, total_minor=3_000) | used)
    await insert(raw, "credit_notes", credit_note(1))
    back = {"sequence": 2, "amount_minor": -800, "reason": "correction", "adjusts": "li_1"}
    await insert(
        raw,
        "line_items",
        line("li_1", "inv_1", 1) | dict.fromkeys(reduced, 0),
        line("li_2", "inv_1", 2, charge_group="g", amount_minor=2_000) | reduced,
        line("li_3", "inv_2", 1, charge_start_at=AT, amount_minor=3_000)
        | dict.fromkeys(reduced, 0),
        line("li_4", "cn_1", 1) | back | dict.fromkeys(reduced, 0),
    )
    await write_line_parts(raw)
    given = {"kind": "credit_note", "credit_note": "cn_1", "settled_at": AT}
    await insert(
        raw, "settlements", {"id": "st_1", "invoice": "inv_1", "amount_minor": 500} | given
    )
    taken = {"kind": "customer_balance", "credit_note": None, "settled_at": AT}
    await insert(
        raw, "settlements", {"id": "st_2", "invoice": "inv_2", "amount_minor": 200} | taken
    )
    owed = {"customer": "cus_a", "currency": "EUR"}
    await insert(raw, "customer_balances", owed | {"amount_minor": 100})
    await write_receipts(raw, owed)
    heads = [entry("je_1", "inv_1"), entry("je_2", "inv_2"), entry("je_3", "cn_1")]
    await insert(raw, "journal_entries", *heads)
    receivable, contract, on_account = "accounts_receivable", "contract_balance", "customer_balance"
    await insert(
        raw,
        "postings",
        *postings("je_1", "inv_1", *FIRST),
        *postings(
            "je_2",
            "inv_2",
            (receivable, 3_000),
            (contract, -3_000),
            (on_account, 200),
            (receivable, -200),
        ),
        *postings("je_3", "cn_1", (contract, 800), (receivable, -500), (on_account, -300)),
    )
    documents = ("inv_1", "inv_2", "cn_1", "pay_a", "ref_a")
    sent = {"type": "document.issued", "version": 1, "occurred_at": AT}
    await insert(raw, "outbox", *({"id": f"evt_{d}", "object": d} | sent for d in documents))


async def write_receipts(raw: Any, owed: Row) -> None:
    """10.00 came in: 6.00 for the second invoice, 3.00 wait, and 1.00 of them is to go back."""
    waited = {"invoice": "inv_1", "enter_by_at": AT, "ended_at": AT, "is_entered": True}
    await insert(raw, "held_entries", waited | {"postings": postings("je_1", "inv_1", *FIRST)})
    waits = {"unapplied_minor": 300, "refunded_minor": 100, "received_at": AT}
    came = {"id": "pay_a", "amount_minor": 1_000, "method": "bank", "status": "succeeded"}
    await insert(raw, "payments", owed | came | waits)
    paid = {"id": "st_3", "invoice": "inv_2", "kind": "payment", "payment": "pay_a"}
    await insert(raw, "settlements", paid | {"amount_minor": 600, "settled_at": AT})
    back = {"id": "ref_a", "amount_minor": 100, "source": "payment", "payment": "pay_a"}
    await insert(raw, "refunds", owed | back | {"status": "pending", "created_at": AT})
    await insert(
        raw,
        "journal_entries",
        entry("je_4", "pay_a", kind="received"),
        entry("je_5", "ref_a", kind="refund_decided"),
    )
    waiting = "unapplied_cash"
    await insert(
        raw,
        "postings",
        *postings("je_4", "inv_2", ("cash", 1_000), ("accounts_receivable", -600), (waiting, -400)),
        *postings("je_5", "ref_a", (waiting, 100), ("refunds_payable", -100)),
    )


async def write_usage(raw: Any) -> None:
    """One batch of two measured events, one of them taken back."""
    await insert(raw, "event_streams", {"source": "", "form": "text"})
    stream = await raw.fetchval("SELECT max(stream) FROM event_streams")
    meter = await raw.fetchval("SELECT max(number) FROM meters")
    seen = {"batch": 1, "events": 2, "first_at": START, "last_at": START}
    batch = {"received_at": START, "meters": [meter], "payload": "\\x00", "ends": "\\x" + 16 * "0"}
    await insert(raw, "event_batches", seen | batch)
    await insert(
        raw,
        "event_keys",
        *({"stream": stream, "key": f"{n:032x}", "batch": 1, "ordinal": n} for n in range(2)),
    )
    arrays = {"customers": "\\x" + 32 * "0", "times": "\\x" + 32 * "0"}
    arrays |= {"quantities": "\\x", "unknown": "\\x"}
    await insert(
        raw, "event_measures", seen | {"meter": meter, "digits": 0, "wide": False} | arrays
    )
    folded = {"meter": meter, "level": 1, "backfill": "", "month": 672, "first_customer": 1}
    folded |= {"events": 1, "first_at": START, "last_at": START, "last_customer": 1}
    folded |= {"low_micros": 0, "high_micros": 0, "digits": 0, "wide": False}
    folded |= dict.fromkeys(("customers", "times", "batches"), "\\x" + 16 * "0")
    folded |= dict.fromkeys(("quantities", "unknown", "groups", "codes", "received"), "\\x")
    await insert(raw, "event_chunks", folded | {"positions": "\\x" + 8 * "0"})
    await insert(raw, "event_inbox", {"batch": 1, "again": False})
    late = {"id": "bkf_a", "key": "late", "status": "closed", "created_at": START}
    await insert(raw, "backfills", late | {"closed_at": START})
    await insert(raw, "backfill_batches", {"batch": 1, "backfill": "bkf_a"})
    refused = {"id": "ine_a", "status": "refused", "stream": "USAGE_EVENTS", "sequence": 1}
    refused |= {"received_at": START, "refused_at": START, "code": "x", "detail": "why"}
    refused |= {"rejected": "\\x5b5d", "content_type": "", "content_encoding": ""}
    await insert(raw, "intake_errors", refused | {"body": "\\x7b"})
    voided = {"batch": 1, "ordinal": 1}
    await insert(raw, "event_voids", voided | {"voided_at": START})
    await insert(raw, "event_void_positions", voided | {"meter": meter, "position": 1})


async def write_alerts(raw: Any) -> None:
    """An alert that told of the customer's usage once, and is to look at it again."""
    meter = await raw.fetchval("SELECT max(id) FROM meters")
    alert = {"id": "ual_a", "key": "much", "meter": meter, "group_values": {}, "percents": []}
    alert |= {"thresholds": ["2"], "time_window": "month", "since_at": START, "created_at": START}
    await insert(raw, "usage_alerts", alert)
    await insert(raw, "usage_alert_marks", {"customer": "cus_a", "first_at": START, "marks": 1})
    told = {"id": "uat_a", "alert": "ual_a", "alert_key": "much", "customer": "cus_a"}
    told |= {"meter": meter, "group_values": {}, "threshold": "2", "quantity": "2"}
    told |= {"window_start_at": START, "window_end_at": AT, "triggered_at": START}
    await insert(raw, "usage_alert_triggers", told)
    event = {"id": "evt_u", "type": "usage_alert.triggered", "object": "uat_a", "version": 1}
    await insert(raw, "outbox", event | {"occurred_at": START})


async def write_books(raw: Any, *, id: str = "sel_a") -> int:
    """Everything above for a new seller, committed together; gives the seller's number."""
    async with raw.transaction():
        seller = await create_seller(raw, id=id)
        await raw.execute("SELECT set_config('app.seller', $1, true)", str(seller))
        await write_catalogue(raw)
        await write_documents(raw)
        await write_usage(raw)
        await write_alerts(raw)
        key = {"id": "key_a", "name": "ci", "hash": f"\\x{seller:064x}", "start": "usk_live_ab"}
        await insert(raw, "api_keys", key | {"scopes": ["read"], "created_at": START})
        parked = {"run": "run_a", "customer": "cus_a", "billed_at": AT, "code": "no_price"}
        await insert(raw, "parked_accounts", parked | {"detail": "why", "parked_at": AT})
        slow = {"run": "run_a", "reason": "not_alike", "detail": "why", "times": 1}
        await insert(raw, "run_fallbacks", slow | {"customers": 2})
        reported = {"run": "run_a", "customer": "cus_a"}
        await insert(raw, "run_report_rows", reported | {"currency": "EUR"})
        document = {"document": "inv_1", "digest": "\\x" + 64 * "0"}
        await insert(raw, "run_report_documents", reported | document)
        edit = {"id": "edt_a", "customer": "cus_a", "billed_at": AT, "currency": "EUR"}
        tail = {"key": "fee", "invoice_group": "", "amount_minor": 100, "tax_rates": []}
        await insert(raw, "draft_edits", edit | tail)
        act = {"id": "aud_a", "at": AT, "actor": "key_a", "action": "draft.line_added"}
        await insert(raw, "audit_log", act | {"object": "inv_1", "reason": "why", "detail": {}})
        told = {"question_hash": "0" * 64, "url": "https://tax.example", "answered_at": AT}
        await insert(raw, "tax_answers", told | {"question": {}, "answer": {}})
        mail = {"id": "eml_a", "kind": "invoice", "customer": "cus_a", "document": "inv_1"}
        mail |= {"cause": "inv_1", "locale": "en", "subject": "Invoice", "recipients": []}
        await insert(raw, "emails", mail | {"status": "queued", "created_at": AT, "attempts": 0})
        await insert(raw, "email_positions", {"source": "INV", "position": 1})
        words = {"kind": "invoice", "locale": "en", "subject": "s", "text": "t"}
        await insert(raw, "email_templates", words | {"updated_at": AT})
        reply = {"key": "k", "request_hash": "\\x00", "status": 200, "media_type": "x"}
        await insert(raw, "idempotency_keys", reply | {"body": "\\x00", "created_at": AT})
    return seller
