"""Agreements, charges and lines made by hand, for the tests of what is pure in billing."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.period import Alignment, Period
from invoicing.assembly import BilledCustomer
from invoicing.charges import Charge, ProrationTerms, charges_due
from invoicing.difference import Difference, PostedLine, RatedCharge, difference_of
from invoicing.model import Reason
from plans.agreement import Agreement, PriceInterval, Refund
from plans.model import Interval, LastDay, Proration
from plans.prices import Price
from plans.timeline import cancel_intervals

SECONDS = ProrationTerms(proration=Proration.SECOND, last_day=LastDay.EXCLUDE)
SEATS = {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "31.00"}
TOKENS = {
    "key": "tokens",
    "kind": "usage",
    "meter": "tokens",
    "model": "per_unit",
    "unit_amount": "0.01",
}
SETUP = {"key": "setup", "kind": "one_time", "model": "flat", "flat_amount": "99.00"}
ACME = BilledCustomer(
    id="cus_a", key="acme", number=1, party="pty_a", net_terms_days=None, po_number=None
)


def at(when: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(when).replace(tzinfo=UTC)


def agreement(*prices: dict[str, Any], start: str = "2026-01-01", **fields: Any) -> Agreement:
    """A subscription of those prices, monthly unless one says otherwise; named fields replace."""
    starts_at = at(start)
    ends_at = fields.get("ends_at")
    intervals = []
    for number, body in enumerate(prices, start=1):
        price = msgspec.convert(body, Price)
        intervals.append(
            PriceInterval(
                id=f"pri_{number}",
                number=number,
                price_id=f"prc_{number}",
                price=price,
                interval=price.interval or msgspec.convert({"unit": "month"}, Interval),
                quantity="1",
                start_at=starts_at,
                end_at=ends_at,
            )
        )
    values = {
        "id": "sub_a",
        "key": "s1",
        "customer": "cus_a",
        "customer_number": 1,
        "currency": "EUR",
        "timezone": "UTC",
        "starts_at": starts_at,
        "ends_at": None,
        "anchor_at": starts_at,
        "anchor_day": None,
        "alignment": Alignment.ANNIVERSARY,
        "cancelled_at": None,
        "net_terms_days": None,
        "next_due_at": starts_at,
        "derived_through_at": None,
        "dirty_from_at": None,
        "revision": 1,
        "intervals": tuple(intervals),
    }
    return Agreement(**(values | fields))


def cancelled(
    agreed: Agreement, *, effective: str, asked: str, refund: Refund = Refund.CREDIT
) -> Agreement:
    """The agreement after a cancellation asked for at an instant."""
    ends_at = at(effective)
    derived = agreed.derived_through_at
    return msgspec.structs.replace(
        agreed,
        ends_at=ends_at,
        cancelled_at=at(asked),
        dirty_from_at=ends_at if derived is not None and ends_at <= derived else None,
        intervals=cancel_intervals(
            agreement=agreed, effective=ends_at, refund=refund, now=at(asked)
        ),
    )


def told(charges: list[Charge]) -> list[tuple[str, str, str, str]]:
    """(price, active part from, to, share) of each charge, in days of January to December."""
    return [
        (
            charge.stretch.price.key,
            f"{charge.active.start:%m-%d}",
            f"{charge.active.end:%m-%d}",
            f"{charge.numerator}/{charge.denominator}",
        )
        for charge in charges
    ]


def due(agreed: Agreement, through: str, terms: ProrationTerms = SECONDS) -> list[Charge]:
    """The charges to derive at an instant."""
    return charges_due(agreement=agreed, through=at(through), terms=terms)


def posted(sequence: int, amount_minor: int, start: str, end: str, **fields: Any) -> PostedLine:
    """A posted line of the first price's January."""
    values = {
        "id": f"li_{sequence}",
        "document": f"inv_{sequence}",
        "price_interval": "pri_1",
        "charge_start_at": at("2026-01-01"),
        "group": "",
        "sequence": sequence,
        "amount_minor": amount_minor,
        "quantity_nanos": 10**9,
        "period": Period(at(start), at(end)),
        "counts": True,
        "reason": Reason.INITIAL if sequence == 1 else Reason.PRORATION,
        "issued_at": at("2026-01-01"),
        "voided_at": None,
    }
    return PostedLine(**(values | fields))


def line(amount_minor: int, *prices: dict[str, Any], **fields: Any) -> Difference:
    """A first line over an amount, of the first period of the first price."""
    (charge, *_) = due(agreement(*(prices or (SEATS,)), **fields), "2027-01-01")
    rated = RatedCharge(charge=charge, quantity_nanos=10**9, amount_minor=amount_minor)
    found = difference_of(rated=rated, posted=())
    assert found is not None
    return found
