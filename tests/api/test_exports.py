"""Tables as CSV: what is in them, that sums agree, that no cell is a formula."""

import csv
import io
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from invoicing.export_table import Cell, ExportKind, format_cell, guard_formula, write_csv
from tests.api.command_line import create_seller, usance
from tests.api.world import World
from tests.property.test_focus_laws import keeps_the_rules

pytestmark = pytest.mark.anyio
EVIL = '=HYPERLINK("https://evil.example","pay")'


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    text = answer.content.decode("utf-8")
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


async def export(world: World, kind: str, **query: str) -> list[dict[str, str]]:
    return rows_of(await world.send("GET", f"/v1/exports/{kind}.csv", params=query))


async def test_documents_and_lines_are_as_the_api_answers_them(billed_world: World) -> None:
    for kind in ("invoices", "credit_notes"):
        listed = (await billed_world.send("GET", f"/v1/{kind}")).json()["data"]
        known = [one for one in listed if one["status"] != "draft"]
        rows = await export(billed_world, kind)
        assert known and [row["id"] for row in rows] == [one["id"] for one in known]
        for row, one in zip(rows, known, strict=True):
            for name in set(row) & set(one):
                assert row[name] == ("" if one[name] is None else str(one[name])), name
            assert row["customer_name"] == "Acme"
            noun = kind.removesuffix("s")
            lines = await export(billed_world, f"{noun}_lines")
            mine = [line for line in lines if line[noun] == one["id"]]
            assert [line["id"] for line in mine] == [line["id"] for line in one["lines"]]
            assert [line["amount"] for line in mine] == [line["amount"] for line in one["lines"]]
            assert [line["tax"] for line in mine] == [line["tax"] for line in one["lines"]]
            assert sum(Decimal(line["amount"]) for line in mine) == Decimal(one["subtotal"])


async def test_the_journal_has_a_row_for_each_posting_and_balances(billed_world: World) -> None:
    rows = await export(billed_world, "journal")
    entries = (await billed_world.send("GET", "/v1/journal_entries")).json()["data"]
    assert Counter(row["entry"] for row in rows) == {
        entry["id"]: len(entry["postings"]) for entry in entries
    }
    numbers = {row["source_number"] for row in rows}
    assert numbers and "" not in numbers
    debit, credit = (sum(Decimal(row[side] or 0) for row in rows) for side in ("debit", "credit"))
    assert debit == credit > 0
    assert all((row["debit"] == "") != (row["credit"] == "") for row in rows)
    assert {row["month"] for row in rows} == {"2026-03"}
    assert {row["date"] for row in rows} == {"2026-03-01"}


async def test_focus_rows_come_to_the_total_of_each_document(world: World) -> None:
    rate = {"key": "ust", "percentage": "19", "country": "DE", "inclusive": True}
    new = {"key": "n1", "customer": "new", "plan": "pro", "coupons": ["spring"]}
    run = {"as_of": "2026-03-01T12:00:00Z"}
    for path, body in (
        ("/v1/tax_rates", rate),
        ("/v1/customers", {"key": "new", "name": "New", "tax_rates": ["vat"]}),
        ("/v1/subscriptions", new),
        ("/v1/invoices", {"customer": "new", "lines": [
            {"key": "fee", "quantity": "3", "unit_amount": "3.33", "tax_rates": ["ust"]}]}),
        ("/v1/billing_runs", run),
        ("/v1/subscriptions/n1/cancel", {}),
        ("/v1/billing_runs", run),
    ):  # fmt: skip
        answer = await world.send("POST", path, json=body)
        assert answer.is_success, answer.text
    expected: dict[str, Decimal] = {}
    for kind, sign in (("invoices", 1), ("credit_notes", -1)):
        for one in (await world.send("GET", f"/v1/{kind}")).json()["data"]:
            expected[one["number"]] = sign * Decimal(one["total"])
    billed: dict[str, Decimal] = {}
    rows = await export(world, "focus", customer="new")
    for row in rows:
        known = billed.get(row["InvoiceId"], Decimal(0))
        billed[row["InvoiceId"]] = known + Decimal(row["BilledCost"])
        keeps_the_rules({name: value or None for name, value in row.items()})
    assert billed == expected
    assert len(billed) >= 2
    assert {row["ChargeCategory"] for row in rows} >= {"Purchase", "Adjustment", "Tax"}
    assert not await export(world, "focus", customer="acme")


@pytest.mark.parametrize("kind", list(ExportKind))
async def test_days_are_the_sellers_and_half_open(billed_world: World, kind: str) -> None:
    everything = await export(billed_world, kind)
    assert everything
    before = await export(billed_world, kind, to="2026-03-01")
    within = await export(billed_world, kind, **{"from": "2026-03-01", "to": "2026-03-02"})
    after = await export(billed_world, kind, **{"from": "2026-03-01T12:00:01Z"})
    assert (before, within, after) == ([], everything, [])


@pytest.mark.parametrize(
    "query", [{"from": "yesterday"}, {"to": "2026-03-01T10:00"}, {"from": "0001-01-01"},
              {"from": "2026-03-02", "to": "2026-03-01"}],
)  # fmt: skip
async def test_what_is_no_stretch_is_refused_before_the_first_byte(
    world: World, query: dict[str, str]
) -> None:
    answer = await world.send("GET", "/v1/exports/journal.csv", params=query)
    assert answer.status_code in {400, 422}, answer.text


