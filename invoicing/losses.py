"""What a write-off loses of an invoice's lines, and what comes back of it. Pure.

The part of an open amount that was earned is lost with its tax; the part that was not will not be
earned: it goes back to the contract balance. What comes back undoes the one or the other first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Final

import msgspec

from engine.delivered import Delivery, share_delivered
from engine.journal import (
    ACCOUNTS_RECEIVABLE,
    CONTRACT_BALANCE,
    CREDIT_LOSS,
    Posting,
    imbalance_minor,
)
from engine.money import Rounding, round_ratio, split_signed
from plans.shape import Body, ShortText

_NOTHING: Final = Fraction(0)


class WriteOffDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices/{id}/write_off`: why nobody expects the money any more."""

    reason: ShortText | None = None


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a write-off on one account and line: what comes back undoes it."""

    account: str
    contract: str
    line: str
    amount_minor: int


class BilledPart(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the invoice, or with `is_credit` one that a standing credit note gave back of it.

    `line` is the invoice's own and `contract` its; amounts are below zero where they give back.
    """

    line: str
    contract: str
    net_minor: int
    tax_minor: int
    delivery: Delivery
    is_credit: bool = False


def losses_of(
    *,
    parts: Sequence[BilledPart],
    due_minor: int,
    at: datetime,
    timezone: str,
    rounding: Rounding,
) -> list[Loss]:
    """What writing off `due_minor` at `at` takes: it sums to that.

    The open amount is spread over what is left of the lines, each cut into tax and net, and the net
    into what was earned by then and what was not.
    """
    lines = _by_line(parts)
    left = [sum([part.net_minor + part.tax_minor for part in each]) for each in lines.values()]
    if sum(left) < due_minor:
        # More was credited than is missing: what is open is of the lines as they were billed.
        return losses_of(
            parts=[part for part in parts if not part.is_credit],
            due_minor=due_minor,
            at=at,
            timezone=timezone,
            rounding=rounding,
        )
    found: list[Loss] = []
    for each, open_minor in zip(lines.values(), split_signed(due_minor, left), strict=True):
        if not open_minor:
            continue
        tax = sum([part.tax_minor for part in each])
        net = sum([part.net_minor for part in each])
        open_net, _ = split_signed(open_minor, [net, tax])
        share = _share_earned(each, at=at, timezone=timezone)
        earned = round_ratio(open_net * share.numerator, share.denominator, rounding=rounding)
        unearned = open_net - earned
        amounts = {CREDIT_LOSS: open_minor - unearned, CONTRACT_BALANCE: unearned}
        found += [
            Loss(account=account, contract=each[0].contract, line=each[0].line, amount_minor=amount)
            for account, amount in amounts.items()
            if amount
        ]
    return found


def _by_line(parts: Sequence[BilledPart]) -> dict[str, list[BilledPart]]:
    lines: dict[str, list[BilledPart]] = {}
    for part in parts:
        lines.setdefault(part.line, []).append(part)
    return lines


def _share_earned(parts: Sequence[BilledPart], *, at: datetime, timezone: str) -> Fraction:
    """The earned part of what is left of a line, from 0 to 1."""
    net = sum([part.net_minor for part in parts])
    if not net:
        return _NOTHING
    earned = sum(
        [
            part.net_minor * share_delivered(delivery=part.delivery, at=at, timezone=timezone)
            for part in parts
        ],
        start=_NOTHING,
    )
    return min(max(earned / net, _NOTHING), Fraction(1))


def given_back(*, losses: Sequence[Loss], amount_minor: int, loss_first: bool) -> list[Loss]:
    """What of the losses `amount_minor` undoes, which is at most their sum.

    Money undoes what was lost first; a credit undoes first what was never earned.
    """
    if amount_minor == sum([each.amount_minor for each in losses]):
        return list(losses)
    lost = [each for each in losses if each.account == CREDIT_LOSS]
    unearned = [each for each in losses if each.account != CREDIT_LOSS]
    sides = (lost, unearned) if loss_first else (unearned, lost)
    first = min(amount_minor, sum([each.amount_minor for each in sides[0]]))
    found: list[Loss] = []
    for side, amount in zip(sides, (first, amount_minor - first), strict=True):
        if not amount:
            continue
        shares = split_signed(amount, [each.amount_minor for each in side])
        found += [
            msgspec.structs.replace(each, amount_minor=share)
            for each, share in zip(side, shares, strict=True)
            if share
        ]
    return found


def less(*, losses: Sequence[Loss], undone: Sequence[Loss]) -> tuple[Loss, ...]:
    """The losses that are left when some were undone."""
    taken: Mapping[tuple[str, str, str], int] = {
        (each.account, each.contract, each.line): each.amount_minor for each in undone
    }
    rest = [
        msgspec.structs.replace(
            each,
            amount_minor=each.amount_minor - taken.get((each.account, each.contract, each.line), 0),
        )
        for each in losses
    ]
    return tuple(each for each in rest if each.amount_minor)


def loss_postings(
    *, losses: Sequence[Loss], customer: str, invoice: str, sign: int = 1
) -> list[Posting]:
    """The losses as debits; with `sign` -1 as credits."""
    return [
        Posting(
            account=each.account,
            amount_minor=sign * each.amount_minor,
            customer=customer,
            document=invoice,
            contract=each.contract,
            line=each.line,
        )
        for each in losses
    ]


def write_off_postings(
    *, losses: Sequence[Loss], customer: str, invoice: str, sign: int = 1
) -> list[Posting]:
    """A write-off: debit losses and contract balances, credit receivables; `sign` -1 undoes it."""
    postings = loss_postings(losses=losses, customer=customer, invoice=invoice, sign=sign)
    receivable = Posting(
        account=ACCOUNTS_RECEIVABLE,
        amount_minor=-imbalance_minor(postings=postings),
        customer=customer,
        document=invoice,
    )
    assert imbalance_minor(postings=[*postings, receivable]) == 0, "a posting rule must balance"
    return [*postings, receivable]
