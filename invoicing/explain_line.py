"""Verb: tell how a posted line came about, from the events behind it to its journal postings."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from functools import partial
from urllib.parse import urlencode

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import not_found
from engine.money import format_amount
from invoicing.charges import Charge, ProrationTerms, charge_for
from invoicing.count_charges import counted_minor
from invoicing.difference import PostedLine
from invoicing.document_store import ExplainedLine, find_hand_line, find_line
from invoicing.journal_store import postings_of_line
from invoicing.model import EntryPosting, LineItem
from invoicing.posted_store import posted_lines
from invoicing.rate_charges import charge_windows
from metering.measure import measure_events, measure_groups
from plans.agreement import Agreement, PriceInterval
from plans.model import Aggregation, Meter, Seller
from plans.prices import MatrixPrice, PercentagePrice, Price
from plans.store import meters_by_key
from plans.subscription_store import PriceBook, agreements_of
from plans.timeline import period_starting
from rating.dimensions import dimensions_of, matrix_row
from rating.exact import ratio, ratio_text
from rating.explain import Trace, explain, explain_text


class PriceVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The price that the line was rated by: it never changes once it is published."""

    id: str
    plan: str
    version: int
    body: Price


class PostedPart(msgspec.Struct, frozen=True, kw_only=True):
    """One of the lines that together are what is posted for the charge."""

    line: str
    document: str
    amount: str


class LineExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """A line with everything it follows from.

    `measured` is the usage, which may lie below zero; what is rated of it is in the trace.
    Of a minimum commitment the trace gives the minimum itself, and `counted` what the charges come
    to that count towards it.
    `trace` derives the whole charge from today's facts; the lines in `posted` sum to it, this one
    among them, unless something still waits for the next billing run. `events` and `usage` are the
    paths that list and sum what was measured; `journal` are the postings of this line. A line
    written by hand follows from nothing but what was written: it has no price and no periods.
    """

    line: LineItem
    price: PriceVersion | None
    period: tuple[datetime, datetime] | None
    active: tuple[datetime, datetime] | None
    measured: str | None
    trace: Trace | None
    counted: str | None = None
    text: str
    posted: tuple[PostedPart, ...]
    posted_total: str
    usage: str | None
    events: str | None
    journal_entry: str
    journal: tuple[EntryPosting, ...]


async def explain_line(
    *, connection: AsyncConnection, seller: Seller, line: str
) -> LineExplanation:
    """The explanation of a line of any issued document. Error: `not_found`."""
    found = await find_line(connection=connection, line=line)
    if found is None:
        return await _by_hand(connection, line)
    agreement, stretch = await _agreement(connection, found)
    charge = charge_for(
        agreement=agreement,
        stretch=stretch,
        period=period_starting(agreement=agreement, stretch=stretch, start=found.charge_start_at),
        terms=ProrationTerms(proration=seller.proration, last_day=seller.last_day),
        through=agreement.derived_through_at or found.issued_at,
    )
    trace, measured = await _trace(connection, seller, charge, found.item.group)
    counted = await _counted(connection, seller, charge)
    posted = await posted_lines(connection=connection, intervals=[stretch.id])
    mine = [
        each for each in posted.get(charge.key, ()) if each.counts and each.group == found.group
    ]
    entry, postings = await postings_of_line(connection=connection, line=line)
    paths = (None, None)
    if charge.is_usage:
        meters = await meters_by_key(connection=connection)
        paths = _paths(charge, found, meters[charge.stretch.price.meter or ""])
    return LineExplanation(
        line=found.item,
        measured=measured,
        price=PriceVersion(
            id=stretch.price_id, plan=found.plan, version=found.version, body=stretch.price
        ),
        period=(charge.period.start, charge.period.end),
        active=(charge.active.start, charge.active.end),
        trace=trace,
        counted=counted,
        text=_text(trace, charge, found.item, counted),
        posted=tuple(_part(each, agreement.currency) for each in mine),
        posted_total=format_amount(
            sum(each.amount_minor for each in mine), currency=agreement.currency
        ),
        usage=paths[0],
        events=paths[1],
        journal_entry=entry,
        journal=tuple(postings),
    )


async def _counted(connection: AsyncConnection, seller: Seller, charge: Charge) -> str | None:
    if not charge.is_commitment:
        return None
    minor = await counted_minor(connection=connection, seller=seller, commitment=charge)
    return format_amount(minor, currency=charge.agreement.currency)


async def _by_hand(connection: AsyncConnection, line: str) -> LineExplanation:
    found = await find_hand_line(connection=connection, line=line)
    if found is None:
        raise not_found(noun="line", reference=line)
    item, unit_amount = found
    entry, postings = await postings_of_line(connection=connection, line=line)
    by_unit = "" if unit_amount is None else f"{item.quantity} x {unit_amount} = "
    adjusts = "" if item.adjusts is None else f", gives back of {item.adjusts}"
    return LineExplanation(
        line=item,
        measured=None,
        price=None,
        period=None,
        active=None,
        trace=None,
        text=f"{item.key}: {by_unit}{item.amount}, written by hand{adjusts}\n",
        posted=(),
        posted_total=item.amount,
        usage=None,
        events=None,
        journal_entry=entry,
        journal=tuple(postings),
    )