async def test_a_credit_by_hand_names_its_invoice_and_its_plan(billed_world: World) -> None:
    listed = (await billed_world.send("GET", "/v1/invoices?customer=acme")).json()["data"]
    has_fee = (one for one in listed if any(line["key"] == "base" for line in one["lines"]))
    invoice = next(one for one in has_fee if one["status"] != "draft")
    line = next(line for line in invoice["lines"] if line["key"] == "base")
    body = {"lines": [{"line": line["id"], "amount": "1.00"}], "reason": "goodwill"}
    answer = await billed_world.send(
        "POST", "/v1/credit_notes", json={"invoice": invoice["id"], **body}
    )
    assert answer.status_code == 201, answer.text
    note = answer.json()
    rows = {row["id"]: row for row in await export(billed_world, "credit_notes")}
    mine = rows[note["id"]]
    assert (mine["invoice"], mine["invoice_number"]) == (invoice["id"], invoice["number"])
    focus = await export(billed_world, "focus", customer="acme")
    (credit,) = [row for row in focus if row["InvoiceId"] == note["number"]]
    (billed,) = [row for row in focus if row["x_LineId"] == line["id"]]
    for name in ("ServiceName", "SkuId", "SkuPriceId", "ChargeFrequency", "ChargeDescription"):
        assert credit[name] == billed[name], name
    assert (credit["BilledCost"], credit["ChargeClass"]) == ("-1.00", "Correction")
    keeps_the_rules({name: value or None for name, value in credit.items()})


EVERYWHERE = f"=1;{EVIL};\n@2"


async def test_no_column_of_text_is_a_formula_wherever_a_cell_may_begin(world: World) -> None:
    customer = {"key": "evil", "name": EVERYWHERE, "emails": ["a@x.example"], "po_number": "+1;-2"}
    address = {"line1": EVERYWHERE, "city": EVERYWHERE}
    for path, body in (
        ("/v1/customers", customer | {"address": address}),
        ("/v1/invoices", {"customer": "evil", "lines": [
            {"key": "fee", "name": EVERYWHERE, "amount": "9.00"}]}),
        ("/v1/payments", {"customer": "evil", "amount": "1.00", "currency": "USD",
                          "method": "bank", "reference": EVERYWHERE}),
    ):  # fmt: skip
        answer = await world.send("POST", path, json=body)
        assert answer.status_code == 201, answer.text
    for kind in (*ExportKind, "focus"):
        answer = await world.send("GET", f"/v1/exports/{kind}.csv")
        for row in csv.reader(io.StringIO(answer.text, newline=""), strict=True):
            for cell in row:
                for piece in re.split(r"[;\t\r\n]", cell):
                    assert not re.match(r"[=+@]|-(?![\d.]+$)", piece), (kind, piece)


async def test_text_is_no_formula_and_numbers_stay_numbers(world: World) -> None:
    for body in (
        {"key": "one", "name": EVIL, "po_number": "-5"},
        {"key": "two", "name": 'Two, "quoted" 株式会社'},
    ):
        answer = await world.send("POST", "/v1/customers", json=body)
        assert answer.status_code == 201, answer.text
    sent = {"customer": "one", "lines": [{"key": "fee", "amount": "9.00"}]}
    answer = await world.send("POST", "/v1/invoices", json=sent)
    assert answer.status_code == 201, answer.text
    customers = {row["key"]: row for row in await export(world, "customers")}
    assert (customers["one"]["name"], customers["one"]["po_number"]) == (f"'{EVIL}", "'-5")
    assert customers["two"]["name"] == 'Two, "quoted" 株式会社'
    assert [row["customer_name"] for row in await export(world, "invoices")] == [f"'{EVIL}"]
    lines = await export(world, "invoice_lines")
    assert [row["amount"] for row in lines] == ["9.00"]
    assert format_cell(-500, cell=Cell.AMOUNT, currency="USD") == "-5.00"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "'=", "''@"])
def test_an_apostrophe_goes_before_what_could_be_a_formula_and_away_again(begin: str) -> None:
    guarded = guard_formula(f"{begin}1+1")
    assert guarded == f"'{begin}1+1"
    assert next(csv.reader(io.StringIO(write_csv([[guarded]]).decode(), newline=""))) == [guarded]


@pytest.mark.parametrize("text", ["", "Acme", "'s-Hertogenbosch", "1-2", "a=b", " "])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert guard_formula(text) == text


async def test_an_export_is_more_than_one_piece_of_the_cursor(world: World) -> None:
    async with world.database.transaction(seller=world.ours.number) as connection:
        await connection.exec_driver_sql(
            "INSERT INTO customers (id, key, name, emails, tax_ids, party, created_at)"
            " SELECT 'cus_' || n, 'many-' || n, 'Many', '[]', '[]', 'none', '2026-02-01'"
            " FROM generate_series(1, 2500) n"
        )
    rows = await export(world, "customers", to="2026-03-01")
    assert [row["key"] for row in rows] == [f"many-{n}" for n in range(1, 2501)]


def test_the_command_writes_a_whole_file_or_none(database_url: str, tmp_path: Path) -> None:
    create_seller(database_url=database_url, home=tmp_path)
    out = tmp_path / "journal.csv"
    refused = usance("export", "journal", "--from", "soon", "--out", str(out),
                     database_url=database_url, home=tmp_path)  # fmt: skip
    assert refused.returncode == 2
    assert "say a day" in refused.stderr
    assert not list(tmp_path.glob("journal*"))
    done = usance("export", "journal", "--from", "2026-01-01", "--out", str(out),
                  database_url=database_url, home=tmp_path)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    printed = usance("export", "journal", database_url=database_url, home=tmp_path)
    assert printed.stdout.splitlines()[0].startswith("entry,date,month,kind,source,source_number,")
    assert out.read_bytes() == printed.stdout.splitlines()[0].encode() + b"\r\n"
