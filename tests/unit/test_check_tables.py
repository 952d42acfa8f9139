import json
from pathlib import Path

import pytest

from api.check_tables import RowStatus, run_period_file, run_rating_file
from engine.errors import BillingError

TABLES = Path(__file__).parents[1] / "scenarios"
PRICE = {"key": "p", "kind": "usage", "model": "per_unit", "unit_amount": "0.1"}
ROW = {"id": "a", "price": PRICE, "quantity": "3", "amount": "0.3"}
MONTHS = {
    "id": "m",
    "interval": {"unit": "month", "count": 1},
    "anchor": "2026-01-31T00:00:00Z",
    "timezone": "UTC",
    "periods": [["2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"]],
}


def table(folder: Path, *rows, name="t.rating.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.rating.jsonl")), ids=lambda p: p.name)
def test_our_rating_tables_hold(path):
    results = run_rating_file(path)
    assert results
    assert [row for row in results if row.status is not RowStatus.PASSED] == []


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.period.jsonl")), ids=lambda p: p.name)
def test_our_period_tables_hold(path):
    results = run_period_file(path)
    assert results
    assert [row for row in results if row.status is not RowStatus.PASSED] == []


def test_a_wrong_amount_fails_with_what_came_out(tmp_path):
    wrong = ROW | {"amount": "0.31", "rounded": "0.30"}
    (result,) = run_rating_file(table(tmp_path, wrong))
    assert (result.status, result.expected, result.actual, result.detail) == (
        RowStatus.FAILED,
        "0.31, rounded 0.30",
        "0.3, rounded 0.30",
        "differs: amount",
    )


def test_the_rounded_amount_is_checked_too(tmp_path):
    (result,) = run_rating_file(table(tmp_path, ROW | {"rounded": "0.31"}))
    assert (result.status, result.detail) == (RowStatus.FAILED, "differs: rounded")


def test_an_amount_that_no_column_can_hold_fails(tmp_path):
    huge = PRICE | {"unit_amount": "100000000000000000"}
    (result,) = run_rating_file(table(tmp_path, ROW | {"price": huge, "amount": "1"}))
    assert result.status is RowStatus.FAILED
    assert "minor units" in result.detail


def test_a_ratio_is_compared_exactly(tmp_path):
    seat = PRICE | {"kind": "recurring"}
    rows = [
        ROW | {"id": text, "price": seat, "fraction": "1/7", "amount": text}
        for text in ("3/70", "0.0428571428571428571428571428")
    ]
    passed, failed = run_rating_file(table(tmp_path, *rows))
    assert (passed.status, failed.status) == (RowStatus.PASSED, RowStatus.FAILED)
    assert failed.actual == "3/70"


def test_what_is_not_built_is_neither_passed_nor_failed(tmp_path):
    later = ROW | {"price": PRICE | {"revenue": {"method": "usage"}}}
    (result,) = run_rating_file(table(tmp_path, later))
    assert result.status is RowStatus.UNSUPPORTED


GROUPED = PRICE | {"group_by": ["region"]}
SHARE = {"key": "p", "kind": "usage", "model": "percentage", "rate": "10"}


def test_groups_are_rounded_apart_and_their_limit_is_a_line_of_its_own(tmp_path):
    groups = [{"match": {"region": name}, "quantity": "0.05"} for name in ("eu", "us", "ap")]
    row = {"id": "a", "price": GROUPED, "groups": groups, "amount": "0.015", "rounded": "0.03"}
    capped = row | {
        "id": "b",
        "price": GROUPED | {"maximum_amount": "0.01"},
        "amount": "0.01",
        "rounded": "0.01",
    }
    results = run_rating_file(table(tmp_path, row, capped))
    assert [result.detail for result in results] == ["", ""]


def test_a_group_may_hold_events(tmp_path):
    groups = [{"match": {"region": name}, "events": ["1", "2"]} for name in ("eu", "us")]
    price = SHARE | {"group_by": ["region"], "free_events": 1}
    row = {"id": "a", "price": price, "groups": groups, "amount": "0.4", "rounded": "0.40"}
    (result,) = run_rating_file(table(tmp_path, row))
    assert result.status is RowStatus.PASSED


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("{", "Input data was truncated"),
        (ROW | {"amount": "1e3"}, "$.amount"),
        (ROW | {"fraction": "1/0"}, "$.fraction"),
        (ROW | {"surprise": 1}, "surprise"),
        (ROW | {"quantity": "1e3"}, "$.quantity"),
        (ROW | {"price": PRICE | {"model": "guess"}}, "guess"),
        (ROW | {"price": PRICE | {"colour": "red"}}, "colour"),
        (ROW | {"currency": "XXQ"}, "unknown_currency"),
        ({"id": "a", "price": PRICE, "amount": "1"}, "$.quantity"),
        (ROW | {"price": SHARE}, "$.events"),
        (ROW | {"price": GROUPED}, "$.groups"),
        ({"id": "a", "price": PRICE, "groups": [], "amount": "0"}, "$.groups"),
        ({"id": "a", "price": GROUPED, "groups": [{"match": {}}], "amount": "0"}, "$.groups"),
        (ROW | {"price": SHARE | {"included_quantity": "1"}}, "$.events"),
    ],
)
def test_a_malformed_row_names_file_line_and_field(tmp_path, row, field):
    with pytest.raises(BillingError) as failure:
        run_rating_file(table(tmp_path, ROW | {"id": "first"}, row))
    assert failure.value.code == "malformed_check_file"
    assert "t.rating.jsonl:2: " in failure.value.detail
    assert field in failure.value.detail


def test_two_rows_of_one_name_are_malformed(tmp_path):
    with pytest.raises(BillingError):
        run_rating_file(table(tmp_path, ROW, ROW))


def test_a_period_that_differs_is_shown(tmp_path):
    wrong = MONTHS | {"periods": [["2026-01-31T00:00:00Z", "2026-03-03T00:00:00Z"]]}
    (result,) = run_period_file(table(tmp_path, wrong, name="t.period.jsonl"))
    assert (result.status, result.detail) == (RowStatus.FAILED, "period 1 differs")
    assert "2026-02-28" in result.actual


@pytest.mark.parametrize(
    "fields", [{"timezone": "Nowhere"}, {"anchor": "2026-01-31T00:00:00"}, {"periods": []}]
)
def test_a_malformed_period_row_is_an_error(tmp_path, fields):
    with pytest.raises(BillingError) as failure:
        run_period_file(table(tmp_path, MONTHS | fields, name="t.period.jsonl"))
    assert failure.value.code == "malformed_check_file"
