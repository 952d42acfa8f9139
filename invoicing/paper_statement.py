"""A statement of account: opening balance, every movement, closing balance, and what is late."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind
from engine.money import format_amount, parse_amount
from invoicing.paper_frame import Branding, PaperFrame, PaymentDetails, payment_facts
from invoicing.paper_parts import Fact, Paper, PaperCells, PaperRow, PaperTable
from invoicing.paper_party import bounded, footer_text, paper_party
from plans.model import Party

_NO_BRANDING: Final = Branding()


class Movement(StrEnum):
    """What moves an account."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"
    PAYMENT = "payment"
    REFUND = "refund"
    RETURN = "return"
    BALANCE_APPLIED = "balance_applied"
    PREPAID_APPLIED = "prepaid_applied"
    VOID = "void"
    WRITE_OFF = "write_off"
    OTHER = "other"


# The word for each movement; what has none is told by its number alone.
_NAMES: Final[Mapping[Movement, str]] = MappingProxyType(
    {
        **{movement: movement.value for movement in Movement if movement is not Movement.OTHER},
        Movement.RETURN: "payment_returned",
        Movement.PREPAID_APPLIED: "prepaid_credit",
        Movement.WRITE_OFF: "written_off",
    }
)


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One movement; `amount` (major units) is positive when the customer owes more by it."""

    at: datetime
    kind: Movement
    number: str
    amount: str
    note: str | None = None


class AgeBucket(msgspec.Struct, frozen=True, kw_only=True):
    """What is open and late by `first` to `last` days; both None when it is not yet due."""

    first: int | None = None
    last: int | None = None
    amount: str


class StatementFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An account over a period; balances are positive when the customer owes."""

    number: str
    currency: str
    period: tuple[datetime, datetime]
    opening: str
    closing: str
    lines: tuple[StatementLine, ...]
    ageing: tuple[AgeBucket, ...] = ()


def _rows(statement: StatementFacts, frame: PaperFrame) -> tuple[PaperRow, ...]:
    """The opening balance, then the movements with the balance after each."""
    figures, currency, words = frame.figures, frame.currency, frame.words
    opening = parse_amount(statement.opening, currency=currency)
    first = PaperCells(
        label=words.opening_balance,
        period=(frame.dates.date_of(statement.period[0]),),
        amount=figures.amount(format_amount(opening, currency=currency)),
    )
    balance, rows = opening, [PaperRow(cells=first)]
    for line in statement.lines:
        minor = parse_amount(line.amount, currency=currency)
        balance += minor
        name = getattr(words, _NAMES[line.kind]) if line.kind in _NAMES else ""
        size = figures.amount(format_amount(abs(minor), currency=currency))
        cells = PaperCells(
            label=bounded(f"{name} {line.number}".strip()),
            notes=(bounded(line.note),) if line.note else (),
            period=(frame.dates.date_of(line.at),),
            quantity=size if minor >= 0 else "",
            unit=size if minor < 0 else "",
            amount=figures.amount(format_amount(balance, currency=currency)),
        )
        rows.append(PaperRow(cells=cells))
    if balance != parse_amount(statement.closing, currency=currency):
        message = f"{statement.number} is not printed: its movements do not make its balance"
        raise BillingError("paper_does_not_add_up", message, kind=ErrorKind.CONFLICT)
    return tuple(rows)


def _ageing(buckets: Sequence[AgeBucket], frame: PaperFrame) -> tuple[PaperTable, ...]:
    if not buckets:
        return ()
    words = frame.words
    rows: list[tuple[str, str]] = []
    for bucket in buckets:
        if bucket.first is None:
            label = words.not_due
        elif bucket.last is None:
            label = words.days_over.format(days=bucket.first - 1)
        else:
            label = words.days_late.format(first=bucket.first, last=bucket.last)
        rows.append((label, frame.figures.amount(bucket.amount)))
    return (PaperTable(title="", headings=(words.ageing, words.amount), rows=tuple(rows)),)


def _totals(statement: StatementFacts, frame: PaperFrame) -> tuple[Fact, ...]:
    """From the opening to the closing balance, as the columns add up."""
    words, currency = frame.words, statement.currency
    moved = [parse_amount(line.amount, currency=currency) for line in statement.lines]
    charged = format_amount(sum(minor for minor in moved if minor > 0), currency=currency)
    credited = format_amount(sum(minor for minor in moved if minor < 0), currency=currency)
    pairs = (
        (words.opening_balance, statement.opening),
        (words.charges, charged),
        (words.credits, credited),
        (frame.in_currency(words.closing_balance), statement.closing),
    )
    last = len(pairs) - 1
    return tuple(
        Fact(label=label, value=frame.figures.amount(text), strong=index == last)
        for index, (label, text) in enumerate(pairs)
    )


def build_statement(
    *,
    statement: StatementFacts,
    seller: Party,
    customer: Party,
    timezone: str = "UTC",
    locale: str = "en",
    payment: PaymentDetails | None = None,
    branding: Branding = _NO_BRANDING,
) -> Paper:
    """The printed statement.

    `paper_does_not_add_up` unless the opening balance and the movements are the closing balance.
    """
    currency = statement.currency
    frame = PaperFrame.of(currency=currency, locale=locale, timezone=timezone, branding=branding)
    words, figures = frame.words, frame.figures
    rows = _rows(statement, frame)
    closing = parse_amount(statement.closing, currency=currency)
    period = frame.dates.period(statement.period)
    owes = closing > 0 and payment is not None
    return Paper(
        title=words.statement,
        number=statement.number,
        stamp="",
        issuer=paper_party(party=seller, locale=locale),
        recipient=paper_party(party=customer, locale=locale),
        recipient_label=words.account_of,
        facts=(Fact(label=words.period, value=" ".join(period)),),
        headline=Fact(label=words.account_balance, value=frame.money(statement.closing)),
        headline_note="" if closing > 0 else words.nothing_to_pay,
        headings=(words.document, words.date, words.charges, words.credits, words.balance),
        rows=rows,
        totals=_totals(statement, frame),
        tables=_ageing(statement.ageing, frame),
        payment=payment_facts(details=payment, number=statement.number, words=words)
        if owes and payment is not None
        else (),
        notes=(frame.zone_note(),),
        footer=footer_text(seller=seller),
        decimal_mark=figures.decimal_mark,
        language=words.locale,
        words=words,
        accent=frame.accent,
        logo=frame.logo,
    )
