"""Differences become documents: one per customer, currency and due instant. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.ids import DerivedIds, derived_body
from invoicing.difference import Difference

CREDIT_NOTE_SUFFIX: Final = "-CN"


class BilledCustomer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The customer that a document goes to, as the run needs it."""

    id: str
    key: str
    number: int
    party: str
    net_terms_days: int | None
    po_number: str | None


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A document about to be posted: everything but its number and what settles it.

    `total_minor` is Σ of the lines; below zero it is a credit note. `ids` are those of what
    belongs to the document, `id` is its own.
    """

    id: str
    ids: DerivedIds

    customer: BilledCustomer
    currency: str
    billed_at: datetime
    issued_at: datetime
    due_at: datetime
    differences: tuple[Difference, ...]
    total_minor: int

    @property
    def is_credit_note(self) -> bool:
        """Whether the customer is owed rather than owes."""
        return self.total_minor < 0

    @property
    def refundable_minor(self) -> int:
        """What subscriptions that ended, and asked for their money, give back of it at most."""
        by_agreement: dict[str, int] = {}
        for line in self.differences:
            agreement = line.charge.agreement
            ended = agreement.ends_at is not None and agreement.ends_at <= self.billed_at
            if agreement.refund_unused and ended:
                amount = by_agreement.get(agreement.id, 0) - line.amount_minor
                by_agreement[agreement.id] = amount
        return sum([amount for amount in by_agreement.values() if amount > 0])


def assemble(
    *,
    seller_id: str,
    customer: BilledCustomer,
    billed_at: datetime,
    issued_at: datetime,
    default_terms_days: int,
    ordinal: int,
    differences: Sequence[Difference],
) -> list[Draft]:
    """One draft per currency from the differences of one customer at one due instant.

    `ordinal` counts the documents that the customer already has for that instant. Lines follow
    subscription key, price and period.
    """
    by_currency: dict[str, list[Difference]] = {}
    for difference in differences:
        by_currency.setdefault(difference.charge.agreement.currency, []).append(difference)
    drafts: list[Draft] = []
    for currency in sorted(by_currency):
        lines = sorted(by_currency[currency], key=_line_order)
        terms = _terms_days(lines, customer, default_terms_days)
        total = sum([line.amount_minor for line in lines])
        ids = DerivedIds(
            body=derived_body(
                at=billed_at,
                parts=(seller_id, customer.id, billed_at.isoformat(), currency, "", ordinal),
            )
        )
        drafts.append(
            Draft(
                id=ids.find("cn" if total < 0 else "inv"),
                ids=ids,
                customer=customer,
                currency=currency,
                billed_at=billed_at,
                issued_at=issued_at,
                due_at=issued_at + timedelta(days=terms),
                differences=tuple(lines),
                total_minor=total,
            )
        )
    return drafts


def _line_order(line: Difference) -> tuple[str, int, datetime, bool, str]:
    charge = line.charge
    limit = bool(charge.stretch.price.group_by) and not line.group  # stands after its groups
    return charge.agreement.key, charge.stretch.number, charge.period.start, limit, line.group


def _terms_days(lines: Sequence[Difference], customer: BilledCustomer, default: int) -> int:
    """Payment terms: the shortest a subscription names, else the customer's, else the seller's."""
    named = [line.charge.agreement.net_terms_days for line in lines]
    agreed = [days for days in named if days is not None]
    if agreed:
        return min(agreed)
    return default if customer.net_terms_days is None else customer.net_terms_days
