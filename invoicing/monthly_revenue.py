"""What recurs in an average month, with the present prices and with others. Pure."""

from fractions import Fraction
from typing import Self

import msgspec

from engine.money import Rounding, format_amount, round_ratio
from plans.shape import Record


class MonthlyRevenue(Record, frozen=True, kw_only=True):
    """All that recurs, usage included, in an average month of the stretch."""

    present: str
    simulated: str
    difference: str


class Monthly(msgspec.Struct, frozen=True):
    """Minor units of an average month, with both lists."""

    present: int
    simulated: int

    @classmethod
    def of(cls, present: int, simulated: int, *, months: Fraction) -> Self:
        """What is charged in so many months, by the month."""
        return cls(
            *(
                round_ratio(
                    amount * months.denominator, months.numerator, rounding=Rounding.HALF_UP
                )
                for amount in (present, simulated)
            )
        )

    def plus(self, other: Self) -> Self:
        """Both together: the parts come to the whole."""
        return type(self)(self.present + other.present, self.simulated + other.simulated)

    def told(self, currency: str) -> MonthlyRevenue:
        """The same in major units."""
        return MonthlyRevenue(
            present=format_amount(self.present, currency=currency),
            simulated=format_amount(self.simulated, currency=currency),
            difference=format_amount(self.simulated - self.present, currency=currency),
        )
