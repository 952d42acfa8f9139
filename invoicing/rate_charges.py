"""Verb: measure and rate charges. A charge of grouped usage becomes one line for each group."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError
from engine.ids import unix_micros
from engine.money import parse_scaled
from invoicing.charges import Charge
from invoicing.difference import RatedCharge, group_text
from metering.measure import measure, measure_events, measure_groups
from metering.model import EventUsage, GroupedUsage, Windows
from metering.windows import closes_at
from plans.model import Meter, Seller
from plans.prices import MatrixPrice, Price
from plans.store import meters_by_key
from rating.dimensions import Feed, dimensions_of, feed_of, group_limit_adjustment, matrix_row
from rating.matrix import rate_cells
from rating.percentage import rate_events
from rating.rate import AmountOutOfRangeError, Quantities, rate
from rating.tables import PriceTables, compile_prices

NANO_DIGITS: Final = 9
_LIMIT_NANOS: Final = 10 ** (15 + NANO_DIGITS)
_Ints = NDArray[np.int64]


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """Charges with their prices compiled once; `row` is each charge's row in `tables`."""

    charges: Sequence[Charge]
    tables: PriceTables
    row: NDArray[np.int32]
    numerator: _Ints
    denominator: _Ints


class _Lines(msgspec.Struct, frozen=True, kw_only=True):
    """n lines to rate: charge[i] and its group; what is rated lies at offsets[i]:offsets[i + 1]."""

    charge: list[int]
    group: list[str]
    offsets: list[int]


def priced_charges(charges: Sequence[Charge]) -> Priced:
    """The charges with their prices compiled, each price and currency once."""
    rows: dict[tuple[str, str], int] = {}
    prices: list[Price] = []
    currencies: list[str] = []
    index: list[int] = []
    for charge in charges:
        key = (charge.stretch.price_id, charge.agreement.currency)
        row = rows.get(key)
        if row is None:
            row = rows[key] = len(prices)
            prices.append(charge.stretch.price)
            currencies.append(charge.agreement.currency)
        index.append(row)
    return Priced(
        charges=charges,
        tables=compile_prices(prices=prices, currencies=currencies),
        row=np.array(index, dtype=np.int32),
        numerator=np.array([charge.numerator for charge in charges], dtype=np.int64),
        denominator=np.array([charge.denominator for charge in charges], dtype=np.int64),
    )


async def rate_charges(
    *, connection: AsyncConnection, seller: Seller, charges: Sequence[Charge]
) -> list[RatedCharge]:
    """What each charge owes: usage measured over its active part, seats as agreed.

    In the order of the charges; a charge with `group_by` gives a line per group that has usage,
    and one without a group for what its minimum or maximum adds; one of which nothing is left
    gives none. Amounts are rated from every
    digit measured; the quantity kept beside them has nine. Errors: `quantity_out_of_range`,
    `amount_out_of_range`, each with the price, the subscription and the period.
    """
    if not charges:
        return []
    meters = await meters_by_key(connection=connection)
    by_feed: dict[Feed | None, list[int]] = {}
    for index, charge in enumerate(charges):
        if not charge.is_gone:
            by_feed.setdefault(feed_of_charge(charge), []).append(index)
    found: list[tuple[int, RatedCharge]] = []
    for feed, chosen in by_feed.items():
        priced = priced_charges([charges[index] for index in chosen])
        if feed is None:
            rated = await _whole(connection, seller, meters, priced)
        else:
            rated = await _parts(connection, seller, meters, priced, feed)
        found += [(chosen[position], line) for position, line in rated]
    found.sort(key=lambda pair: (pair[0], pair[1].group))
    return [line for _, line in found]


def feed_of_charge(charge: Charge) -> Feed | None:
    """What the charge is rated from; None where one quantity for all of it is enough."""
    if not charge.is_usage:
        return None
    feed = feed_of(price=charge.stretch.price)
    return None if feed is Feed.QUANTITY and not charge.stretch.price.group_by else feed


async def _whole(
    connection: AsyncConnection, seller: Seller, meters: Mapping[str, Meter], priced: Priced
) -> list[tuple[int, RatedCharge]]:
    """One quantity a charge: agreed, or measured as a whole."""
    charges = priced.charges
    usage = [index for index, charge in enumerate(charges) if charge.is_usage]
    digits, measured = NANO_DIGITS, None
    if usage:
        windows = charge_windows(meters=meters, charges=[charges[index] for index in usage])
        by_number = {meter.number: meter for meter in meters.values()}
        measured = await measure(connection=connection, meters=by_number, windows=windows)
        digits = max(digits, measured.digits)
    agreed = {charge.stretch.quantity for charge in charges}
    scaled = {quantity: parse_scaled(quantity, digits=digits) for quantity in agreed}
    values = [scaled[charge.stretch.quantity] for charge in charges]
    if measured is not None:
        scale = 10 ** (digits - measured.digits)
        for index, value in zip(usage, measured.mantissa.tolist(), strict=True):
            values[index] = value * scale
    totals = [_nanos(charge, value, digits) for charge, value in zip(charges, values, strict=True)]
    try:
        amounts = rate(
            tables=priced.tables,
            price=priced.row,
            quantity=_quantities(values, digits),
            fraction_numerator=priced.numerator,
            fraction_denominator=priced.denominator,
            rounding=seller.rounding,
        )
    except AmountOutOfRangeError as error:
        raise _amount_beyond(charges[error.line]) from None
    return [
        (index, RatedCharge(charge=charge, quantity_nanos=total, amount_minor=amount))
        for index, (charge, total, amount) in enumerate(
            zip(charges, totals, amounts.tolist(), strict=True)
        )
    ]


