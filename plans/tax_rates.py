"""Tax rates: what a seller must add to, or extract from, what it bills. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Annotated

import msgspec

from engine.errors import FieldError
from engine.money import UnsignedText
from plans.shape import Body, Key, Name, Record, ShortText

Country = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")]


class TaxCategory(StrEnum):
    """How a line stands to tax."""

    STANDARD = "standard"
    ZERO = "zero"
    EXEMPT = "exempt"
    REVERSE_CHARGE = "reverse_charge"


class TaxRateDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/tax_rates`. `percentage` is decimal text.

    `by_place` lets the rate hold for every customer of its country (and region) that has none of
    its own.
    """

    key: Key
    name: Name | None = None
    percentage: UnsignedText
    inclusive: bool = False
    country: Country
    region: ShortText | None = None
    by_place: bool = False


class TaxRate(Record, frozen=True, kw_only=True):
    """A tax rate; it never changes, it can be archived."""

    id: str
    key: str
    name: str | None
    percentage: str
    inclusive: bool
    country: str
    region: str | None
    by_place: bool
    archived_at: datetime | None
    created_at: datetime

    @property
    def jurisdiction(self) -> str:
        """Whose tax it is: `DE`, or `US-CA`."""
        return self.country if self.region is None else f"{self.country}-{self.region}"

    @property
    def share(self) -> Fraction:
        """The rate as a ratio."""
        return Fraction(self.percentage) / 100


def tax_rate_errors(draft: TaxRateDraft) -> list[FieldError]:
    """A rate above 100 is a slip."""
    if Fraction(draft.percentage) <= 100:
        return []
    detail = f"{draft.percentage} is above 100"
    return [FieldError(pointer="/percentage", code="invalid", detail=detail)]


def unknown_rates(
    *, named: Sequence[str], known: Mapping[str, TaxRate], pointer: str = "/tax_rates"
) -> list[FieldError]:
    """An error for each key that names no rate in use, or names one twice."""
    errors: list[FieldError] = []
    for index, key in enumerate(named):
        here = f"{pointer}/{index}"
        if key not in known:
            detail = f"no tax rate {key!r}"
            errors.append(FieldError(pointer=here, code="unknown_tax_rate", detail=detail))
        elif key in named[:index]:
            detail = f"{key!r} is named twice"
            errors.append(FieldError(pointer=here, code="duplicate", detail=detail))
    return errors


def rates_of_place(
    *, rates: Sequence[TaxRate], country: str | None, region: str | None
) -> tuple[TaxRate, ...]:
    """The rates that hold by place: those of the whole country and those of the region."""
    if country is None:
        return ()
    return tuple(
        rate
        for rate in rates
        if rate.by_place and rate.country == country and rate.region in (None, region)
    )
