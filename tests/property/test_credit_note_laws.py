"""Credits of a charge, by hand and by billing in any order, are at most what it billed."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.ids import DerivedIds
from engine.journal import CONTRACT_BALANCE
from engine.money import Rounding, format_amount
from invoicing.assembly import Draft, summed
from invoicing.conditions import Conditions, complete
from invoicing.credit_notes import (
    Creditable,
    CreditedLine,
    CreditNoteDraft,
    CreditReason,
    credit_errors,
    credit_lines,
)
from invoicing.credits import PostedDraw, UsableGrant, Wallet
from invoicing.difference import (
    PostedLine,
    RatedCharge,
    StandingLine,
    credits_of,
    difference_of,
)
from invoicing.discounts import PostedDiscount
from invoicing.lines import line_of
from invoicing.model import Reason
from invoicing.tax import PostedTax, TaxTerms
from plans.model import TaxRounding
from tests.agreements import ACME, SEATS, agreement, due
from tests.property.test_document_laws import AT, PERCENTAGES, RATES, ROUNDINGS, coupon, rate

(CHARGE,) = due(agreement(SEATS), "2026-01-15")


class Key:
    """One charge key: what is posted of it, and what was credited of it by hand."""

    def __init__(self, *, coupons: list, grant_minor: int, terms: list[TaxTerms]) -> None:
        self.coupons, self.terms = coupons, terms
        grant = UsableGrant(
            id="grt",
            customer=ACME.id,
            currency="EUR",
            kind="promotional",
            effective_at=AT,
            expires_at=None,
            left_minor=grant_minor,
        )
        self.wallet = Wallet([grant])
        self.lines: list[PostedLine] = []
        self.by_hand: list[StandingLine] = []
        self.numbers = itertools.count()
        self.discounts: dict[str, list[PostedDiscount]] = {}
        self.draws: dict[str, list[PostedDraw]] = {}
        self.taxes: dict[str, list[PostedTax]] = {}

    def posted(self) -> list[PostedLine]:
        """The lines with their standing credits."""
        return [
            msgspec.structs.replace(
                line, credits=tuple(each for each in self.by_hand if each.credit_of == line.id)
            )
            for line in self.lines
        ]

    def difference(self, should: int):
        rated = RatedCharge(charge=CHARGE, quantity_nanos=10**9, amount_minor=should)
        return difference_of(rated=rated, posted=self.posted())

    def completed(self, line, at: int, identity: str) -> Draft:
        """A document of that line alone; what it takes and is taxed is kept under `identity`."""
        draft = Draft(
            parts=(),
            ids=DerivedIds(body=0),
            customer=ACME,
            currency="EUR",
            billed_at=AT,
            issued_at=AT,
            due_at=AT,
            lines=(line,),
            subtotal_minor=0,
            total_minor=0,
        )
        terms = self.terms[at % len(self.terms)]
        conditions = Conditions(
            rounding=terms.rounding,
            coupons={"sub_a": self.coupons},
            posted_discounts=self.discounts,
            taxes={ACME.id: terms},
            posted_taxes=self.taxes,
            wallet=self.wallet,
            posted_draws=self.draws,
        )
        made = complete(summed(draft), conditions)
        self.discounts[identity] = [
            PostedDiscount(application=each.application, amount_minor=each.amount_minor)
            for each in made.discounts
        ]
        self.draws[identity] = [
            PostedDraw(credit_grant=each.grant, amount_minor=each.amount_minor)
            for each in made.draws
        ]
        self.taxes[identity] = [
            PostedTax(
                rate=each.rate,
                percentage=each.percentage,
                included=each.included,
                jurisdiction=each.jurisdiction,
                category=each.category,
                amount_minor=each.amount_minor,
            )
            for each in made.taxes
        ]
        return made

    def bill(self, should: int, at: int) -> None:
        """Post the difference to what should be charged; then none is left."""
        difference = self.difference(should)
        if difference is None:
            return
        identity = f"li_{len(self.lines)}"
        made = self.completed(line_of(difference, billed_at=AT), at, identity)
        (line,) = made.lines
        self.lines.append(
            PostedLine(
                id=identity,
                document=f"inv_{len(self.lines)}",
                price_interval="pri_1",
                charge_start_at=CHARGE.period.start,
                group="",
                sequence=difference.sequence,
                amount_minor=line.amount_minor,
                discount_minor=line.discount_minor,
                promotional_minor=line.promotional_minor,
                tax_minor=line.tax_minor,
                tax_included_minor=line.tax_included_minor,
                quantity_nanos=10**9,
                period=difference.period,
                counts=True,
                reason=Reason.PRORATION,
                issued_at=AT,
                voided_at=None,
            )
        )
        assert self.difference(should) is None

    def creditable(self, line: PostedLine) -> Creditable:
        posted = self.posted()
        return Creditable(
            id=line.id,
            key="seats",
            name=None,
            subscription="sub_a",
            customer=None,
            group="",
            period=line.period,
            taxable_minor=line.taxable_minor,
            contract="s1",
            account=CONTRACT_BALANCE,
            adjusted=(*posted, *credits_of(posted)),
        )

    def credit(self, at: int, percent: int) -> None:
        """Credit a part of what is left of a line; a minor unit more is refused."""
        charged = [line for line in self.lines if line.amount_minor > 0]
        if not charged:
            return
        found = self.creditable(charged[at % len(charged)])
        amount = -(-found.rest_minor * percent // 100)
        over = self.note(found, found.rest_minor + 1)
        (error,) = credit_errors(over, currency="EUR", lines={found.id: found})
        assert error.pointer in {"/lines/0/amount", "/lines/0/line"}
        if not amount:
            return
        asked = self.note(found, amount)
        assert credit_errors(asked, currency="EUR", lines={found.id: found}) == []
        (line,) = credit_lines(asked, currency="EUR", lines={found.id: found})
        identity = f"cl_{next(self.numbers)}"
        made = self.completed(line, at, identity)
        (line,) = made.lines
        assert (line.discount_minor, line.promotional_minor) == (0, 0)
        assert line.taxable_minor == -amount
        credit = StandingLine(
            id=identity, document="cn", amount_minor=line.amount_minor, credit_of=found.id
        )
        self.by_hand.append(credit)

    @staticmethod
    def note(found: Creditable, minor: int) -> CreditNoteDraft:
        amount = format_amount(minor, currency="EUR")
        lines = (CreditedLine(line=found.id, amount=amount),)
        return CreditNoteDraft(invoice="inv", lines=lines, reason=CreditReason.GOODWILL)

    def void(self, at: int) -> None:
        """Void a credit by hand."""
        if self.by_hand:
            del self.by_hand[at % len(self.by_hand)]

    def check(self) -> None:
        standing = [*self.lines, *self.by_hand]
        left = sum(line.taxable_minor for line in standing)
        assert left >= 0
        assert sum(line.discount_minor for line in standing) >= 0
        assert sum(line.promotional_minor for line in standing) >= 0
        taxes: dict[tuple[str, str], int] = {}
        for line in standing:
            for tax in self.taxes[line.id]:
                key = (tax.rate, tax.percentage)
                taxes[key] = taxes.get(key, 0) + tax.amount_minor
        assert all(amount >= 0 for amount in taxes.values())
        if not left:
            assert not any(taxes.values())
        for line in self.lines:
            mine = [each.amount_minor for each in self.by_hand if each.credit_of == line.id]
            assert sum(mine) + max(line.taxable_minor, 0) >= 0


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("bill"), st.integers(0, 500), st.integers(0, 3)),
        st.tuples(st.just("credit"), st.integers(0, 3), st.sampled_from([1, 10, 33, 50, 100])),
        st.tuples(st.just("void"), st.integers(0, 3)),
    ),
    max_size=12,
)
COUPONS = st.lists(
    st.one_of(st.tuples(PERCENTAGES, st.none()), st.tuples(st.none(), st.integers(1, 300))),
    max_size=3,
)


def terms_of(sets, rounding: Rounding, way: TaxRounding) -> list[TaxTerms]:
    return [
        TaxTerms(
            own=tuple(
                rate(f"r{at}{number}", percentage, inclusive=inclusive)
                for number, (percentage, inclusive) in enumerate(rates)
            ),
            named={},
            tax_rounding=way,
            rounding=rounding,
        )
        for at, rates in enumerate(sets)
    ]


@given(
    st.tuples(st.integers(1, 500), ACTS),
    COUPONS,
    st.sampled_from([0, 7, 250]),
    st.lists(RATES, min_size=1, max_size=2),
    st.tuples(ROUNDINGS, st.sampled_from(TaxRounding)),
)
def test_credits_in_any_order_are_at_most_what_was_billed(
    history, coupons, grant_minor, rates, ways
) -> None:
    first, acts = history
    applications = [
        msgspec.structs.replace(
            coupon(number, percentage=percentage, amount=amount), subscription="sub_a"
        )
        for number, (percentage, amount) in enumerate(coupons)
    ]
    key = Key(coupons=applications, grant_minor=grant_minor, terms=terms_of(rates, *ways))
    key.bill(first, 0)
    for name, *numbers in acts:
        getattr(key, name)(*numbers)
        key.check()
    key.bill(0, 0)
    key.check()
    assert sum(line.taxable_minor for line in [*key.lines, *key.by_hand]) == 0