async def _parts(
    connection: AsyncConnection,
    seller: Seller,
    meters: Mapping[str, Meter],
    priced: Priced,
    feed: Feed,
) -> list[tuple[int, RatedCharge]]:
    """Usage kept apart by dimensions or by event, gathered into a line per group."""
    charges = priced.charges
    names = [dimensions_of(price=charge.stretch.price) for charge in charges]
    windows = charge_windows(meters=meters, charges=charges)
    by_number = {meter.number: meter for meter in meters.values()}
    usage: GroupedUsage | EventUsage
    if feed is Feed.EVENTS:
        usage = await measure_events(
            connection=connection, meters=by_number, windows=windows, dimensions=names
        )
        starts = usage.offsets.tolist()
    else:
        usage = await measure_groups(
            connection=connection, meters=by_number, windows=windows, dimensions=names
        )
        starts = list(range(len(usage.line) + 1))
    lines = _gather(charges, usage, starts)
    totals = _totals(charges, lines, usage)
    try:
        amounts = _amounts(seller, priced, feed, lines, usage)
    except AmountOutOfRangeError as error:
        raise _amount_beyond(charges[lines.charge[error.line]]) from None
    return _rated(seller, priced, lines, totals, amounts)


def _totals(
    charges: Sequence[Charge], lines: _Lines, usage: GroupedUsage | EventUsage
) -> list[int]:
    """What each line measured, in 10^-9 units."""
    values, digits = usage.mantissa.tolist(), usage.digits
    totals: list[int] = []
    for position, index in enumerate(lines.charge):
        total = sum(values[lines.offsets[position] : lines.offsets[position + 1]])
        totals.append(_nanos(charges[index], total, digits))
    return totals


def _nanos(charge: Charge, total: int, digits: int) -> int:
    """A quantity in whole 10^-9 units, which lies below 10^15 on either side of zero."""
    nanos = total * 10**NANO_DIGITS // 10**digits
    if abs(nanos) >= _LIMIT_NANOS:
        message = f"{_name_of(charge)}: the quantity is not below 10^15"
        raise BillingError("quantity_out_of_range", message)
    return nanos


def _amount_beyond(charge: Charge) -> BillingError:
    message = f"{_name_of(charge)}: the amount is beyond what minor units can hold"
    return BillingError("amount_out_of_range", message)


def _name_of(charge: Charge) -> str:
    """The price, the subscription and the period, as an operator looks them up."""
    price, subscription = charge.stretch.price.key, charge.agreement.key
    start, end = (
        at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        for at in (charge.period.start, charge.period.end)
    )
    return f"price {price!r} of subscription {subscription!r}, {start} to {end}"


def _gather(
    charges: Sequence[Charge], usage: GroupedUsage | EventUsage, starts: Sequence[int]
) -> _Lines:
    """Neighbouring rows of one charge and group are one line; an ungrouped charge has one always.

    Rows come sorted by charge, then by values, and the values of `group_by` stand first.
    """
    lines = _Lines(charge=[], group=[], offsets=[])
    row, rows = 0, usage.line.tolist()
    kinds = usage.dimension.tolist()
    for index, charge in enumerate(charges):
        grouped = charge.stretch.price.group_by
        opened: str | None = None
        if not grouped:
            opened = ""
            _open(lines, index, "", starts[row])
        while row < len(rows) and rows[row] == index:
            group = group_text(names=grouped, values=usage.dimensions[kinds[row]])
            if group != opened:
                opened = group
                _open(lines, index, group, starts[row])
            row += 1
    lines.offsets.append(starts[row])
    return lines


def _open(lines: _Lines, charge: int, group: str, offset: int) -> None:
    lines.charge.append(charge)
    lines.group.append(group)
    lines.offsets.append(offset)


