"""What an outside tax engine is asked of a document, and what it may answer. Pure.

A document is made of facts alone, so an answer is a fact: it is kept under the hash of its question
and never asked again. Making the document a second time finds it and comes out byte-identical.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Final, Protocol

import msgspec

from engine.errors import BillingError, ErrorKind
from engine.journal import PREPAID_CREDITS
from engine.money import UnsignedText, format_amount, format_plain, parse_amount
from engine.period import local_date
from invoicing.assembly import Draft
from invoicing.lines import Line
from invoicing.tax import GivenTax
from plans.model import Address, Party, Seller, TaxExempt, TaxId
from plans.tax_providers import TaxProviderTerms
from plans.tax_rates import TaxCategory

VERSION: Final = 1
_SLACK_MINOR: Final = 1
_QUANTITY_DIGITS: Final = 9
Words = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00]*\Z")]


class TaxPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a party is, and its tax identities."""

    country: str | None
    address: Address | None
    tax_ids: tuple[TaxId, ...]


class AskedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `product` is the price's key, `amount` what is left after discount and credit.

    Amounts are major units without tax.
    """

    index: int
    product: str
    meter: str | None
    quantity: str | None
    amount: str


class TaxQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The body that is sent. `date` is the document's, in the seller's timezone."""

    version: int = VERSION
    date: str
    currency: str
    seller: TaxPlace
    customer: TaxPlace
    customer_key: str
    lines: tuple[AskedLine, ...]


class AnsweredTax(msgspec.Struct, frozen=True, kw_only=True):
    """One tax of a line: whose it is, its effective rate on the line, and the amount, major units.

    `category` says why there is none where there is none, `reason` in words.
    """

    jurisdiction: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9 ._-]{1,60}\Z")]
    name: Words = ""
    percentage: UnsignedText = "0"
    amount: Annotated[str, msgspec.Meta(pattern=r"^-?\d{1,18}(\.\d{1,12})?\Z")] = "0"
    category: TaxCategory = TaxCategory.STANDARD
    reason: Words | None = None


class AnsweredLine(msgspec.Struct, frozen=True, kw_only=True):
    """The taxes of the line with that index."""

    index: int
    taxes: Annotated[tuple[AnsweredTax, ...], msgspec.Meta(max_length=20)]


class TaxAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body that comes back: every line that was asked for, once."""

    lines: Annotated[tuple[AnsweredLine, ...], msgspec.Meta(max_length=100_000)]


class TaxProvider(Protocol):
    """Whoever answers questions about tax; asked only while no transaction is open."""

    async def ask(self, question: TaxQuestion) -> TaxAnswer:
        """What the lines are taxed. Raises BillingError where there is no answer to rely on."""
        ...


class TaxUnknownError(Exception):
    """Documents cannot be made until these questions, by their hashes, are answered.

    Never leaves the verb that asks them: the transaction is rolled back, the provider is asked, the
    answers are kept, and the documents are made again.
    """

    def __init__(self, *, terms: TaxProviderTerms, questions: Mapping[str, TaxQuestion]) -> None:
        """Keep who is to be asked, and what."""
        super().__init__(f"{len(questions)} questions about tax")
        self.terms = terms
        self.questions = dict(questions)


def provider_failed(detail: str) -> BillingError:
    """The provider did not answer; what depends on it waits."""
    return BillingError("tax_provider_failed", detail, kind=ErrorKind.UNAVAILABLE)


def answer_invalid(detail: str) -> BillingError:
    """The provider answered what cannot be believed."""
    return BillingError("tax_answer_invalid", detail[:500], kind=ErrorKind.UNAVAILABLE)


def is_asked(draft: Draft, exempt: TaxExempt) -> bool:
    """Whether anything of the document is the provider's to say."""
    if exempt is not TaxExempt.NONE:
        return False
    return any(line.taxable_minor for line in draft.lines if is_told(line))


def is_told(line: Line) -> bool:
    """Whether the provider is told of a line.

    Not of what gives back, which takes the tax of then along; of credit, which is taxed when it is
    used; and of a line by hand that names its own rates.
    """
    gives_back = line.amount_minor < 0 and bool(line.adjusted)
    return not (gives_back or line.account == PREPAID_CREDITS or line.tax_rates)


def tax_question(*, draft: Draft, seller: Seller, customer: Party) -> TaxQuestion:
    """What is asked of a document whose lines have their discounts and promotional credit."""
    return TaxQuestion(
        date=local_date(at=draft.issued_at, timezone=seller.timezone).isoformat(),
        currency=draft.currency,
        seller=TaxPlace(country=seller.country, address=seller.address, tax_ids=seller.tax_ids),
        customer=TaxPlace(
            country=customer.country, address=customer.address, tax_ids=customer.tax_ids
        ),
        customer_key=draft.customer.key,
        lines=tuple(
            AskedLine(
                index=index,
                product=line.key,
                meter=line.meter,
                quantity=None
                if line.quantity_nanos is None
                else format_plain(line.quantity_nanos, digits=_QUANTITY_DIGITS),
                amount=format_amount(line.taxable_minor, currency=draft.currency),
            )
            for index, line in enumerate(draft.lines)
            if is_told(line)
        ),
    )


def question_hash(*, question: TaxQuestion, url: str) -> str:
    """The name under which its answer is kept: another provider is asked anew."""
    canonical = msgspec.json.encode([url, question], order="sorted")
    return hashlib.sha256(canonical).hexdigest()


def given_taxes(*, question: TaxQuestion, answer: TaxAnswer) -> dict[int, list[GivenTax]]:
    """The taxes of each line by its index.

    Error: `tax_answer_invalid`, where a line is missing or told twice, or an amount is not what its
    rate makes of the line to the minor unit.
    """
    asked = {line.index: line for line in question.lines}
    if sorted(line.index for line in answer.lines) != sorted(asked):
        raise answer_invalid("the answer does not tell every line once")
    return {
        line.index: [
            GivenTax(
                rate=tax.name,
                percentage=tax.percentage,
                jurisdiction=tax.jurisdiction,
                category=_category(tax),
                amount_minor=_amount_minor(tax, asked[line.index], question.currency),
            )
            for tax in line.taxes
        ]
        for line in answer.lines
    }


def _category(tax: AnsweredTax) -> TaxCategory:
    nothing = tax.category is TaxCategory.STANDARD and not Fraction(tax.percentage)
    return TaxCategory.ZERO if nothing else tax.category


def _amount_minor(tax: AnsweredTax, line: AskedLine, currency: str) -> int:
    where = f"line {line.index}, {tax.jurisdiction}"
    try:
        amount = parse_amount(tax.amount, currency=currency)
    except BillingError as error:
        raise answer_invalid(f"{where}: {error.detail}") from None
    share = Fraction(tax.percentage) / 100
    if share > 1 or len(tax.percentage.partition(".")[0].lstrip("0")) > 3:
        raise answer_invalid(f"{where}: {tax.percentage} is above 100")
    if tax.category is not TaxCategory.STANDARD and (share or amount):
        raise answer_invalid(f"{where}: {tax.category.value} is no tax")
    exact = parse_amount(line.amount, currency=currency) * share
    if abs(amount - exact) > _SLACK_MINOR:
        raise answer_invalid(
            f"{where}: {tax.amount} is not {tax.percentage} percent of {line.amount}"
        )
    return amount
