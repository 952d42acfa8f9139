"""Rating and period tables: rules as rows of data, run without a database.

`*.rating.jsonl` checks amounts, `*.period.jsonl` checks boundaries. A row that needs a model or an
option which is not built is `unsupported`: neither passed nor failed. A row that cannot be read is
an error with file, line and field.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from engine.errors import BillingError, ErrorKind
from engine.money import (
    DecimalText,
    Rounding,
    currency_digits,
    format_amount,
    parse_scaled,
    round_ratio,
)
from engine.period import Alignment, Calendar, first_period, period_holding
from plans.prices import Interval, Price
from rating.exact import FINEST_DIGITS, int_array, ratio_text
from rating.rate import Quantities, rate
from rating.ratios import exact_amount
from rating.tables import compile_prices

_LATER_MODELS: Final = frozenset(
    {"stairstep", "percentage", "graduated_percentage", "matrix", "dynamic"}
)
_LATER_FIELDS: Final = frozenset({"group_by", "revenue"})
RowType = TypeVar("RowType")

_DECIMAL: Final = re.compile(r"(-?[0-9]+)(?:\.([0-9]+))?\Z", re.ASCII)
_RATIO: Final = re.compile(r"(-?[0-9]+)/([0-9]*[1-9][0-9]*)\Z", re.ASCII)


class RowStatus(StrEnum):
    """How a row came out."""

    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what it expected and what came out, both as text; `detail` says what differs."""

    id: str
    status: RowStatus
    expected: str = ""
    actual: str = ""
    detail: str = ""


class RatingRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of a rating table."""

    id: str
    price: dict[str, Any]
    amount: str
    source: str | None = None
    quantity: DecimalText | None = None
    events: list[str] | None = None
    groups: list[dict[str, Any]] | None = None
    currency: str = "USD"
    rounding: Rounding = Rounding.HALF_UP
    rounded: str | None = None
    fraction: str = "1/1"


class PeriodRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of a period table: the first n periods from `starts_at` (default: the anchor)."""

    id: str
    interval: Interval
    anchor: datetime
    timezone: str
    periods: list[tuple[datetime, datetime]]
    source: str | None = None
    alignment: Alignment = Alignment.ANNIVERSARY
    starts_at: datetime | None = None


def run_rating_file(path: Path) -> list[RowResult]:
    """Every row of a `*.rating.jsonl`, in order; `malformed_check_file` when one cannot be read."""
    rows = list(_rows(path, RatingRow))
    _refuse_repeated_ids(path, [row.id for _, row in rows])
    return [_rating_result(f"{path}:{line}", row) for line, row in rows]


def run_period_file(path: Path) -> list[RowResult]:
    """Every row of a `*.period.jsonl`, in order; `malformed_check_file` when one cannot be read."""
    rows = list(_rows(path, PeriodRow))
    _refuse_repeated_ids(path, [row.id for _, row in rows])
    return [_period_result(f"{path}:{line}", row) for line, row in rows]


def _rows(path: Path, row_type: type[RowType]) -> Iterator[tuple[int, RowType]]:
    decoder = msgspec.json.Decoder(row_type)
    for line, text in enumerate(path.read_bytes().splitlines(), start=1):
        if text.strip():
            try:
                yield line, decoder.decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise _malformed(f"{path}:{line}", str(error)) from None


def _malformed(place: str, detail: str) -> BillingError:
    return BillingError("malformed_check_file", f"{place}: {detail}", kind=ErrorKind.MALFORMED)


