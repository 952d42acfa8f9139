"""A customer's account over a stretch of days, by currency. Pure.

Its rows are what journal entries moved on accounts receivable, so that the closing balances of all
customers are that account, whatever kinds of entry there will be.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from types import MappingProxyType
from typing import Final

import msgspec

from engine.money import format_amount
from invoicing.paper_statement import AgeBucket, Movement, StatementFacts, StatementLine
from plans.shape import Record

_BY_KIND: Final[Mapping[str, Movement]] = MappingProxyType(
    {
        "issued": Movement.INVOICE,
        "received": Movement.PAYMENT,
        "allocated": Movement.PAYMENT,
        "balance_applied": Movement.BALANCE_APPLIED,
        "prepaid_applied": Movement.PREPAID_APPLIED,
        "voided": Movement.VOID,
    }
)
# Entries that later acts post, named by what their kinds say.
_BY_STEM: Final = (
    ("return", Movement.RETURN),
    ("refund", Movement.REFUND),
    ("writ", Movement.WRITE_OFF),
)
_AGES: Final = ((1, 30), (31, 60), (61, 90), (91, None))


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Whose account (an id), in which currency (None: all), on which days: [start_on, end_on)."""

    customer: str
    currency: str | None
    start_on: date
    end_on: date


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What one journal entry moved of a customer's receivables; debits are positive."""

    entry: str
    kind: str
    source: str
    entry_on: date
    posted_at: datetime
    currency: str
    amount_minor: int
    number: str | None
    documents: tuple[str, ...] = ()


class OpenItem(msgspec.Struct, frozen=True, kw_only=True):
    """What is open of an invoice at the end of the statement, and the local day it is due."""

    currency: str
    due_on: date
    open_minor: int


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """What one account came to before the statement and by its end, debits less credits."""

    currency: str
    account: str
    opening_minor: int
    closing_minor: int


class StatementRow(Record, frozen=True, kw_only=True):
    """One entry. `amount` is positive when the customer owes more by it; `balance` is after it.

    `number` is that of the document, or the reference of the money; `documents` are the numbers of
    the invoices that it moved, where they are not the document itself.
    """

    on: date
    at: datetime
    kind: str
    number: str | None
    document: str
    documents: tuple[str, ...]
    entry: str
    amount: str
    balance: str


class Kept(Record, frozen=True, kw_only=True):
    """Money of the customer's that no invoice has used, before and after; not in the balance."""

    opening: str
    closing: str


class Age(Record, frozen=True, kw_only=True):
    """What is open by the days it is late: `current`, `1_30`, `31_60`, `61_90`, `90_plus`."""

    age: str
    amount: str


class Account(Record, frozen=True, kw_only=True):
    """The account in one currency: opening balance, every movement, closing balance.

    `closing` is what the customer owes on invoices; `customer_balance` and `unapplied_cash` are
    held for it and stand apart, and so does what was invoiced and is `cancellable` still.
    """

    currency: str
    opening: str
    rows: tuple[StatementRow, ...]
    closing: str
    customer_balance: Kept
    unapplied_cash: Kept
    cancellable: str
    ageing: tuple[Age, ...]


class Statement(Record, frozen=True, kw_only=True, rename={"start_on": "from", "end_on": "to"}):
    """`GET /v1/customers/{id}/statement`: the days [from, to) of the seller's calendar."""

    customer: str
    start_on: date
    end_on: date
    accounts: tuple[Account, ...]


def movement_of(*, kind: str, source: str) -> Movement:
    """What an entry is called on a statement, by its kind and the id of what posted it."""
    plain = kind.partition("-")[0]
    if plain == "issued" and source.startswith("cn_"):
        return Movement.CREDIT_NOTE
    found = _BY_KIND.get(plain)
    if found is not None:
        return found
    return next((each for stem, each in _BY_STEM if stem in plain), Movement.OTHER)


def build_account(
    *,
    currency: str,
    sums: Mapping[str, Sums],
    moved: Sequence[Moved],
    items: Iterable[OpenItem],
    as_of: date,
    held_minor: int = 0,
) -> Account:
    """The account of one currency; `sums` by account, `moved` in order, `items` aged on `as_of`."""

    def told(minor: int) -> str:
        return format_amount(minor, currency=currency)

    receivable = sums.get("accounts_receivable")
    balance = 0 if receivable is None else receivable.opening_minor
    opening, rows = balance, list[StatementRow]()
    for each in moved:
        balance += each.amount_minor
        movement = movement_of(kind=each.kind, source=each.source)
        rows.append(
            StatementRow(
                on=each.entry_on,
                at=each.posted_at,
                kind=each.kind if movement is Movement.OTHER else movement.value,
                number=each.number,
                document=each.source,
                documents=each.documents,
                entry=each.entry,
                amount=told(each.amount_minor),
                balance=told(balance),
            )
        )
    assert receivable is None or balance == receivable.closing_minor, "a row of the account is lost"
    return Account(
        currency=currency,
        opening=told(opening),
        rows=tuple(rows),
        closing=told(balance),
        customer_balance=_kept(sums.get("customer_balance"), currency),
        unapplied_cash=_kept(sums.get("unapplied_cash"), currency),
        cancellable=told(held_minor),
        ageing=_ageing(items, as_of=as_of, currency=currency),
    )


def _kept(sums: Sums | None, currency: str) -> Kept:
    opening, closing = (0, 0) if sums is None else (-sums.opening_minor, -sums.closing_minor)
    return Kept(
        opening=format_amount(opening, currency=currency),
        closing=format_amount(closing, currency=currency),
    )


def _age_of(first: int, last: int | None) -> str:
    return f"{first}_{last}" if last is not None else f"{first - 1}_plus"


def _ageing(items: Iterable[OpenItem], *, as_of: date, currency: str) -> tuple[Age, ...]:
    buckets = dict.fromkeys(("current", *(_age_of(*ends) for ends in _AGES)), 0)
    for item in items:
        late = (as_of - item.due_on).days
        within = (ends for ends in _AGES if ends[0] <= late <= (ends[1] or late))
        name = next((_age_of(*ends) for ends in within), "current")
        buckets[name] += item.open_minor
    return tuple(
        Age(age=name, amount=format_amount(minor, currency=currency))
        for name, minor in buckets.items()
    )


def paper_facts(
    *, account: Account, number: str, period: tuple[datetime, datetime]
) -> StatementFacts:
    """The account as the paper wants it."""
    ends: tuple[tuple[int | None, int | None], ...] = ((None, None), *_AGES)
    return StatementFacts(
        number=number,
        currency=account.currency,
        period=period,
        opening=account.opening,
        closing=account.closing,
        lines=tuple(
            StatementLine(
                at=row.at,
                kind=Movement(row.kind) if row.kind in set(Movement) else Movement.OTHER,
                number=row.number or "",
                amount=row.amount,
                note=", ".join(row.documents) or None,
            )
            for row in account.rows
        ),
        ageing=tuple(
            AgeBucket(first=first, last=last, amount=age.amount)
            for (first, last), age in zip(ends, account.ageing, strict=True)
        ),
    )
