"""Verb: show what a meter counted of a customer, window by window, whole or by group."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, invalid_field, not_found
from engine.money import format_plain
from engine.period import Period
from metering.intake import micros_of
from metering.measure import measure, measure_groups
from metering.model import GroupedUsage, UsageAnswer, UsageRow, UsageWindow, Windows
from metering.windows import cut
from plans.model import Meter
from plans.seller_store import load_seller
from plans.store import find_customer, find_meter

MOST_ROWS: Final = 20_000


async def read_usage(
    *,
    connection: AsyncConnection,
    customer: str,
    meter: str,
    start: datetime,
    end: datetime,
    window: UsageWindow,
    group_by: Sequence[str] = (),
) -> UsageAnswer:
    """The quantities of [start, end), cut where the customer's days begin.

    Customer and meter are given by key or id. With `group_by` a window has a row for each
    combination of values that has events. A level is averaged over each window; where it does not
    carry over, it is built from the changes since `start`. Errors: `not_found`, `invalid_body`,
    `too_many_windows`, `too_many_groups`.
    """
    person = await find_customer(connection=connection, reference=customer)
    if person is None:
        raise not_found(noun="customer", reference=customer)
    wanted = await find_meter(connection=connection, reference=meter)
    if wanted is None:
        raise not_found(noun="meter", reference=meter)
    _refuse_unkept(wanted, group_by)
    seller = await load_seller(connection=connection)
    timezone = person.timezone or seller.timezone
    periods = cut(start=start, end=end, window=window, timezone=timezone)
    count = len(periods)
    windows = Windows(
        meter=np.full(count, wanted.number, dtype=np.int32),
        customer=np.full(count, person.number, dtype=np.int64),
        start_micros=np.array([micros_of(each.start) for each in periods], dtype=np.int64),
        end_micros=np.array([micros_of(each.end) for each in periods], dtype=np.int64),
        since_micros=np.full(count, micros_of(start), dtype=np.int64),
    )
    meters = {wanted.number: wanted}
    if group_by:
        grouped = await measure_groups(
            connection=connection,
            meters=meters,
            windows=windows,
            dimensions=[tuple(group_by)] * count,
        )
        return _by_group(grouped, periods=periods, names=group_by)
    measured = await measure(connection=connection, meters=meters, windows=windows)
    return UsageAnswer(
        data=tuple(
            _row(period, value, digits=measured.digits)
            for period, value in zip(periods, measured.mantissa.tolist(), strict=True)
        )
    )


def _refuse_unkept(meter: Meter, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name not in meter.group_by:
            detail = f"the meter {meter.key!r} does not keep {name[:100]!r}"
            raise invalid_field(pointer="/group_by", code="unknown_dimension", detail=detail)
        if name in names[:index]:
            detail = f"{name!r} is named twice"
            raise invalid_field(pointer="/group_by", code="duplicate", detail=detail)


def _by_group(
    grouped: GroupedUsage, *, periods: Sequence[Period], names: Sequence[str]
) -> UsageAnswer:
    if len(grouped.line) > MOST_ROWS:
        detail = f"an answer holds at most {MOST_ROWS} rows: ask for less, or coarser"
        raise BillingError("too_many_groups", detail)
    groups = [dict(zip(names, texts, strict=True)) for texts in grouped.dimensions]
    columns = (grouped.line.tolist(), grouped.dimension.tolist(), grouped.mantissa.tolist())
    return UsageAnswer(
        data=tuple(
            _row(periods[line], value, digits=grouped.digits, group=groups[dimension])
            for line, dimension, value in zip(*columns, strict=True)
        )
    )


def _row(
    period: Period,
    mantissa: int,
    *,
    digits: int,
    group: dict[str, str] | msgspec.UnsetType = msgspec.UNSET,
) -> UsageRow:
    return UsageRow(
        start_at=period.start,
        end_at=period.end,
        group=group,
        quantity=format_plain(mantissa, digits=digits),
    )
