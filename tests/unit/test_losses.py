import random

import pytest

from engine.delivered import Delivery, RevenueMethod
from engine.journal import imbalance_minor
from engine.money import Rounding
from invoicing.losses import (
    BilledPart,
    Loss,
    given_back,
    less,
    losses_of,
    write_off_postings,
)
from tests.agreements import at

QUARTER = Delivery(
    method=RevenueMethod.RATABLE_DAILY, begins_at=at("2026-01-01"), ends_at=at("2026-04-01")
)
LEFT = Delivery(
    method=RevenueMethod.RATABLE_DAILY, begins_at=at("2026-02-01"), ends_at=at("2026-04-01")
)


def part(line, net, tax=0, delivery=QUARTER, *, is_credit=False):
    return BilledPart(
        line=line,
        contract="s1",
        net_minor=net,
        tax_minor=tax,
        delivery=delivery,
        is_credit=is_credit,
    )


def lost(parts, due, when="2026-02-01", rounding=Rounding.HALF_UP):
    found = losses_of(parts=parts, due_minor=due, at=at(when), timezone="UTC", rounding=rounding)
    assert sum(each.amount_minor for each in found) == due
    return [(each.account, each.line, each.amount_minor) for each in found]


def test_earned_and_tax_are_lost_and_the_rest_is_not_earned():
    assert lost([part("l1", 9000, 900)], 9900) == [
        ("credit_loss", "l1", 4000),
        ("contract_balance", "l1", 5900),
    ]


def test_of_what_a_credit_note_gave_back_nothing_is_lost():
    parts = [part("l1", 9000, 900), part("l1", -5900, -590, LEFT, is_credit=True), part("l2", 100)]
    assert lost(parts, 3510) == [
        ("credit_loss", "l1", 3410),
        ("credit_loss", "l2", 34),
        ("contract_balance", "l2", 66),
    ]


def test_where_more_was_credited_than_is_missing_the_lines_count_as_billed():
    parts = [part("l1", 9000, 900), part("l1", -9000, -900, is_credit=True)]
    assert lost(parts, 990) == [("credit_loss", "l1", 400), ("contract_balance", "l1", 590)]


@pytest.mark.parametrize(("rounding", "earned"), [(Rounding.HALF_UP, 3), (Rounding.HALF_EVEN, 2)])
def test_the_cent_between_is_rounded_as_the_seller_rounds(rounding, earned):
    half = Delivery(
        method=RevenueMethod.OVER_DAYS, begins_at=at("2026-01-30"), ends_at=None, days=4
    )
    assert lost([part("l1", 5, 0, half)], 5, rounding=rounding) == [
        ("credit_loss", "l1", earned),
        ("contract_balance", "l1", 5 - earned),
    ]


def test_what_comes_back_always_ends_at_nothing():
    chance = random.Random(7)
    for _ in range(300):
        parts = [
            part(f"l{n}", chance.randint(-300, 1000), chance.randint(0, 90))
            for n in range(chance.randint(1, 4))
        ]
        total = sum(each.net_minor + each.tax_minor for each in parts)
        if total <= 0:
            continue
        due = chance.randint(1, total)
        losses = tuple(
            losses_of(
                parts=parts,
                due_minor=due,
                at=at("2026-02-17"),
                timezone="UTC",
                rounding=Rounding.HALF_UP,
            )
        )
        postings = write_off_postings(losses=losses, customer="c", invoice="i")
        assert imbalance_minor(postings=postings) == 0
        while due:
            amount = chance.randint(1, due)
            undone = given_back(
                losses=losses, amount_minor=amount, loss_first=chance.random() < 0.5
            )
            assert sum(each.amount_minor for each in undone) == amount
            losses = less(losses=losses, undone=undone)
            due -= amount
        assert losses == ()


def test_money_undoes_the_loss_first_and_a_credit_what_was_not_earned():
    losses = (
        Loss(account="contract_balance", contract="s1", line="l1", amount_minor=59),
        Loss(account="credit_loss", contract="s1", line="l1", amount_minor=40),
    )
    told = [
        [
            (each.account, each.amount_minor)
            for each in given_back(losses=losses, amount_minor=50, loss_first=loss_first)
        ]
        for loss_first in (True, False)
    ]
    assert told == [
        [("credit_loss", 40), ("contract_balance", 10)],
        [("contract_balance", 50)],
    ]