async def _agreement(
    connection: AsyncConnection, found: ExplainedLine
) -> tuple[Agreement, PriceInterval]:
    for agreement in await agreements_of(
        connection=connection, customers=[found.customer], book=PriceBook()
    ):
        for stretch in agreement.intervals:
            if stretch.id == found.price_interval:
                return agreement, stretch
    raise AssertionError("a posted line names its price interval")


async def _trace(
    connection: AsyncConnection, seller: Seller, charge: Charge, group: Mapping[str, str] | None
) -> tuple[Trace | None, str | None]:
    """The derivation of the charge's group, and what was measured of it, below zero included.

    No trace for what a limit adds over all groups; nothing is measured of seats.
    """
    price = charge.stretch.price
    if price.group_by and group is None:
        return None, None
    told = partial(
        explain,
        price=price,
        currency=charge.agreement.currency,
        rounding=seller.rounding,
        fraction=Fraction(charge.numerator, charge.denominator),
    )
    if not charge.is_usage:
        return told(quantity=ratio(charge.stretch.quantity)), None
    meters = await meters_by_key(connection=connection)
    wanted = [(group or {}).get(name, "") for name in price.group_by]
    if isinstance(price, PercentagePrice):
        events = await _events(connection, meters, charge, wanted)
        return told(events=events), ratio_text(sum(events, start=Fraction(0)))
    cells = await _cells(connection, meters, charge, wanted)
    measured = sum((quantity for _, quantity in cells), start=Fraction(0))
    if isinstance(price, MatrixPrice):
        names = dimensions_of(price=price)
        rows = [
            (matrix_row(price=price, dimensions=dict(zip(names, values, strict=True))), quantity)
            for values, quantity in cells
        ]
        return told(cells=rows), ratio_text(measured)
    return told(quantity=max(measured, Fraction(0))), ratio_text(measured)


async def _cells(
    connection: AsyncConnection,
    meters: Mapping[str, Meter],
    charge: Charge,
    wanted: Sequence[str],
) -> list[tuple[tuple[str, ...], Fraction]]:
    """What was measured for each combination of dimension values of the charge's group."""
    usage = await measure_groups(
        connection=connection,
        meters={meter.number: meter for meter in meters.values()},
        windows=charge_windows(meters=meters, charges=[charge]),
        dimensions=[dimensions_of(price=charge.stretch.price)],
    )
    return [
        (values, Fraction(quantity, 10**usage.digits))
        for kind, quantity in zip(usage.dimension.tolist(), usage.mantissa.tolist(), strict=True)
        for values in [usage.dimensions[kind]]
        if list(values[: len(wanted)]) == list(wanted)
    ]


async def _events(
    connection: AsyncConnection,
    meters: Mapping[str, Meter],
    charge: Charge,
    wanted: Sequence[str],
) -> list[Fraction]:
    """The values of the group's events in the order of time."""
    usage = await measure_events(
        connection=connection,
        meters={meter.number: meter for meter in meters.values()},
        windows=charge_windows(meters=meters, charges=[charge]),
        dimensions=[dimensions_of(price=charge.stretch.price)],
    )
    found: list[Fraction] = []
    values, offsets = usage.mantissa.tolist(), usage.offsets.tolist()
    for row, kind in enumerate(usage.dimension.tolist()):
        if list(usage.dimensions[kind][: len(wanted)]) == list(wanted):
            part = values[offsets[row] : offsets[row + 1]]
            found += [Fraction(value, 10**usage.digits) for value in part]
    return found


def _text(trace: Trace | None, charge: Charge, line: LineItem, counted: str | None) -> str:
    if trace is not None and counted is not None:
        least = "usage and recurring charges of the period come to"
        return f"{explain_text(trace)}{least} {counted}: what they lack of the minimum is added\n"
    if trace is not None:
        return explain_text(trace)
    price = charge.stretch.price
    raised = not line.amount.startswith("-")
    name, limit = ("minimum", price.minimum_amount) if raised else ("maximum", price.maximum_amount)
    return f"{price.key}: brings the sum of its groups to the {name} of {limit}\n"


def _part(line: PostedLine, currency: str) -> PostedPart:
    return PostedPart(
        line=line.id,
        document=line.document,
        amount=format_amount(line.amount_minor, currency=currency),
    )


def _paths(charge: Charge, found: ExplainedLine, meter: Meter) -> tuple[str, str]:
    """The requests that sum and list the usage of the charge.

    A level is built from events before the charge: in its period, or ever where it carries over.
    """
    level = meter.aggregation is Aggregation.WEIGHTED_SUM
    query: dict[str, str] = {
        "customer": found.item.customer,
        "meter": charge.stretch.price.meter or "",
        "from": _wire(charge.period.start if level else charge.active.start),
        "to": _wire(charge.active.end),
    }
    wanted = {name: value for name, value in query.items() if name != "from"}
    listed = f"/v1/events?{urlencode(wanted if meter.carry_over else query)}"
    groups = charge.stretch.price.group_by
    if groups:
        query["group_by"] = ",".join(groups)
    return f"/v1/usage?{urlencode({**query, 'window': 'month'})}", listed


def _wire(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
