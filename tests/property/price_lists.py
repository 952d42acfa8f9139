"""Price lists and quantities at random, leaning towards the edges of the kernel's lanes."""

import random
from fractions import Fraction

CURRENCIES = ["USD", "JPY", "KWD"]
MODES = ["up", "down", "half_up"]


def decimal(chance: random.Random, whole_digits: int, fraction_digits: int) -> str:
    whole = chance.randrange(10 ** chance.randint(0, whole_digits))
    digits = chance.randint(0, fraction_digits)
    return f"{whole}.{chance.randrange(10**digits):0{digits}d}" if digits else str(whole)


def money(chance: random.Random, currency: str) -> str:
    digits = {"USD": 2, "JPY": 0, "KWD": 3}[currency]
    whole = chance.randrange(10 ** chance.randint(1, 5))
    return f"{whole}.{chance.randrange(10**digits):0{digits}d}" if digits else str(whole)


def tiers(chance: random.Random, currency: str, fineness: int) -> list[dict]:
    bounds, bound = [], Fraction(0)
    for _ in range(chance.choice([0, 1, 2, 4, 4, 11])):
        digits = chance.choice([0, 0, 0, fineness])
        bound += Fraction(chance.randrange(1, 10 ** chance.randint(1, 9)), 10**digits)
        bounds.append(exact_decimal(bound))
    return [
        {
            "up_to": up_to,
            "unit_amount": chance.choice([None, decimal(chance, 4, 12), decimal(chance, 3, 4)]),
            "flat_amount": chance.choice([None, None, money(chance, currency)]),
        }
        for up_to in [*bounds, None]
    ]


def exact_decimal(value: Fraction) -> str:
    scaled = value * 10**12
    assert scaled.denominator == 1
    whole, fraction = divmod(scaled.numerator, 10**12)
    return f"{whole}.{fraction:012d}".rstrip("0").rstrip(".")


def price(chance: random.Random, key: str, currency: str, fineness: int) -> dict:
    model = chance.choice(["flat", "per_unit", "package", "graduated", "graduated", "volume"])
    body: dict = {
        "key": key,
        "kind": chance.choice(["recurring", "usage", "usage", "one_time"]),
        "model": model,
    }
    match model:
        case "flat":
            body["flat_amount"] = money(chance, currency)
        case "per_unit":
            body["unit_amount"] = chance.choice(
                [decimal(chance, 3, 12), decimal(chance, 2, 3), decimal(chance, 9, 1)]
            )
        case "package":
            body["unit_amount"] = decimal(chance, 3, 4)
            size = chance.choice([decimal(chance, 5, fineness), str(10 ** chance.randrange(7))])
            body["package_size"] = size if size.strip("0.") else "1"
            body["package_rounding"] = chance.choice(["up", "down"])
        case _:
            body["tiers"] = tiers(chance, currency, fineness)
            body["flat_at_zero"] = chance.random() < 0.6
    if chance.random() < 0.2:
        body["included_quantity"] = decimal(chance, 5, fineness)
    if chance.random() < 0.2:
        body["quantity_rounding"] = {
            "mode": chance.choice(MODES),
            "digits": chance.randint(-4, fineness),
        }
    limits = sorted([money(chance, currency), money(chance, currency)], key=Fraction)
    if chance.random() < 0.15:
        body["minimum_amount"] = limits[0]
    if chance.random() < 0.15:
        body["maximum_amount"] = limits[1]
    body["prorate"] = chance.random() < 0.9
    body["prorate_tiers"] = chance.random() < 0.05
    return body


def mantissa(chance: random.Random, body: dict, digits: int) -> int:
    """A quantity × 10^digits: any size, on a bound, beside one, or where the amount nearly ties."""
    scale = 10**digits
    kind = chance.randrange(8)
    if kind == 0:
        return chance.choice([0, 1, -1, -scale, scale])
    if kind == 1:
        edge = chance.choice([10**9, 10**12, 10**15, 10**18 - 1, 10**18]) // chance.choice([1, 7])
        return min(edge + chance.randint(-1, 1), 10**15 * scale - 1)
    units = [body.get("unit_amount"), *(tier["unit_amount"] for tier in body.get("tiers", []))]
    bounds = [tier["up_to"] for tier in body.get("tiers", []) if tier["up_to"]]
    if kind == 2 and bounds:
        bound = Fraction(chance.choice(bounds)) * scale
        return bound.numerator // bound.denominator + chance.randint(-1, 1)
    if kind in {3, 4}:
        unit = Fraction(chance.choice(units) or "0")
        if unit:
            tie = Fraction(2 * chance.randrange(10**6) + 1, 2000) / unit * scale
            return min(tie.numerator // tie.denominator + chance.randint(-1, 1), 10**17)
    return chance.randrange(10 ** chance.randint(1, 9) * max(scale // 10**3, 1))
