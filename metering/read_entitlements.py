"""Verb: show what a customer is entitled to, and how much of it is used."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import not_found
from engine.period import Period
from metering.intake import micros_of
from metering.measure import measure
from metering.model import Windows
from plans.entitlement_store import running_grants
from plans.entitlements import (
    QUANTITY_DIGITS,
    EntitlementsAnswer,
    entitlements_of,
    metered_periods,
)
from plans.model import Meter
from plans.store import find_customer, meters_by_key


async def read_entitlements(
    *, connection: AsyncConnection, customer: str, now: datetime
) -> EntitlementsAnswer:
    """Every feature that the plans of the customer's running subscriptions name.

    The customer is given by key or id. Errors: `not_found`.
    """
    person = await find_customer(connection=connection, reference=customer)
    if person is None:
        raise not_found(noun="customer", reference=customer)
    grants = await running_grants(connection=connection, customer=person.id, now=now)
    meters = await meters_by_key(connection=connection) if grants else {}
    periods = metered_periods(grants=grants, meters=tuple(meters), now=now)
    used = await _used(connection, person.number, meters, periods)
    data = entitlements_of(grants=grants, periods=periods, used_nanos=used)
    return EntitlementsAnswer(customer=person.key, data=data)


async def _used(
    connection: AsyncConnection,
    customer: int,
    meters: Mapping[str, Meter],
    periods: Mapping[str, Period],
) -> dict[str, int]:
    """What the customer used by meter key, in 10^-9 units; finer digits are cut."""
    if not periods:
        return {}
    windows = Windows(
        meter=np.array([meters[key].number for key in periods], dtype=np.int32),
        customer=np.full(len(periods), customer, dtype=np.int64),
        start_micros=np.array([micros_of(each.start) for each in periods.values()], dtype=np.int64),
        end_micros=np.array([micros_of(each.end) for each in periods.values()], dtype=np.int64),
    )
    by_number = {meters[key].number: meters[key] for key in periods}
    measured = await measure(connection=connection, meters=by_number, windows=windows)
    up = 10 ** max(QUANTITY_DIGITS - measured.digits, 0)
    down = 10 ** max(measured.digits - QUANTITY_DIGITS, 0)
    return {
        key: value * up // down
        for key, value in zip(periods, measured.mantissa.tolist(), strict=True)
    }
