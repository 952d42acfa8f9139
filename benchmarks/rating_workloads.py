"""What the rating benchmark rates: price lists, lines over them, and the kernel's own run."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding
from plans.prices import (
    GraduatedPrice,
    Kind,
    MatrixPrice,
    MatrixRow,
    PackagePrice,
    PercentagePrice,
    Price,
    Tier,
    VolumePrice,
)
from rating.matrix import rate_cells
from rating.percentage import rate_events
from rating.rate import Quantities, rate
from rating.tables import PriceTables, compile_prices

PLANS, TIERS, DIGITS, MATRIX_ROWS, PER_LINE = 1_000, 5, 6, 12, 4
CENT_DIGITS = 2

Random = np.random.Generator
Answer = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Quantified:
    """n lines rated from one quantity each, in millionths."""

    tables: PriceTables
    plan: NDArray[np.int32]
    quantity: NDArray[np.int64]

    def by_kernel(self) -> Answer:
        """Minor units by the kernel that billing runs use."""
        whole = np.broadcast_to(np.ones(1, dtype=np.int64), self.plan.shape)
        return rate(
            tables=self.tables,
            price=self.plan,
            quantity=Quantities(mantissa=self.quantity, digits=DIGITS),
            fraction_numerator=whole,
            fraction_denominator=whole,
            rounding=Rounding.HALF_UP,
        )


@dataclass(frozen=True, kw_only=True)
class Evented:
    """n lines rated from their events, values in cents and in time order."""

    tables: PriceTables
    plan: NDArray[np.int32]
    offsets: NDArray[np.int64]
    value: NDArray[np.int64]

    def by_kernel(self) -> Answer:
        """Minor units by the kernel that billing runs use."""
        return rate_events(
            tables=self.tables,
            price=self.plan,
            offsets=self.offsets,
            values=Quantities(mantissa=self.value, digits=CENT_DIGITS),
            rounding=Rounding.HALF_UP,
        )


@dataclass(frozen=True, kw_only=True)
class Celled:
    """n lines rated from cells: the matrix row of each, and its quantity in millionths."""

    tables: PriceTables
    plan: NDArray[np.int32]
    offsets: NDArray[np.int64]
    row: NDArray[np.int32]
    quantity: NDArray[np.int64]

    def by_kernel(self) -> Answer:
        """Minor units by the kernel that billing runs use."""
        return rate_cells(
            tables=self.tables,
            price=self.plan,
            offsets=self.offsets,
            row=self.row,
            quantity=Quantities(mantissa=self.quantity, digits=DIGITS),
            rounding=Rounding.HALF_UP,
        )


def compiled(prices: list[Price]) -> PriceTables:
    return compile_prices(prices=prices, currencies=["USD"] * len(prices))


def tiered(
    random: Random, model: type[GraduatedPrice] | type[VolumePrice], tiers: int = TIERS
) -> list[Price]:
    """Unit prices of ten fractional digits that fall from tier to tier."""
    prices: list[Price] = []
    for plan in range(PLANS):
        bounds = np.cumsum(random.integers(10, 1_000, tiers - 1)).tolist()
        units = sorted(random.integers(10_000_000, 2_000_000_000, tiers).tolist(), reverse=True)
        flats = random.integers(0, 2_000, tiers).tolist()
        prices.append(
            model(
                key=f"p{plan}",
                kind=Kind.USAGE,
                tiers=tuple(
                    Tier(
                        up_to=str(bound) if bound is not None else None,
                        unit_amount=f"0.{unit:010d}",
                        flat_amount=f"{flat // 100}.{flat % 100:02d}",
                    )
                    for bound, unit, flat in zip([*bounds, None], units, flats, strict=True)
                ),
            )
        )
    return prices


def evenly_over_tiers(random: Random, prices: list[Price], count: int) -> Quantified:
    """As many lines in every tier."""
    listed = [price.tiers for price in prices if isinstance(price, GraduatedPrice | VolumePrice)]
    bounds = np.array([[int(tier.up_to or 0) for tier in tiers] for tiers in listed])
    tiers = bounds.shape[1]
    bounds[:, -1] = 2 * bounds[:, -2]
    plan = random.integers(0, len(prices), count).astype(np.int32)
    tier = random.integers(0, tiers, count)
    lower = np.where(tier == 0, 0, bounds[plan, tier - 1]) * 10**DIGITS
    upper = bounds[plan, tier] * 10**DIGITS
    quantity = random.integers(lower + 1, upper + 1, dtype=np.int64)
    return Quantified(tables=compiled(prices), plan=plan, quantity=quantity)


def packages(random: Random, count: int) -> Quantified:
    """Sizes of whole units, unit prices of four digits."""
    prices: list[Price] = [
        PackagePrice(
            key=f"p{plan}",
            kind=Kind.USAGE,
            unit_amount=f"{random.integers(0, 90)}.{random.integers(0, 10_000):04d}",
            package_size=str(random.integers(1, 5_000)),
            package_rounding="up" if random.random() < 0.8 else "down",
        )
        for plan in range(PLANS)
    ]
    plan = random.integers(0, PLANS, count).astype(np.int32)
    quantity = random.integers(0, 10**6 * 10**DIGITS, count)
    return Quantified(tables=compiled(prices), plan=plan, quantity=quantity)


def percentages(random: Random, count: int) -> Evented:
    """Half of the plans rate plus fixed; the others with free events, a free amount, limits."""

    def cents(top: int) -> str:
        return f"{random.integers(0, top)}.{random.integers(0, 100):02d}"

    prices: list[Price] = []
    for plan in range(PLANS):
        plain = plan % 2 == 0
        prices.append(
            PercentagePrice(
                key=f"p{plan}",
                kind=Kind.USAGE,
                rate=cents(5),
                fixed_amount=cents(1),
                free_events=None if plain else int(random.integers(1, 4)),
                free_amount=None if plain else cents(500),
                event_minimum=None if plain else cents(1),
                event_maximum=None if plain else f"{random.integers(5, 50)}.00",
            )
        )
    plan = random.integers(0, PLANS, count).astype(np.int32)
    offsets = ragged(random, count)
    value = random.integers(1, 200_000, int(offsets[-1]))
    return Evented(tables=compiled(prices), plan=plan, offsets=offsets, value=value)


def matrices(random: Random, count: int) -> Celled:
    """Twelve rows a plan, unit prices of ten fractional digits; some cells match no row."""

    def unit() -> str:
        return f"0.{random.integers(10_000_000, 2_000_000_000):010d}"

    prices: list[Price] = [
        MatrixPrice(
            key=f"p{plan}",
            kind=Kind.USAGE,
            unit_amount=unit(),
            matrix=tuple(
                MatrixRow(match={"model": f"m{row}"}, unit_amount=unit())
                for row in range(MATRIX_ROWS)
            ),
        )
        for plan in range(PLANS)
    ]
    plan = random.integers(0, PLANS, count).astype(np.int32)
    offsets = ragged(random, count)
    cells = int(offsets[-1])
    return Celled(
        tables=compiled(prices),
        plan=plan,
        offsets=offsets,
        row=random.integers(-1, MATRIX_ROWS, cells).astype(np.int32),
        quantity=random.integers(1, 5_000 * 10**DIGITS, cells),
    )


def ragged(random: Random, count: int) -> NDArray[np.int64]:
    """Offsets of one to seven elements a line, four on average."""
    sizes = random.integers(1, 2 * PER_LINE, count)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Lines of all sorts: a third are groups of a price that rates each project apart."""

    parts: tuple[Quantified | Evented | Celled, ...]

    def by_kernel(self) -> Answer:
        """Minor units by the kernel that billing runs use."""
        return np.concatenate([part.by_kernel() for part in self.parts])


def mixed(random: Random, count: int) -> Mixed:
    """Shares of a usual month: tiers 55 %, packages 15 %, percentages 15 %, matrices 15 %."""

    def grouped(part: NDArray[np.int32]) -> NDArray[np.int32]:
        """Runs of six lines, a third of all, become groups of one price."""
        runs = np.arange(len(part)) // 6
        return np.where(runs % 3 == 0, part[runs * 6], part)

    by_tiers = [
        evenly_over_tiers(random, tiered(random, GraduatedPrice), count * 35 // 100),
        evenly_over_tiers(random, tiered(random, VolumePrice), count * 20 // 100),
    ]
    others = [
        packages(random, count * 15 // 100),
        percentages(random, count * 15 // 100),
        matrices(random, count * 15 // 100),
    ]
    for part in (*by_tiers, *others):
        part.plan[:] = grouped(part.plan)
    return Mixed(parts=(*by_tiers, *others))


Workload = Quantified | Evented | Celled | Mixed
Run = Callable[[], Answer]
