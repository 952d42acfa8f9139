"""Verb: derive subscriptions that share their terms with others, all at once. Reads only."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.alike import Due, Sheaf, Terms, asked, sheaf_of, terms_of, to_rate
from invoicing.charges import ProrationTerms
from invoicing.expect_usage import UsageAhead, expect_usage
from invoicing.portions import FEW
from metering.measure import measure
from plans.model import Seller
from plans.store import meters_by_key
from plans.subscription_store import PriceBook, find_agreements
from rating.rate import AmountOutOfRangeError, rate


async def derive_alike(
    *,
    connection: AsyncConnection,
    seller: Seller,
    due: Sequence[Due],
    book: PriceBook,
    few: int = FEW,
    ahead: UsageAhead | None = None,
) -> Sheaf | None:
    """What those of the customers owe that have one plain subscription; None where none has.

    With `ahead` usage is measured that is due later, and what was measured so before is not read.
    The places in the sheaf are those in `due`. Whatever is out of the ordinary (amounts beyond 64
    bits, for one) is left to who derives one by one, and so are its errors.
    """
    samples: dict[tuple[int, int], str] = {}
    members = 0
    for each in due:
        if each.terms is not None and each.subscription is not None:
            samples.setdefault(each.terms, each.subscription)
            members += 1
    if members < few * len(samples) or not members:
        return None
    found = await find_agreements(
        connection=connection, subscriptions=list(samples.values()), book=book
    )
    agreements = {agreement.id: agreement for agreement in found}
    instants = {each.subscription: each.due_at for each in due}
    proration = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
    terms: list[Terms] = []
    numbers: dict[tuple[int, int], int] = {}
    for key, subscription in samples.items():
        one = terms_of(
            agreement=agreements[subscription],
            due_at=instants[subscription],
            proration=proration,
        )
        if one is not None:
            numbers[key] = len(terms)
            terms.append(one)
    chosen = [
        (place, numbers[each.terms], each.number)
        for place, each in enumerate(due)
        if each.terms is not None and each.terms in numbers
    ]
    if not chosen:
        return None
    return await _derive(connection, seller, terms, chosen, ahead)


async def _derive(
    connection: AsyncConnection,
    seller: Seller,
    terms: Sequence[Terms],
    chosen: Sequence[tuple[int, int, int]],
    ahead: UsageAhead | None,
) -> Sheaf | None:
    meters = await meters_by_key(connection=connection)
    ask = asked(
        terms=terms,
        place=[place for place, _, _ in chosen],
        term=[term for _, term, _ in chosen],
        customers=[customer for _, _, customer in chosen],
        meters=meters,
    )
    measured = None
    if ask.windows is not None:
        by_number = {meter.number: meter for meter in meters.values()}
        if ahead is not None:
            await expect_usage(
                connection=connection, meters=by_number, windows=ask.windows, ahead=ahead
            )
        measured = await measure(
            connection=connection,
            meters=by_number,
            windows=ask.windows,
            kept=None if ahead is None else ahead.kept,
        )
    lines = to_rate(ask, measured)
    if lines is None:
        return None
    try:
        amounts = rate(
            tables=lines.tables,
            price=lines.price,
            quantity=lines.quantity,
            fraction_numerator=lines.numerator,
            fraction_denominator=lines.denominator,
            rounding=seller.rounding,
        )
    except AmountOutOfRangeError:
        return None
    return sheaf_of(ask, amount_minor=amounts, nanos=lines.nanos)
