"""Price lists and quantities at random, leaning towards the edges of the kernel's lanes."""

import random
from fractions import Fraction

CURRENCIES = ["USD", "JPY", "KWD"]
MODES = ["up", "down", "half_up"]
QUANTITY_MODELS = [
    "flat",
    "per_unit",
    "package",
    "graduated",
    "graduated",
    "volume",
    "stairstep",
    "graduated_percentage",
    "dynamic",
]
DIMENSIONS = {"region": ["eu", "us", "ap"], "size": ["small", "large"]}


def decimal(chance: random.Random, whole_digits: int, fraction_digits: int) -> str:
    whole = chance.randrange(10 ** chance.randint(0, whole_digits))
    digits = chance.randint(0, fraction_digits)
    return f"{whole}.{chance.randrange(10**digits):0{digits}d}" if digits else str(whole)


def money(chance: random.Random, currency: str) -> str:
    digits = {"USD": 2, "JPY": 0, "KWD": 3}[currency]
    whole = chance.randrange(10 ** chance.randint(1, 5))
    return f"{whole}.{chance.randrange(10**digits):0{digits}d}" if digits else str(whole)


def tiers(chance: random.Random, currency: str, fineness: int, model: str) -> list[dict]:
    """Bounds anywhere; what a tier may say depends on the model."""
    unit = {"graduated_percentage": "rate", "stairstep": None}.get(model, "unit_amount")
    bounds, bound = [], Fraction(0)
    for _ in range(chance.choice([0, 1, 2, 4, 4, 11])):
        digits = chance.choice([0, 0, 0, fineness])
        bound += Fraction(chance.randrange(1, 10 ** chance.randint(1, 9)), 10**digits)
        bounds.append(exact_decimal(bound))
    listed = []
    for up_to in [*bounds, None]:
        tier = {"up_to": up_to, "flat_amount": chance.choice([None, None, money(chance, currency)])}
        if unit is not None:
            tier[unit] = chance.choice([None, decimal(chance, 4, 12), decimal(chance, 3, 4)])
        listed.append(tier)
    return listed


def exact_decimal(value: Fraction) -> str:
    scaled = value * 10**12
    assert scaled.denominator == 1
    whole, fraction = divmod(scaled.numerator, 10**12)
    return f"{whole}.{fraction:012d}".rstrip("0").rstrip(".")


def price(chance: random.Random, key: str, currency: str, fineness: int) -> dict:
    model = chance.choice(QUANTITY_MODELS)
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
        case "dynamic":
            body["kind"] = "usage"
        case _:
            body["tiers"] = tiers(chance, currency, fineness, model)
            body["flat_at_zero"] = chance.random() < 0.6
    if chance.random() < 0.2:
        body["included_quantity"] = decimal(chance, 5, fineness)
    if chance.random() < 0.2:
        body["quantity_rounding"] = {
            "mode": chance.choice(MODES),
            "digits": chance.randint(-4, fineness),
        }
    return body | line_terms(chance, currency)


def line_terms(chance: random.Random, currency: str) -> dict:
    """Limits, groups and what a part period does."""
    terms: dict = {}
    limits = sorted([money(chance, currency), money(chance, currency)], key=Fraction)
    if chance.random() < 0.15:
        terms["minimum_amount"] = limits[0]
    if chance.random() < 0.15:
        terms["maximum_amount"] = limits[1]
    terms["prorate"] = chance.random() < 0.9
    terms["prorate_tiers"] = chance.random() < 0.05
    if chance.random() < 0.1:
        terms["group_by"] = ["project"]
    return terms


def percentage(chance: random.Random, key: str, currency: str, fineness: int) -> dict:
    """Free events, a free amount, both or none; limits of an event; rates of any fineness."""
    body: dict = {"key": key, "kind": "usage", "model": "percentage"}
    body["rate"] = chance.choice([decimal(chance, 2, 12), decimal(chance, 1, 2), "0", "2.9"])
    if chance.random() < 0.6:
        body["fixed_amount"] = chance.choice([money(chance, currency), decimal(chance, 1, 12)])
    if chance.random() < 0.35:
        body["free_events"] = chance.randint(0, 6)
    if chance.random() < 0.35:
        body["free_amount"] = decimal(chance, 5, chance.choice([0, 2, fineness]))
    least, most = sorted([money(chance, currency), decimal(chance, 4, 3)], key=Fraction)
    if chance.random() < 0.25:
        body["event_minimum"] = least
    if chance.random() < 0.25:
        body["event_maximum"] = most
    return body | line_terms(chance, currency)


