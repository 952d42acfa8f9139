"""Verb: show what a meter counted of a customer, window by window."""

from datetime import datetime

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import not_found
from engine.money import format_plain
from metering.intake import micros_of
from metering.measure import measure
from metering.model import UsageAnswer, UsageRow, UsageWindow, Windows
from metering.windows import cut
from plans.seller_store import load_seller
from plans.store import find_customer, find_meter


async def read_usage(
    *,
    connection: AsyncConnection,
    customer: str,
    meter: str,
    start: datetime,
    end: datetime,
    window: UsageWindow,
) -> UsageAnswer:
    """The quantities of [start, end), cut where the customer's days begin.

    Customer and meter are given by key or id. Errors: `not_found`, `invalid_body`,
    `too_many_windows`.
    """
    person = await find_customer(connection=connection, reference=customer)
    if person is None:
        raise not_found(noun="customer", reference=customer)
    wanted = await find_meter(connection=connection, reference=meter)
    if wanted is None:
        raise not_found(noun="meter", reference=meter)
    seller = await load_seller(connection=connection)
    timezone = person.timezone or seller.timezone
    periods = cut(start=start, end=end, window=window, timezone=timezone)
    count = len(periods)
    measured = await measure(
        connection=connection,
        meters={wanted.number: wanted},
        windows=Windows(
            meter=np.full(count, wanted.number, dtype=np.int32),
            customer=np.full(count, person.number, dtype=np.int64),
            start_micros=np.array([micros_of(each.start) for each in periods], dtype=np.int64),
            end_micros=np.array([micros_of(each.end) for each in periods], dtype=np.int64),
        ),
    )
    return UsageAnswer(
        data=tuple(
            UsageRow(
                start_at=period.start,
                end_at=period.end,
                quantity=format_plain(int(mantissa), digits=measured.digits),
            )
            for period, mantissa in zip(periods, measured.mantissa, strict=True)
        )
    )
