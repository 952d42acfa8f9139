"""Lines become documents: one per customer, currency, due instant and invoice group. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.ids import DerivedIds, derived_body
from invoicing.difference import Difference
from invoicing.lines import CreditDraw, Line, LineDiscount, LineTax, line_of

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

    `ids` are those of what belongs to the document, `parts` what identifies it, `edits` those of
    the lines that were added to the draft by hand. A credit note by hand names the `invoice` that
    it credits, and pays at most `refund_minor` of it back as money. One that may be cancelled
    enters nothing before `enter_by_at`, unless something is paid of it.
    """

    parts: tuple[str | int, ...]
    ids: DerivedIds
    customer: BilledCustomer
    currency: str
    billed_at: datetime
    issued_at: datetime
    due_at: datetime
    lines: tuple[Line, ...]
    group: str = ""
    reason: str = "adjustment"
    invoice: str | None = None
    refund_minor: int = 0
    enter_by_at: datetime | None = None
    discounts: tuple[LineDiscount, ...] = ()
    taxes: tuple[LineTax, ...] = ()
    draws: tuple[CreditDraw, ...] = ()
    edits: tuple[str, ...] = ()
    subtotal_minor: int
    discount_minor: int = 0
    promotional_minor: int = 0
    tax_minor: int = 0
    total_minor: int

    @property
    def is_credit_note(self) -> bool:
        """Whether the customer is owed rather than owes."""
        return self.total_minor < 0

    @property
    def refundable_minor(self) -> int:
        """What subscriptions that ended, and asked for their money, give back of it at most."""
        if self.invoice is not None:
            return self.refund_minor
        by_subscription: dict[str | None, int] = {}
        for line in self.lines:
            if line.is_refundable:
                given = by_subscription.get(line.subscription, 0) - line.gross_minor
                by_subscription[line.subscription] = given
        return sum([amount for amount in by_subscription.values() if amount > 0])

    @property
    def id(self) -> str:
        """The document's own id."""
        return self.ids.find("cn" if self.is_credit_note else "inv")

    @property
    def is_plain(self) -> bool:
        """Whether no coupon, credit or tax stands beside any line."""
        return not (self.discounts or self.taxes or self.draws)

    @property
    def adjusted_documents(self) -> tuple[str, ...]:
        """The documents whose lines this one corrects, each once; by hand the one it names."""
        if self.invoice is not None:
            return (self.invoice,)
        return tuple(dict.fromkeys(each.document for line in self.lines for each in line.adjusted))


def document_parts(
    *,
    seller_id: str,
    customer: str,
    billed_at: str,
    currency: str,
    group: str = "",
    ordinal: int | str = 0,
) -> tuple[str | int, ...]:
    """What identifies a document; `billed_at` in ISO format."""
    return seller_id, customer, billed_at, currency, group, ordinal


def document_ids(
    *,
    seller_id: str,
    customer: str,
    billed_at: datetime,
    currency: str,
    group: str,
    ordinal: int | str,
) -> tuple[tuple[str | int, ...], DerivedIds]:
    """What identifies a document, and the ids that follow from it."""
    parts = document_parts(
        seller_id=seller_id,
        customer=customer,
        billed_at=billed_at.isoformat(),
        currency=currency,
        group=group,
        ordinal=ordinal,
    )
    return parts, DerivedIds(body=derived_body(at=billed_at, parts=parts))


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
    """One draft per currency and invoice group from what is billed to a customer at an instant.

    `ordinal` counts the documents that the customer already has for that instant. Lines follow
    subscription key, price and period. Nothing reduces or taxes them yet.
    """
    apart: dict[tuple[str, str], list[Difference]] = {}
    for difference in differences:
        agreement = difference.charge.agreement
        apart.setdefault((agreement.currency, agreement.invoice_group), []).append(difference)
    drafts: list[Draft] = []
    for currency, group in sorted(apart):
        found = sorted(apart[currency, group], key=_line_order)
        terms = _terms_days(found, customer, default_terms_days)
        total = sum([difference.amount_minor for difference in found])
        parts, ids = document_ids(
            seller_id=seller_id,
            customer=customer.id,
            billed_at=billed_at,
            currency=currency,
            group=group,
            ordinal=ordinal,
        )
        drafts.append(
            Draft(
                parts=parts,
                ids=ids,
                customer=customer,
                currency=currency,
                billed_at=billed_at,
                issued_at=issued_at,
                due_at=issued_at + timedelta(days=terms),
                lines=tuple([line_of(difference, billed_at=billed_at) for difference in found]),
                group=group,
                subtotal_minor=total,
                total_minor=total,
            )
        )
    return drafts


def summed(draft: Draft) -> Draft:
    """The draft with its totals taken from its lines anew."""
    lines = draft.lines
    return msgspec.structs.replace(
        draft,
        subtotal_minor=sum([line.amount_minor for line in lines]),
        discount_minor=sum([line.discount_minor for line in lines]),
        promotional_minor=sum([line.promotional_minor for line in lines]),
        tax_minor=sum([line.tax_minor for line in lines]),
        total_minor=sum([line.gross_minor for line in lines]),
    )


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