def matrix(
    chance: random.Random, key: str, currency: str, fineness: int, *, usual: bool = False
) -> dict:
    """Rows that name one dimension or two, so that several can match; `usual` unit amounts."""

    def unit() -> str:
        if usual:
            return f"0.{chance.randrange(10**8):010d}"
        return chance.choice([decimal(chance, 3, 12), decimal(chance, 2, 4), "0"])

    rows = []
    for _ in range(chance.randint(1, 5)):
        names = chance.choice([["region"], ["size"], ["region", "size"]])
        match = {name: chance.choice(DIMENSIONS[name]) for name in names}
        rows.append({"match": match, "unit_amount": unit()})
    body = {"key": key, "kind": "usage", "model": "matrix", "matrix": rows, "unit_amount": unit()}
    if chance.random() < 0.2:
        digits = chance.randint(-4, fineness)
        body["quantity_rounding"] = {"mode": chance.choice(MODES), "digits": digits}
    return body | line_terms(chance, currency)


def event_values(chance: random.Random, body: dict, digits: int) -> list[int]:
    """Values × 10^digits in time order: none, many, negative ones, on the free amount, huge."""
    scale = 10**digits
    kind = chance.randrange(10)
    if kind == 0:
        return []
    count = chance.choice([1, 1, 2, 4, 7, 12])
    top = 10 ** chance.randint(1, 6) * scale
    values = [chance.randrange(top) for _ in range(count)]
    if kind in {1, 2}:
        values = [chance.choice([value, -value, 0]) for value in values]
    if kind == 3:
        values[chance.randrange(count)] = chance.choice([1, -1]) * (10**15 * scale - 1)
    if kind in {4, 5} and "free_amount" in body:
        free = Fraction(body["free_amount"]) * scale
        first = chance.randrange(free.numerator // free.denominator + 1)
        values[:2] = [first, free.numerator // free.denominator - first + chance.randint(-1, 1)]
    rate = Fraction(body["rate"]) if "rate" in body else Fraction(0)
    if kind == 6 and rate:
        tie = Fraction(2 * chance.randrange(10**6) + 1, 2) / rate * scale
        near = tie.numerator // tie.denominator + chance.randint(-1, 1)
        values = [min(near, 10**15 * scale - 1)]
    return values


def cell_values(chance: random.Random, body: dict, digits: int) -> list[tuple[dict[str, str], int]]:
    """Dimensions and quantity × 10^digits of some cells; some name what no row does."""
    cells = []
    for _ in range(chance.choice([0, 1, 1, 2, 3, 6])):
        dimensions = {name: chance.choice(values) for name, values in DIMENSIONS.items()}
        if chance.random() < 0.1:
            dimensions.pop("size")
        quantity = mantissa(chance, {"unit_amount": body["unit_amount"]}, digits)
        cells.append((dimensions, quantity))
    return cells


def usual_cells(chance: random.Random, digits: int) -> list[tuple[dict[str, str], int]]:
    """A million units at most: with usual unit amounts beyond one int64, and not by much."""
    return [
        (
            {name: chance.choice(values) for name, values in DIMENSIONS.items()},
            chance.randrange(10**6 * 10**digits),
        )
        for _ in range(chance.randrange(6))
    ]


def mantissa(chance: random.Random, body: dict, digits: int) -> int:
    """A quantity × 10^digits: any size, on a bound, beside one, or where the amount nearly ties."""
    scale = 10**digits
    kind = chance.randrange(8)
    if kind == 0:
        return chance.choice([0, 1, -1, -scale, scale])
    if kind == 1:
        edge = chance.choice([10**9, 10**12, 10**15, 10**18 - 1, 10**18]) // chance.choice([1, 7])
        return min(edge + chance.randint(-1, 1), 10**15 * scale - 1)
    units = [body.get("unit_amount"), *(tier.get("unit_amount") for tier in body.get("tiers", []))]
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
