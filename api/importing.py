"""Files of customers, subscriptions and events as request bodies, row by row.

A CSV row is a flat record: `address.city` and `quantities.seats` name fields inside fields, and an
empty cell is a field that is not given. An NDJSON line is a body as it stands. A row that cannot
become a body is refused with a reason and never stops its neighbours.
"""

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec

from engine.errors import BillingError, ErrorKind
from engine.ids import unix_millis

Kind = Literal["customers", "subscriptions", "events"]

_WHOLE_NUMBERS: Final = frozenset({"net_terms_days", "plan_version", "anchor.day"})
_LISTS: Final = frozenset({"emails"})
_INTEGER: Final = re.compile(r"^-?\d{1,9}\Z", re.ASCII)
_TIME: Final = re.compile(
    r"^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,12}))?\s*([Zz]|[+-]\d{2}:?\d{2})?\Z",
    re.ASCII,
)
KEEP_BYTES: Final = "surrogateescape"
"""How bytes that are no UTF-8 are read, so that they spoil their own row and no other."""
LONGEST_LINE_BYTES: Final = 1_000_000
NOT_UTF_8: Final = "is not UTF-8 text"
_DATE: Final = re.compile(r"^\d{4}-\d{2}-\d{2}\Z", re.ASCII)


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns of a CSV of events mean what. `None` takes the field's own name if there."""

    subject: str | None = None
    time: str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    values: tuple[str, ...] = ()
    """Columns that become `data`; empty: every column that means nothing else."""
    event_type: str | None = None
    """The type of every row, instead of a column."""
    subjects: tuple[str, ...] = ()
    """Customers among whom the rows are dealt in turn, instead of a column."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a file: its number, from 1, its text, and its body or why it has none.

    Instead of a body it may have the `line` as it stands, for whoever takes lines.
    """

    number: int
    text: tuple[str, ...]
    body: Mapping[str, Any] | None = None
    line: bytes | None = None
    refusal: str = ""


def read_rows(
    *, path: Path, kind: Kind, columns: Columns | None = None, as_lines: bool = False
) -> Iterator[Row]:
    """The rows of a `.csv` or of an NDJSON file, whose lines are left as they are for `as_lines`.

    Raises `unreadable_file` for anything else.
    """
    columns = columns or Columns()
    ending = path.suffix.lower()
    try:
        if ending == ".csv":
            yield from _csv_rows(path=path, kind=kind, columns=columns)
        elif ending in {".ndjson", ".jsonl"}:
            yield from _lines(path=path) if as_lines else _json_rows(path=path)
        else:
            raise unreadable(path, "must end in .csv, .ndjson or .jsonl")
    except OSError as error:
        raise unreadable(path, error.strerror or "cannot be opened") from error
    except csv.Error as error:
        raise unreadable(path, f"is not text in rows: {error}") from error


def header_of(*, path: Path) -> tuple[str, ...]:
    """The column names of a CSV; `("line",)` for NDJSON, whose refusals carry the whole line."""
    if path.suffix.lower() != ".csv":
        return ("line",)
    with path.open(encoding="utf-8-sig", errors=KEEP_BYTES, newline="") as file:
        return _shown(next(csv.reader(file), ()))


def unreadable(path: Path, detail: str) -> BillingError:
    """A file that cannot be imported at all."""
    return BillingError("unreadable_file", f"{path}: {detail}", kind=ErrorKind.MALFORMED)


def _shown(cells: Sequence[str]) -> tuple[str, ...]:
    """The cells as text that can be written, a mark in place of each byte that is no UTF-8."""
    return tuple(cell.encode(errors=KEEP_BYTES).decode(errors="replace") for cell in cells)


def _csv_rows(*, path: Path, kind: Kind, columns: Columns) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors=KEEP_BYTES, newline="") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            raise unreadable(path, "is empty")
        twice = {name for name in header if header.count(name) > 1}
        if _shown(header) != tuple(header):
            raise unreadable(path, "has a header that is not UTF-8 text")
        if twice:
            raise unreadable(path, f"has two columns called {', '.join(sorted(twice))}")
        if kind == "events":
            _check_columns(path=path, header=header, columns=columns)
        for number, cells in enumerate(reader, start=1):
            text = tuple(cells)
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                refusal = f"has {len(cells)} cells, the header has {len(header)}"
                yield Row(number=number, text=_shown(text), refusal=refusal)
                continue
            if not "".join(cells).isascii() and _shown(text) != text:
                yield Row(number=number, text=_shown(text), refusal=NOT_UTF_8)
                continue
            fields = dict(zip(header, cells, strict=True))
            try:
                body = (
                    event_body(fields=fields, columns=columns, number=number)
                    if kind == "events"
                    else flat_body(fields=fields)
                )
            except ValueError as error:
                yield Row(number=number, text=text, refusal=str(error))
            else:
                yield Row(number=number, text=text, body=body)


def _check_columns(*, path: Path, header: Sequence[str], columns: Columns) -> None:
    named = [columns.subject, columns.time, columns.id, columns.source, columns.type]
    missing = [name for name in (*named, *columns.values) if name and name not in header]
    if missing:
        shown = ", ".join(header)
        raise unreadable(path, f"has no column {', '.join(missing)}; it has {shown}")
    if not columns.event_type and (columns.type or "type") not in header:
        raise unreadable(path, "has no column for the type: name one, or a type for all rows")
    if not columns.subjects and (columns.subject or "subject") not in header:
        raise unreadable(path, "has no column for the subject: name the one with the customer")