def _amounts(
    seller: Seller,
    priced: Priced,
    feed: Feed,
    lines: _Lines,
    usage: GroupedUsage | EventUsage,
) -> list[int]:
    """Minor units of each line, by the function that its feed asks for."""
    chosen = np.array(lines.charge, dtype=np.int64)
    price = priced.row[chosen]
    numerator, denominator = priced.numerator[chosen], priced.denominator[chosen]
    quantity = Quantities(mantissa=usage.mantissa, digits=usage.digits)
    offsets = np.array(lines.offsets, dtype=np.int64)
    if feed is Feed.QUANTITY:
        return rate(
            tables=priced.tables,
            price=price,
            quantity=quantity,
            fraction_numerator=numerator,
            fraction_denominator=denominator,
            rounding=seller.rounding,
        ).tolist()
    if feed is Feed.EVENTS:
        return rate_events(
            tables=priced.tables,
            price=price,
            offsets=offsets,
            values=quantity,
            rounding=seller.rounding,
            fraction_numerator=numerator,
            fraction_denominator=denominator,
        ).tolist()
    return rate_cells(
        tables=priced.tables,
        price=price,
        offsets=offsets,
        row=_cells(priced, usage),
        quantity=quantity,
        rounding=seller.rounding,
        fraction_numerator=numerator,
        fraction_denominator=denominator,
    ).tolist()


def _cells(priced: Priced, usage: GroupedUsage | EventUsage) -> NDArray[np.int32]:
    """The matrix row that each measured combination is priced by."""
    known: dict[tuple[int, int], int] = {}
    cells: list[int] = []
    for charge, kind in zip(usage.line.tolist(), usage.dimension.tolist(), strict=True):
        key = (int(priced.row[charge]), kind)
        if key not in known:
            price = priced.charges[charge].stretch.price
            assert isinstance(price, MatrixPrice), "only matrix prices have cells"
            named = dict(zip(dimensions_of(price=price), usage.dimensions[kind], strict=True))
            known[key] = matrix_row(price=price, dimensions=named)
        cells.append(known[key])
    return np.array(cells, dtype=np.int32)


def _rated(
    seller: Seller,
    priced: Priced,
    lines: _Lines,
    totals: Sequence[int],
    amounts: Sequence[int],
) -> list[tuple[int, RatedCharge]]:
    """The lines with their quantities, and for grouped prices what a limit over them adds."""
    found: list[tuple[int, RatedCharge]] = []
    sums: dict[int, list[int]] = {
        index: [] for index, charge in enumerate(priced.charges) if charge.stretch.price.group_by
    }
    for position, (index, group) in enumerate(zip(lines.charge, lines.group, strict=True)):
        line = RatedCharge(
            charge=priced.charges[index],
            group=group,
            quantity_nanos=totals[position],
            amount_minor=amounts[position],
        )
        found.append((index, line))
        if index in sums:
            sums[index].append(line.amount_minor)
    for index, amounts_minor in sums.items():
        charge = priced.charges[index]
        added = group_limit_adjustment(
            price=charge.stretch.price,
            currency=charge.agreement.currency,
            lines_minor=amounts_minor,
            rounding=seller.rounding,
            fraction=Fraction(charge.numerator, charge.denominator),
        )
        if added:
            found.append((index, RatedCharge(charge=charge, quantity_nanos=0, amount_minor=added)))
    return found


def charge_windows(*, meters: Mapping[str, Meter], charges: Sequence[Charge]) -> Windows:
    """What the meters of usage charges are asked for: their customers and active parts."""
    numbers: list[int] = []
    for charge in charges:
        key = charge.stretch.price.meter
        assert key is not None, "a usage price names its meter"
        numbers.append(meters[key].number)
    return Windows(
        meter=np.array(numbers, dtype=np.int32),
        customer=np.array([c.agreement.customer_number for c in charges], dtype=np.int64),
        start_micros=np.array([unix_micros(c.active.start) for c in charges], dtype=np.int64),
        end_micros=np.array([unix_micros(c.active.end) for c in charges], dtype=np.int64),
        closes_micros=np.array([unix_micros(closes_at_of(c)) for c in charges], dtype=np.int64),
        since_micros=np.array([unix_micros(c.period.start) for c in charges], dtype=np.int64),
        whole_micros=np.array(
            [unix_micros(c.period.end) - unix_micros(c.period.start) for c in charges],
            dtype=np.int64,
        ),
    )


def closes_at_of(charge: Charge) -> datetime:
    """From when on usage of the charge is late."""
    stretch = charge.stretch
    asked_at = charge.agreement.cancelled_at if stretch.end_is_cancellation else stretch.closed_at
    return closes_at(
        active_end=charge.active.end, period_end=charge.period.end, cancelled_at=asked_at
    )


def _quantities(values: Sequence[int], digits: int) -> Quantities:
    """As int64 where they fit, in whole units where all are whole."""
    unit = 10**digits
    if all(value % unit == 0 for value in values):
        values, digits = [value // unit for value in values], 0
    try:
        return Quantities(mantissa=np.array(values, dtype=np.int64), digits=digits)
    except OverflowError:
        return Quantities(mantissa=np.array(values, dtype=object), digits=digits)