def _refuse_repeated_ids(path: Path, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for row_id in ids:
        if row_id in seen:
            raise _malformed(str(path), f"two rows have the id {row_id!r} - at `$.id`")
        seen.add(row_id)


def _unsupported(row: RatingRow) -> str | None:
    """What the row needs that is not built, if anything."""
    model = row.price.get("model")
    if model in _LATER_MODELS:
        return f"model {model}"
    if row.groups is not None or "group_by" in row.price:
        return "groups"
    if row.events is not None:
        return "events"
    later = sorted(_LATER_FIELDS & row.price.keys())
    return f"price field {later[0]}" if later else None


def _rating_result(place: str, row: RatingRow) -> RowResult:
    expected = _number(place, "amount", row.amount)
    share = _number(place, "fraction", row.fraction)
    rounded = None if row.rounded is None else _number(place, "rounded", row.rounded)
    if sum(given is not None for given in (row.quantity, row.events, row.groups)) != 1:
        raise _malformed(place, "exactly one of quantity, events and groups - at `$.quantity`")
    if missing := _unsupported(row):
        return RowResult(id=row.id, status=RowStatus.UNSUPPORTED, detail=f"not built: {missing}")
    try:
        price = msgspec.convert(row.price, Price)
    except msgspec.ValidationError as error:
        raise _malformed(place, f"price: {error}") from None
    scaled = parse_scaled(row.quantity or "", digits=FINEST_DIGITS)
    try:
        digits = currency_digits(row.currency)
        exact = exact_amount(
            price=price,
            quantity=Fraction(scaled, 10**FINEST_DIGITS),
            fraction=share,
            currency=row.currency,
        )
        minor = _kernel_amount(price, scaled, share, row)
    except BillingError as error:
        if error.code == "amount_out_of_range":
            return RowResult(
                id=row.id, status=RowStatus.FAILED, expected=row.amount, detail=error.detail
            )
        raise _malformed(place, f"{error.code}: {error.detail}") from None
    amount = exact / 10**digits
    differs = {
        "amount": amount != expected,
        "rounded": rounded is not None and Fraction(minor, 10**digits) != rounded,
        "kernel": minor != round_ratio(exact.numerator, exact.denominator, rounding=row.rounding),
    }
    faults = [name for name, differ in differs.items() if differ]
    return RowResult(
        id=row.id,
        status=RowStatus.FAILED if faults else RowStatus.PASSED,
        expected=_amounts_text(row.amount, row.rounded),
        actual=_amounts_text(
            ratio_text(amount), row.rounded and format_amount(minor, currency=row.currency)
        ),
        detail=f"differs: {', '.join(faults)}" if faults else "",
    )


def _amounts_text(amount: str, rounded: str | None) -> str:
    return amount if rounded is None else f"{amount}, rounded {rounded}"


def _kernel_amount(price: Price, scaled: int, share: Fraction, row: RatingRow) -> int:
    """Minor units by the kernel that billing runs use."""
    amounts = rate(
        tables=compile_prices(prices=[price], currencies=[row.currency]),
        price=np.zeros(1, dtype=np.int32),
        quantity=Quantities(
            mantissa=int_array([scaled], wide=abs(scaled) >= 2**63), digits=FINEST_DIGITS
        ),
        fraction_numerator=np.array([share.numerator], dtype=np.int64),
        fraction_denominator=np.array([share.denominator], dtype=np.int64),
        rounding=row.rounding,
    )
    return int(amounts[0])


def _number(place: str, field: str, text: str) -> Fraction:
    """A decimal with any number of digits, or a ratio `a/b`."""
    if match := _RATIO.match(text):
        return Fraction(int(match[1]), int(match[2]))
    if _DECIMAL.match(text):
        return Fraction(text)
    raise _malformed(place, f"{text[:60]!r} is neither a decimal nor a ratio - at `$.{field}`")


def _period_result(place: str, row: PeriodRow) -> RowResult:
    starts_at = row.starts_at or row.anchor
    instants = [row.anchor, starts_at, *(instant for period in row.periods for instant in period)]
    if any(instant.tzinfo is None for instant in instants):
        raise _malformed(place, "an instant names its offset - at `$.periods`")
    if not row.periods:
        raise _malformed(place, "at least one period - at `$.periods`")
    calendar = Calendar(
        unit=row.interval.unit,
        count=row.interval.count,
        alignment=row.alignment,
        anchor_at=row.anchor,
        anchor_day=None,
        timezone=row.timezone,
    )
    try:
        actual = _first_periods(calendar, starts_at, len(row.periods))
    except BillingError as error:
        raise _malformed(place, f"{error.code}: {error.detail}") from None
    faults = [
        f"period {number}"
        for number, (got, wanted) in enumerate(zip(actual, row.periods, strict=True), start=1)
        if got != wanted
    ]
    return RowResult(
        id=row.id,
        status=RowStatus.FAILED if faults else RowStatus.PASSED,
        expected=_periods_text(row.periods),
        actual=_periods_text(actual),
        detail=f"{faults[0]} differs" if faults else "",
    )


def _first_periods(
    calendar: Calendar, starts_at: datetime, count: int
) -> list[tuple[datetime, datetime]]:
    """The first `count` periods, the first of them from `starts_at` on."""
    period = first_period(calendar=calendar, start=starts_at)
    periods = [(starts_at, period.end)]
    while len(periods) < count:
        period = period_holding(calendar=calendar, at=period.end)
        periods.append((period.start, period.end))
    return periods


def _periods_text(periods: Sequence[tuple[datetime, datetime]]) -> str:
    return ", ".join(f"{start.isoformat()} to {end.isoformat()}" for start, end in periods)
