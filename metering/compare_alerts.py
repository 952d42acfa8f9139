"""Verb: compare what marked customers used with the alerts on it, and tell what was reached."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import new_id
from engine.money import format_plain
from engine.period import Period
from metering import alert_store
from metering.alert_store import Marked, Trigger
from metering.alerts import AlertWindow, Step, WatchedAlert, reached, steps_of
from metering.intake import micros_of
from metering.measure import measure, measure_groups
from metering.model import AHEAD_SECONDS, OLDEST_DAYS, UsageWindow, Windows
from metering.windows import whole_windows
from plans.entitlement_store import grants_by_customer
from plans.entitlements import usage_limit_nanos, usage_period
from plans.model import Meter
from plans.store import meters_by_key

MOST: Final = 1_000
AHEAD: Final = timedelta(seconds=AHEAD_SECONDS)
OLDEST: Final = timedelta(days=OLDEST_DAYS)
_INSTANT: Final = timedelta(microseconds=1)


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity to be compared: an alert, whose usage, in which window, with what."""

    alert: WatchedAlert
    meter: Meter
    who: Marked
    window: Period
    steps: tuple[Step, ...]


async def compare_alerts(*, database: Database, seller: int, now: datetime) -> int:
    """Tell, once for each alert, customer, window and threshold; how many were told.

    What is compared is what sweeping marked. Two that compare at once tell nothing twice.
    """
    told, after = 0, ""
    while True:
        async with database.transaction(seller=seller) as connection:
            marked = await alert_store.marked_customers(
                connection=connection, limit=MOST, after=after
            )
            if not marked:
                return told
            after = marked[-1].customer
            triggers = await _compare(connection, marked, now)
            # Marks first, the outbox last: its lock is held to the end of the transaction.
            await alert_store.unmark(connection=connection, compared=marked)
            told += await alert_store.tell_triggers(
                connection=connection, triggers=triggers, now=now
            )


async def _compare(
    connection: AsyncConnection, marked: Sequence[Marked], now: datetime
) -> list[Trigger]:
    alerts = await alert_store.watched_alerts(connection=connection)
    meters = {each.id: each for each in (await meters_by_key(connection=connection)).values()}
    looks = list(_calendar_looks(alerts, meters, marked, now))
    looks += await _billing_looks(connection, alerts, meters, marked, now)
    looks = await _untold(connection, looks)
    return [
        _trigger(look, step, format_plain(mantissa, digits=digits), now)
        for look, mantissa, digits in await _measured(connection, looks)
        for step in reached(steps=look.steps, mantissa=mantissa, digits=digits)
    ]


def _concerned(alerts: Sequence[WatchedAlert], who: Marked) -> list[WatchedAlert]:
    return [each for each in alerts if each.customer in {None, who.customer}]


def _floor(alert: WatchedAlert, who: Marked, now: datetime) -> datetime:
    """From when on windows are looked at: late usage counts as long as it is let in."""
    return min(max(who.first_at, now - OLDEST, alert.since_at), now)


def _calendar_looks(
    alerts: Sequence[WatchedAlert],
    meters: Mapping[str, Meter],
    marked: Sequence[Marked],
    now: datetime,
) -> Iterator[_Look]:
    for who in marked:
        for alert in _concerned(alerts, who):
            if alert.window is AlertWindow.BILLING_PERIOD:
                continue
            for window in whole_windows(
                first=_floor(alert, who, now),
                last=now + AHEAD,
                window=UsageWindow(alert.window.value),
                timezone=who.timezone,
            ):
                steps = steps_of(alert=alert, limit_nanos=None)
                yield _Look(
                    alert=alert, meter=meters[alert.meter], who=who, window=window, steps=steps
                )