def _lines(*, path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            stripped = line.strip()
            if not stripped:
                continue
            text = (stripped.decode(errors="replace"),)
            try:
                stripped.decode()
            except UnicodeDecodeError:
                yield Row(number=number, text=text, refusal=NOT_UTF_8)
                continue
            if len(stripped) > LONGEST_LINE_BYTES:
                refusal = f"is longer than {LONGEST_LINE_BYTES} bytes"
                yield Row(number=number, text=text, refusal=refusal)
                continue
            yield Row(number=number, text=text, line=stripped)


def _json_rows(*, path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors=KEEP_BYTES) as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if not text:
                continue
            if _shown((text,)) != (text,):
                yield Row(number=number, text=_shown((text,)), refusal=NOT_UTF_8)
                continue
            try:
                body = msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                yield Row(number=number, text=(text,), refusal=f"is not JSON: {error}")
                continue
            if isinstance(body, dict):
                yield Row(number=number, text=(text,), body=cast("dict[str, Any]", body))
            else:
                yield Row(number=number, text=(text,), refusal="is not a JSON object")


def flat_body(*, fields: Mapping[str, str]) -> dict[str, Any]:
    """A customer or a subscription from a flat record. Raises ValueError with the reason."""
    body: dict[str, Any] = {}
    for name, cell in fields.items():
        text = cell.strip()
        if not text:
            continue
        value: Any = text
        if name in _WHOLE_NUMBERS:
            if not _INTEGER.match(text):
                raise ValueError(f"{name}: {text!r} is not a whole number")
            value = int(text)
        elif name in _LISTS:
            value = [part.strip() for part in re.split(r"[;,]", text) if part.strip()]
        elif name.endswith("_at"):
            value = written(read_time(text, name=name))
        place = body
        *parents, leaf = name.split(".")
        for parent in parents:
            inside = place.setdefault(parent, {})
            if not isinstance(inside, dict):
                raise ValueError(f"{name}: {parent} is a field of its own")  # noqa: TRY004 the cell
            place = cast("dict[str, Any]", inside)
        place[leaf] = value
    return body


def event_body(*, fields: Mapping[str, str], columns: Columns, number: int) -> dict[str, Any]:
    """An event from a flat record. Raises ValueError with the reason.

    Without a column of ids the id follows from the row's time, its number in the file and its
    cells by the names of their columns, so the same file read again holds the same events, its
    columns in whatever order; it sorts by time, which the event store likes best.
    """
    names = {
        name: getattr(columns, name) or name
        for name in ("subject", "time", "id", "source", "type")
        if (getattr(columns, name) or name) in fields
    }
    taken = set(names.values())
    event = {
        name: fields[column].strip() for name, column in names.items() if fields[column].strip()
    }
    if columns.event_type:
        event["type"] = columns.event_type
    if columns.subjects:
        event["subject"] = columns.subjects[(number - 1) % len(columns.subjects)]
    for name in ("type", "subject"):
        if name not in event:
            raise ValueError(f"{name}: is empty")
    at = read_time(event["time"], name="time") if "time" in event else None
    if at is not None:
        event["time"] = written(at)
    if "id" not in event:
        if at is None:
            raise ValueError("id: a row needs an id or a time")
        event["id"] = derived_event_id(at=at, number=number, fields=fields)
    chosen = columns.values or tuple(name for name in fields if name not in taken)
    data = {name: fields[name].strip() for name in chosen if fields[name].strip()}
    return {**event, "data": data}


def derived_event_id(*, at: datetime, number: int, fields: Mapping[str, str]) -> str:
    """A UUID in the form of version 7: the milliseconds of `at`, then a hash of number and fields.

    The number keeps equal rows apart; a row that moves in its file is another event. The order of
    the fields does not count.
    """
    parts = [str(number).encode()]
    for name, cell in sorted(fields.items()):
        parts += (name.encode(), cell.encode())
    told = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
    digest = hashlib.blake2b(told, digest_size=10)
    bits = int.from_bytes(digest.digest(), "big")
    upper = ((unix_millis(at) & ((1 << 48) - 1)) << 16) | 0x7000 | (bits >> 68)
    lower = (0b10 << 62) | (bits & ((1 << 62) - 1))
    text = f"{(upper << 64) | lower:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def read_time(text: str, *, name: str) -> datetime:
    """An instant from ISO 8601 text; without an offset it is UTC, beyond microseconds it is cut.

    Raises ValueError naming the field.
    """
    try:
        if _DATE.match(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        match = _TIME.match(text)
        if match is None:
            raise ValueError
        day, clock, fraction, offset = match.groups()
        micros = int((fraction or "0")[:6].ljust(6, "0"))
        zone = "+00:00" if not offset or offset in "Zz" else offset
        read = datetime.fromisoformat(f"{day}T{clock}{zone}")
    except ValueError:
        raise ValueError(f"{name}: {text!r} is not an instant") from None
    return (read + timedelta(microseconds=micros)).astimezone(UTC)


def written(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.isoformat().replace("+00:00", "Z")
