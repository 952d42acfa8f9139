from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.importing import Columns, Row, header_of, read_rows, read_time
from engine.errors import BillingError


def rows(path: Path, text: str, kind: str = "events", columns: Columns | None = None) -> list[Row]:
    path.write_text(text, encoding="utf-8")
    return list(read_rows(path=path, kind=kind, columns=columns))


def test_a_customer_row_names_fields_inside_fields(tmp_path: Path) -> None:
    (row,) = rows(
        tmp_path / "c.csv",
        "key,name,emails,net_terms_days,address.city,country\n"
        "acme,Acme GmbH,a@example.com;b@example.com,14,Köln,\n",
        "customers",
    )
    assert row.body == {
        "key": "acme",
        "name": "Acme GmbH",
        "emails": ["a@example.com", "b@example.com"],
        "net_terms_days": 14,
        "address": {"city": "Köln"},
    }


def test_a_subscription_row_has_instants_quantities_and_an_anchor(tmp_path: Path) -> None:
    (row,) = rows(
        tmp_path / "s.csv",
        "key,customer,plan,starts_at,anchor.day,quantities.seats\ns1,acme,pro,2026-01-01,15,5\n",
        "subscriptions",
    )
    assert row.body == {
        "key": "s1",
        "customer": "acme",
        "plan": "pro",
        "starts_at": "2026-01-01T00:00:00Z",
        "anchor": {"day": 15},
        "quantities": {"seats": "5"},
    }


def test_bad_rows_are_refused_and_their_neighbours_are_not(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "c.csv",
        "key,name,net_terms_days\nacme,Acme,soon\nbeta,Beta\ngamma,Gamma,7\n",
        "customers",
    )
    assert [row.refusal for row in found] == [
        "net_terms_days: 'soon' is not a whole number",
        "has 2 cells, the header has 3",
        "",
    ]
    assert [row.number for row in found] == [1, 2, 3]


def test_columns_of_events_are_mapped_and_the_rest_is_data(tmp_path: Path) -> None:
    (row,) = rows(
        tmp_path / "e.csv",
        "when,account,tokens,model,id\n2023-11-16 18:17:03.9799600,acme,4808,big,e1\n",
        columns=Columns(subject="account", time="when", event_type="completion"),
    )
    assert row.body == {
        "id": "e1",
        "type": "completion",
        "subject": "acme",
        "time": "2023-11-16T18:17:03.979960Z",
        "data": {"tokens": "4808", "model": "big"},
    }


def test_ids_follow_from_the_row_and_equal_rows_stay_apart(tmp_path: Path) -> None:
    text = "time,n\n2026-01-01T00:00:00Z,1\n2026-01-01T00:00:00Z,1\n2026-01-02T00:00:00Z,1\n"
    columns = Columns(event_type="job", subjects=("a", "b"))
    first = [row.body for row in rows(tmp_path / "a.csv", text, columns=columns)]
    again = [row.body for row in rows(tmp_path / "b.csv", text, columns=columns)]
    assert first == again
    ids = [body["id"] for body in first if body is not None]
    assert len(set(ids)) == 3
    assert ids[2] > ids[0]
    assert [body["subject"] for body in first if body is not None] == ["a", "b", "a"]


def test_ids_do_not_depend_on_the_order_of_columns_but_on_the_place_of_the_row(
    tmp_path: Path,
) -> None:
    columns = Columns(event_type="job", subject="who")

    def ids(name: str, text: str) -> list[str]:
        found = [row.body for row in rows(tmp_path / name, text, columns=columns)]
        return [body["id"] for body in found if body is not None]

    first = ids("a.csv", "time,who,n,m\n2026-01-01,acme,1,2\n2026-01-02,acme,3,4\n")
    turned = ids("b.csv", "m,n,who,time\n2,1,acme,2026-01-01\n4,3,acme,2026-01-02\n")
    assert first == turned
    renamed = ids("c.csv", "time,who,m,n\n2026-01-01,acme,1,2\n2026-01-02,acme,3,4\n")
    assert not set(first) & set(renamed)
    moved = ids("d.csv", "time,who,n,m\n2026-01-02,acme,3,4\n2026-01-01,acme,1,2\n")
    assert not set(first) & set(moved)


def test_ndjson_lines_are_bodies_as_they_stand(tmp_path: Path) -> None:
    found = rows(tmp_path / "e.ndjson", '{"id": "a", "data": {"n": 1}}\n\nnonsense\n[1]\n')
    assert found[0].body == {"id": "a", "data": {"n": 1}}
    assert found[1].refusal.startswith("is not JSON")
    assert found[2].refusal == "is not a JSON object"
    assert header_of(path=tmp_path / "e.ndjson") == ("line",)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("e.txt", "", "must end in"),
        ("e.csv", "", "is empty"),
        ("e.csv", "id,id\n", "two columns called id"),
        ("e.csv", "id,time\n", "no column for the type"),
        ("e.csv", "id,type\n", "no column for the subject"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(BillingError) as caught:
        rows(tmp_path / name, text)
    assert caught.value.code == "unreadable_file"
    assert says in caught.value.detail


def test_a_named_column_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BillingError, match="no column ts"):
        rows(tmp_path / "e.csv", "id,type,subject\n", columns=Columns(time="ts"))


def test_instants_are_read_to_the_microsecond() -> None:
    assert read_time("2026-01-01 01:00:00+0100", name="t") == datetime(2026, 1, 1, tzinfo=UTC)
    assert read_time("2026-01-01", name="t") == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="t: '1 May' is not an instant"):
        read_time("1 May", name="t")


def test_bytes_that_are_no_text_spoil_their_own_row_only(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(
        b"id,type,subject,time,tokens\n"
        b"1,call,acme,2026-01-10T00:00:00Z,5\n"
        b"2,call,ac\xffme,2026-01-10T00:00:00Z,5\n"
        b"3,call,acme,2026-01-10T00:00:00Z,7\n"
    )
    first, spoilt, last = read_rows(path=path, kind="events")
    assert [row.body and row.body["id"] for row in (first, last)] == ["1", "3"]
    assert spoilt.body is None
    assert spoilt.refusal == "is not UTF-8 text"
    assert spoilt.text[2] == "ac\ufffdme"
    lines = tmp_path / "e.ndjson"
    lines.write_bytes(b'{"id": "1"}\n{"id": "\xff"}\n{"id": "3"}\n')
    found = list(read_rows(path=lines, kind="events"))
    assert [row.refusal for row in found] == ["", "is not UTF-8 text", ""]