async def _billing_looks(
    connection: AsyncConnection,
    alerts: Sequence[WatchedAlert],
    meters: Mapping[str, Meter],
    marked: Sequence[Marked],
    now: datetime,
) -> list[_Look]:
    """Looks at billing periods: from the one that runs, back while usage came late, and ahead.

    Subscriptions are read once for each instant at which periods meet, for all who share it.
    """
    looks: list[_Look] = []
    asked: dict[datetime, list[tuple[Marked, WatchedAlert, datetime]]] = {now: []}
    for who in marked:
        for alert in _concerned(alerts, who):
            if alert.window is AlertWindow.BILLING_PERIOD:
                asked[now].append((who, alert, _floor(alert, who, now)))
    while asked:
        at, wanted = asked.popitem()
        if not wanted:
            continue
        grants = await grants_by_customer(
            connection=connection, customers=sorted({who.customer for who, _, _ in wanted}), now=at
        )
        for who, alert, floor in wanted:
            given = grants.get(who.customer, ())
            meter = meters[alert.meter]
            window = usage_period(grants=given, meter=meter.key, at=at)
            if window is not None:
                limit = usage_limit_nanos(grants=given, meter=meter.key, at=at)
                steps = steps_of(alert=alert, limit_nanos=limit)
                look = _Look(alert=alert, meter=meter, who=who, window=window, steps=steps)
                looks.append(look)
            for instant in _further(window, at, floor, now):
                asked.setdefault(instant, []).append((who, alert, floor))
    return looks


def _further(
    window: Period | None, at: datetime, floor: datetime, now: datetime
) -> Iterator[datetime]:
    """Where to look after the period at `at`: before it, and behind the one that runs."""
    if window is None:
        if at == now and floor < now:
            yield floor
        return
    if at <= now and floor < window.start:
        yield window.start - _INSTANT
    if now <= at and window.end <= now + AHEAD:
        yield window.end


async def _untold(connection: AsyncConnection, looks: Sequence[_Look]) -> list[_Look]:
    """What is still to be compared; a window whose steps were all told is not measured again."""
    if not looks:
        return []
    told = await alert_store.told_before(
        connection=connection,
        alerts=(look.alert.id for look in looks),
        customers=(look.who.customer for look in looks),
        start=min(look.window.start for look in looks),
    )
    left: list[_Look] = []
    for look in looks:
        place = (look.alert.id, look.who.customer, look.window.start)
        steps = tuple(step for step in look.steps if (*place, step.label) not in told)
        if steps:
            left.append(msgspec.structs.replace(look, steps=steps))
    return left


async def _measured(
    connection: AsyncConnection, looks: Sequence[_Look]
) -> list[tuple[_Look, int, int]]:
    """(look, mantissa, digits) of each."""
    plain = [look for look in looks if not look.alert.group]
    grouped = [look for look in looks if look.alert.group]
    found: list[tuple[_Look, int, int]] = []
    if plain:
        measured = await measure(
            connection=connection, meters=_meters(plain), windows=_windows(plain)
        )
        pairs = zip(plain, measured.mantissa.tolist(), strict=True)
        found += [(look, mantissa, measured.digits) for look, mantissa in pairs]
    if grouped:
        usage = await measure_groups(
            connection=connection,
            meters=_meters(grouped),
            windows=_windows(grouped),
            dimensions=[tuple(look.alert.group) for look in grouped],
        )
        columns = (usage.line.tolist(), usage.dimension.tolist(), usage.mantissa.tolist())
        for line, dimension, mantissa in zip(*columns, strict=True):
            look = grouped[line]
            if usage.dimensions[dimension] == tuple(look.alert.group.values()):
                found.append((look, mantissa, usage.digits))
    return found


def _meters(looks: Sequence[_Look]) -> dict[int, Meter]:
    return {look.meter.number: look.meter for look in looks}


def _windows(looks: Sequence[_Look]) -> Windows:
    return Windows(
        meter=np.array([look.meter.number for look in looks], dtype=np.int32),
        customer=np.array([look.who.number for look in looks], dtype=np.int64),
        start_micros=np.array([micros_of(look.window.start) for look in looks], dtype=np.int64),
        end_micros=np.array([micros_of(look.window.end) for look in looks], dtype=np.int64),
    )


def _trigger(look: _Look, step: Step, quantity: str, now: datetime) -> Trigger:
    return Trigger(
        id=new_id(prefix="uat", now=now),
        event=new_id(prefix="evt", now=now),
        alert=look.alert.id,
        alert_key=look.alert.key,
        customer=look.who.customer,
        meter=look.meter.id,
        group_values=dict(look.alert.group),
        threshold=step.threshold,
        percent=step.percent,
        quantity=quantity,
        window_start_at=look.window.start,
        window_end_at=look.window.end,
    )
