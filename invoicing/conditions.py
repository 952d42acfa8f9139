"""What stands between a document's lines and its total: coupons, credits and tax. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from engine.money import Rounding
from invoicing.assembly import Draft, summed
from invoicing.credits import PostedDraw, Wallet, draw_prepaid, draw_promotional
from invoicing.discounts import Application, PostedDiscount, discount_lines
from invoicing.lines import CreditDraw
from invoicing.tax import GivenTax, PostedTax, TaxTerms, tax_lines


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
    return pay(reduce(draft, conditions), conditions)


def reduce(draft: Draft, conditions: Conditions) -> Draft:
    """The draft with what stands between its lines and their tax: coupons, promotional credit."""
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
    if not (discounts or draws):
        return draft
    return summed(
        msgspec.structs.replace(
            draft, lines=tuple(lines), discounts=tuple(discounts), draws=tuple(draws)
        )
    )


def pay(
    draft: Draft,
    conditions: Conditions,
    *,
    given: Mapping[int, Sequence[GivenTax]] | None = None,
) -> Draft:
    """The reduced draft with its tax, and what prepaid credit pays of its total.

    `given` are the taxes of its lines where a provider told them.
    """
    terms = conditions.taxes.get(draft.customer.id)
    if terms is not None:
        if given is not None:
            terms = msgspec.structs.replace(terms, given=given)
        lines, taxes = tax_lines(lines=draft.lines, terms=terms, posted=conditions.posted_taxes)
        if taxes:
            changed = {"lines": tuple(lines), "taxes": tuple(taxes)}
            draft = summed(msgspec.structs.replace(draft, **changed))
    wallet = conditions.wallet
    return draft if wallet is None else draw_prepaid(draft=draft, wallet=wallet)
