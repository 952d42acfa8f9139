"""Subscriptions of many kinds as columns: what is measured and rated of them, and its sums. Pure.

Of n subscriptions of a kind with m charges, amounts are an n × m array.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import BillingError
from invoicing.backtest_terms import NO_WINDOW, Kind
from invoicing.rate_charges import NANO_DIGITS
from invoicing.simulation import BUCKETS
from metering.model import Measured, Windows
from rating.rate import Quantities

_Ints = NDArray[np.int64]
_Amounts = NDArray[np.int64] | NDArray[np.object_]
_WIDE: Final = 2**62


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """n subscriptions of one kind: where each stands, and its customer in the event store."""

    kind: Kind
    members: Sequence[int]
    customers: _Ints


def windows_of(groups: Sequence[Group]) -> Windows | None:
    """Everything to be measured: group by group, subscription by subscription."""
    parts = [
        group.kind.windows.of(
            rows=np.tile(np.arange(len(group.kind.windows.meter)), len(group.members)),
            customer=np.repeat(group.customers, len(group.kind.windows.meter)),
        )
        for group in groups
        if group.kind.windows is not None
    ]
    if not parts:
        return None
    return Windows(
        meter=np.concatenate([each.meter for each in parts]),
        customer=np.concatenate([each.customer for each in parts]),
        start_micros=np.concatenate([each.start_micros for each in parts]),
        end_micros=np.concatenate([each.end_micros for each in parts]),
        closes_micros=_together([each.closes_micros for each in parts]),
        since_micros=_together([each.since_micros for each in parts]),
        whole_micros=_together([each.whole_micros for each in parts]),
    )


def _together(columns: Sequence[_Ints | None]) -> _Ints:
    return np.concatenate([each for each in columns if each is not None])


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """The plain charges of all subscriptions, as the rating kernel takes them."""

    price: NDArray[np.int32]
    quantity: Quantities
    numerator: _Ints
    denominator: _Ints


def lines_of(
    *, groups: Sequence[Group], measured: Measured | None, rows: Mapping[tuple[str, str], int]
) -> Lines:
    """Group by group, subscription by subscription, charge by charge.

    `rows` gives the row of a price (id) in a currency. Errors: `quantity_out_of_range`.
    """
    digits = NANO_DIGITS if measured is None else max(NANO_DIGITS, measured.digits)
    found = None if measured is None else _scaled(measured, digits)
    values: list[NDArray[Any]] = []
    price: list[NDArray[np.int32]] = []
    shares: list[tuple[_Ints, _Ints]] = []
    begin = 0
    for group in groups:
        kind, count = group.kind, len(group.members)
        agreed = kind.agreed_nanos * 10 ** (digits - NANO_DIGITS)
        block = np.tile(_narrow(agreed), (count, 1))
        if kind.windows is not None and found is not None:
            size = count * len(kind.windows.meter)
            mine = found[begin : begin + size].reshape(count, -1)
            begin += size
            usage = np.flatnonzero(kind.window != NO_WINDOW)
            if mine.dtype != block.dtype:
                block = block.astype(object)
            block[:, usage] = mine[:, kind.window[usage]]
        values.append(block.ravel())
        listed = [rows[price_id, kind.agreement.currency] for price_id, _ in kind.prices]
        mapped = np.array(listed, dtype=np.int32)[kind.rows]
        price.append(np.tile(mapped, count))
        shares.append((np.tile(kind.numerator, count), np.tile(kind.denominator, count)))
    mantissa = np.concatenate(values)
    _refuse_too_much(mantissa, digits)
    return Lines(
        price=np.concatenate(price),
        quantity=Quantities(mantissa=mantissa, digits=digits),
        numerator=np.concatenate([above for above, _ in shares]),
        denominator=np.concatenate([below for _, below in shares]),
    )


def _scaled(measured: Measured, digits: int) -> _Amounts:
    scale = 10 ** (digits - measured.digits)
    found = measured.mantissa
    if found.dtype == np.int64 and int(np.abs(found).max(initial=0)) >= _WIDE // scale:
        found = found.astype(object)
    return found * scale if scale > 1 else found


def _narrow(values: NDArray[np.object_]) -> _Amounts:
    """In 64 bits where all of them fit."""
    wide = len(values) > 0 and max(values) >= _WIDE
    return values if wide else values.astype(np.int64)


def _refuse_too_much(mantissa: NDArray[Any], digits: int) -> None:
    if mantissa.dtype == np.int64 or not len(mantissa):
        return
    if max(abs(value) for value in mantissa.tolist()) >= 10 ** (15 + digits):
        raise BillingError("quantity_out_of_range", "the quantity is not below 10^15")


def split_amounts(*, groups: Sequence[Group], amounts: _Ints) -> list[_Ints]:
    """The amounts of `lines_of` as an array of n × m for each group; parts are still zero."""
    found: list[_Ints] = []
    begin = 0
    for group in groups:
        count, width = len(group.members), len(group.kind.plain)
        block = np.zeros((count, len(group.kind.counts)), dtype=np.int64)
        block[:, group.kind.plain] = amounts[begin : begin + count * width].reshape(count, width)
        begin += count * width
        found.append(block)
    return found


def sums_of(*, kind: Kind, amounts: _Ints) -> list[list[list[int]]]:
    """For each subscription [present, supposed], each the sums by bucket, in minor units.

    Commitments are brought down to what is missing to them.
    """
    wide: _Amounts = amounts
    largest = int(np.abs(amounts).max(initial=0))
    if largest < 0 or largest * max(amounts.shape[1], 1) >= _WIDE:
        wide = amounts.astype(object)
    if kind.pledges:
        wide = wide.copy()
    for index, counted in kind.pledges:
        wide[:, index] = np.maximum(wide[:, index] - wide[:, counted].sum(axis=1), 0)
    sides: list[NDArray[Any]] = []
    for side in (False, kind.is_touched):
        mine = kind.counts & (kind.supposed == side)
        columns = [wide[:, mine & (kind.bucket == each)].sum(axis=1) for each in range(BUCKETS)]
        sides.append(np.stack(columns, axis=1))
    return np.stack(sides, axis=1).tolist()


def line_told(*, groups: Sequence[Group], line: int) -> tuple[str, int]:
    """The key of the price and the member of a line of `lines_of`."""
    for group in groups:
        width = len(group.kind.plain)
        if line < width * len(group.members):
            price = group.kind.prices[int(group.kind.rows[line % width])][1]
            return price.key, group.members[line // width]
        line -= width * len(group.members)
    raise IndexError(line)
