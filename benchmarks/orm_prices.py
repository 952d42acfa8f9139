"""Prices as the run through ORM objects rates by them, with `decimal`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from orm_tables import Price
from orm_usage import SampleMeter


class PriceList(NamedTuple):
    """A price made ready: its amount in major units, exactly, for a quantity."""

    key: str
    meter: SampleMeter | None  # None: charged in advance
    amount: Callable[[Decimal], Decimal]


def price_list(price: Price, meters: Mapping[str, SampleMeter]) -> PriceList:
    """What a price's body says, read once."""
    body = price.body
    meter = None if body["kind"] == "recurring" else meters[body["meter"]]
    if body["model"] == "flat":
        flat = Decimal(body["flat_amount"])
        return PriceList(price.key, meter, lambda _: flat)
    if body["model"] == "per_unit":
        return PriceList(price.key, meter, Decimal(body["unit_amount"]).__mul__)
    assert body["model"] == "graduated", body
    tiers, begin = [], Decimal(0)
    for tier in body["tiers"]:
        end = Decimal(tier["up_to"] or "Infinity")
        tiers.append((begin, end, Decimal(tier["unit_amount"])))
        begin = end
    return PriceList(price.key, meter, functools.partial(graduated, tiers))


def graduated(tiers: Sequence[tuple[Decimal, Decimal, Decimal]], quantity: Decimal) -> Decimal:
    amount = Decimal(0)
    for begin, end, unit in tiers:
        if quantity <= begin:
            break
        amount += (min(quantity, end) - begin) * unit
    return amount
