"""What stands between a document's lines and its total: coupons, credits and tax. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from engine.money import Rounding
from invoicing.assembly import Draft, summed
from invoicing.credits import PostedDraw, Wallet, draw_prepaid, draw_promotional
from invoicing.discounts import Application, PostedDiscount, discount_lines
from invoicing.lines import CreditDraw
from invoicing.tax import PostedTax, TaxTerms, tax_lines


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the documents of one transaction.

    `coupons` by subscription and `taxes` by customer; `posted_discounts` and `posted_taxes` by
    the id of a line that one of the documents corrects. `wallet` has the credit of the customers,
    carried on from one document to the next.
    """

    rounding: Rounding
    coupons: Mapping[str, Sequence[Application]]
    posted_discounts: Mapping[str, Sequence[PostedDiscount]]
    taxes: Mapping[str, TaxTerms]
    posted_taxes: Mapping[str, Sequence[PostedTax]]
    wallet: Wallet | None = None
    posted_draws: Mapping[str, Sequence[PostedDraw]] = msgspec.field(default_factory=dict)


def complete(draft: Draft, conditions: Conditions) -> Draft:
    """The draft with discounts, credits and tax, and with its totals."""
    names = dict.fromkeys(line.subscription for line in draft.lines if line.subscription)
    lines, discounts = discount_lines(
        lines=draft.lines,
        applications=[each for name in names for each in conditions.coupons.get(name, ())],
        currency=draft.currency,
        billed_at=draft.billed_at,
        rounding=conditions.rounding,
        posted=conditions.posted_discounts,
    )
    draws: list[CreditDraw] = []
    wallet = conditions.wallet
    if wallet is not None:
        lines, draws = draw_promotional(
            draft=draft,
            lines=lines,
            wallet=wallet,
            posted=conditions.posted_draws,
            rounding=conditions.rounding,
        )
    terms = conditions.taxes.get(draft.customer.id)
    taxed, taxes = (
        (lines, [])
        if terms is None
        else tax_lines(lines=lines, terms=terms, posted=conditions.posted_taxes)
    )
    if discounts or taxes or draws:
        draft = summed(
            msgspec.structs.replace(
                draft,
                lines=tuple(taxed),
                discounts=tuple(discounts),
                taxes=tuple(taxes),
                draws=tuple(draws),
            )
        )
    return draft if wallet is None else draw_prepaid(draft=draft, wallet=wallet)
