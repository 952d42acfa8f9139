"""Verb: make documents whole: discounts, credit, tax, totals. Reads only."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.assembly import Draft
from invoicing.conditions import complete, pay, reduce
from invoicing.conditions_store import load_conditions
from invoicing.tax import GivenTax
from invoicing.tax_answer_store import load_tax_answers, taxed_customers
from invoicing.tax_provider import (
    TaxQuestion,
    TaxUnknownError,
    given_taxes,
    is_asked,
    question_hash,
    tax_question,
)
from plans.model import Seller


async def complete_drafts(
    *, connection: AsyncConnection, seller: Seller, drafts: Sequence[Draft]
) -> list[Draft]:
    """The drafts, in the order given, with all that stands between their lines and their totals.

    Raises TaxUnknownError where a tax provider has not been asked yet.
    """
    conditions = await load_conditions(connection=connection, seller=seller, drafts=drafts)
    if conditions is None:
        return list(drafts)
    if seller.tax_provider is None:
        return [complete(draft, conditions) for draft in drafts]
    reduced = [reduce(draft, conditions) for draft in drafts]
    given = await _given(connection, seller, reduced)
    return [pay(draft, conditions, given=given.get(index)) for index, draft in enumerate(reduced)]


async def _given(
    connection: AsyncConnection, seller: Seller, drafts: Sequence[Draft]
) -> dict[int, dict[int, list[GivenTax]]]:
    terms = seller.tax_provider
    assert terms is not None
    known = await taxed_customers(
        connection=connection, customers=list({draft.customer.id for draft in drafts})
    )
    asked: dict[int, tuple[str, TaxQuestion]] = {}
    for index, draft in enumerate(drafts):
        customer = known[draft.customer.id]
        if is_asked(draft, customer.exempt):
            question = tax_question(draft=draft, seller=seller, customer=customer.party)
            asked[index] = (question_hash(question=question, url=terms.url), question)
    answers = await load_tax_answers(
        connection=connection, hashes=[name for name, _ in asked.values()]
    )
    missing = {name: question for name, question in asked.values() if name not in answers}
    if missing:
        raise TaxUnknownError(terms=terms, questions=missing)
    return {
        index: given_taxes(question=question, answer=answers[name])
        for index, (name, question) in asked.items()
    }
