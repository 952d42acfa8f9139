"""Rating and period tables: rules as rows of data, run without a database.

`*.rating.jsonl` checks amounts, `*.period.jsonl` checks boundaries. A row that needs an option
which is not built is `unsupported`: neither passed nor failed. A row that cannot be read is an
error with file, line and field.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import BillingError, ErrorKind
from engine.money import (
    DecimalText,
    Rounding,
    currency_digits,
    format_amount,
    round_ratio,
)
from engine.period import Alignment, Calendar, first_period, period_holding
from plans.prices import Interval, MatrixPrice, PercentagePrice, Price
from rating.dimensions import (
    Feed,
    dimensions_of,
    feed_of,
    group_limit_adjustment,
    group_limits,
    group_of,
    matrix_row,
)
from rating.exact import DECIMAL_DIGITS, int_array, ratio, ratio_text
from rating.matrix import rate_cells
from rating.percentage import rate_events
from rating.rate import Quantities, rate
from rating.ratios import exact_amount
from rating.tables import compile_prices

_LATER_FIELDS: Final = frozenset({"revenue"})
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


class GroupUsage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was used where the dimensions have these values; events in time order."""

    match: dict[str, str]
    quantity: DecimalText | None = None
    events: list[DecimalText] | None = None


class RatingRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of a rating table."""

    id: str
    price: dict[str, Any]
    amount: str
    source: str | None = None
    quantity: DecimalText | None = None
    events: list[DecimalText] | None = None
    groups: list[GroupUsage] | None = None
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


def _rating_result(place: str, row: RatingRow) -> RowResult:
    expected = _number(place, "amount", row.amount)
    share = _number(place, "fraction", row.fraction)
    rounded = None if row.rounded is None else _number(place, "rounded", row.rounded)
    if sum(given is not None for given in (row.quantity, row.events, row.groups)) != 1:
        raise _malformed(place, "exactly one of quantity, events and groups - at `$.quantity`")
    if later := sorted(_LATER_FIELDS & row.price.keys()):
        detail = f"not built: price field {later[0]}"
        return RowResult(id=row.id, status=RowStatus.UNSUPPORTED, detail=detail)
    try:
        price = msgspec.convert(row.price, Price)
    except msgspec.ValidationError as error:
        raise _malformed(place, f"price: {error}") from None
    lines = _lines(place, price, row)
    try:
        digits = currency_digits(row.currency)
        exact = [
            exact_amount(
                price=price,
                quantity=line.quantity,
                events=line.events,
                cells=line.cells,
                fraction=share,
                currency=row.currency,
            )
            for line in lines
        ]
        minor = _kernel_amounts(price, lines, share, row)
    except BillingError as error:
        if error.code == "amount_out_of_range":
            return RowResult(
                id=row.id, status=RowStatus.FAILED, expected=row.amount, detail=error.detail
            )
        raise _malformed(place, f"{error.code}: {error.detail}") from None
    by_ratios = [
        round_ratio(item.numerator, item.denominator, rounding=row.rounding) for item in exact
    ]
    amount = _together(price, exact, share, row.currency) / 10**digits
    total = sum(minor) + group_limit_adjustment(
        price=price,
        currency=row.currency,
        lines_minor=minor,
        rounding=row.rounding,
        fraction=share,
    )
    differs = {
        "amount": amount != expected,
        "rounded": rounded is not None and Fraction(total, 10**digits) != rounded,
        "kernel": minor != by_ratios,
    }
    faults = [name for name, differ in differs.items() if differ]
    return RowResult(
        id=row.id,
        status=RowStatus.FAILED if faults else RowStatus.PASSED,
        expected=_amounts_text(row.amount, row.rounded),
        actual=_amounts_text(
            ratio_text(amount), row.rounded and format_amount(total, currency=row.currency)
        ),
        detail=f"differs: {', '.join(faults)}" if faults else "",
    )


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """What one line of the row is rated from."""

    quantity: Fraction = Fraction(0)
    events: tuple[Fraction, ...] = ()
    cells: tuple[tuple[int, Fraction], ...] = ()


def _lines(place: str, price: Price, row: RatingRow) -> list[_Line]:
    """One line, or with `group_by` one for each group, in the order of the row."""
    if row.groups is None:
        if isinstance(price, MatrixPrice) or price.group_by:
            raise _malformed(place, "this price needs groups - at `$.groups`")
        return [
            _line(place, price, [GroupUsage(match={}, quantity=row.quantity, events=row.events)])
        ]
    if not dimensions_of(price=price):
        raise _malformed(place, "this price has no dimensions - at `$.groups`")
    if any((group.quantity is None) == (group.events is None) for group in row.groups):
        raise _malformed(place, "a group has a quantity or events - at `$.groups`")
    groups: dict[tuple[str, ...], list[GroupUsage]] = {} if price.group_by else {(): []}
    for group in row.groups:
        groups.setdefault(group_of(price=price, dimensions=group.match), []).append(group)
    return [_line(place, price, parts) for parts in groups.values()]


def _line(place: str, price: Price, parts: Sequence[GroupUsage]) -> _Line:
    """What was used in one group, put together as the model takes it."""
    values = [[ratio(text) for text in part.events or [part.quantity or "0"]] for part in parts]
    if isinstance(price, PercentagePrice):
        if any(part.events is None for part in parts):
            raise _malformed(place, "a percentage price needs events - at `$.events`")
        return _Line(events=tuple(ratio(text) for part in parts for text in part.events or ()))
    if isinstance(price, MatrixPrice):
        rows = [matrix_row(price=price, dimensions=part.match) for part in parts]
        return _Line(cells=tuple(zip(rows, map(_sum, values), strict=True)))
    return _Line(quantity=_sum(map(_sum, values)))


def _sum(values: Iterable[Fraction]) -> Fraction:
    return sum(values, start=Fraction(0))


def _together(price: Price, exact: Sequence[Fraction], share: Fraction, currency: str) -> Fraction:
    """The exact lines of all groups inside their common limits."""
    total = _sum(exact)
    if price.group_by:
        minimum, maximum = group_limits(price=price, currency=currency, fraction=share)
        total = total if minimum is None else max(total, minimum)
        total = total if maximum is None else min(total, maximum)
    return total


def _amounts_text(amount: str, rounded: str | None) -> str:
    return amount if rounded is None else f"{amount}, rounded {rounded}"


def _kernel_amounts(
    price: Price, lines: Sequence[_Line], share: Fraction, row: RatingRow
) -> list[int]:
    """Minor units of each line by the kernels that billing runs use."""
    tables = compile_prices(prices=[price], currencies=[row.currency])
    index = np.zeros(len(lines), dtype=np.int32)
    above = np.full(len(lines), share.numerator, dtype=np.int64)
    below = np.full(len(lines), share.denominator, dtype=np.int64)
    match feed_of(price=price):
        case Feed.QUANTITY:
            amounts = rate(
                tables=tables,
                price=index,
                quantity=_quantities([line.quantity for line in lines]),
                fraction_numerator=above,
                fraction_denominator=below,
                rounding=row.rounding,
            )
        case Feed.EVENTS:
            amounts = rate_events(
                tables=tables,
                price=index,
                offsets=_offsets([len(line.events) for line in lines]),
                values=_quantities([value for line in lines for value in line.events]),
                fraction_numerator=above,
                fraction_denominator=below,
                rounding=row.rounding,
            )
        case Feed.CELLS:
            cells = [cell for line in lines for cell in line.cells]
            amounts = rate_cells(
                tables=tables,
                price=index,
                offsets=_offsets([len(line.cells) for line in lines]),
                row=np.array([place for place, _ in cells], dtype=np.int32),
                quantity=_quantities([quantity for _, quantity in cells]),
                fraction_numerator=above,
                fraction_denominator=below,
                rounding=row.rounding,
            )
    return [int(amount) for amount in amounts.tolist()]


def _quantities(values: Sequence[Fraction]) -> Quantities:
    scaled = [(value * 10**DECIMAL_DIGITS).numerator for value in values]
    wide = any(abs(value) >= 2**63 for value in scaled)
    return Quantities(mantissa=int_array(scaled, wide=wide), digits=DECIMAL_DIGITS)


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *counts], dtype=np.int64)


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
