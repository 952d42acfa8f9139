"""The rules of billing once more, in plain loops over ratios: obvious, slow, sharing no code.

Prices are dictionaries as a caller writes them, quantities and amounts are `Fraction`s.
"""

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from zoneinfo import ZoneInfo

CURRENCY_DIGITS = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3}


@lru_cache(maxsize=4096)
def ratio(written):
    """A decimal as a caller writes it; the same few of a price list are read again and again."""
    return Fraction(written)


def amount_minor(price, quantity, fraction, currency):
    """Exact minor units of one charge for a quantity."""
    quantity = max(Fraction(0), quantity)
    allowance = ratio(price.get("included_quantity", "0")) * bound_share(price, fraction)
    quantity = max(Fraction(0), quantity - allowance)
    if "quantity_rounding" in price:
        quantity = rounded_quantity(quantity, price["quantity_rounding"])
    amount = model_amount(price, quantity, bound_share(price, fraction))
    return finished(price, amount, fraction, currency)


def events_minor(price, events, fraction, currency):
    """Exact minor units of one charge for events in time order."""
    if price["model"] != "percentage":
        return amount_minor(price, sum(events, Fraction(0)), fraction, currency)
    share = bound_share(price, fraction)
    total, running, before, still_free = Fraction(0), Fraction(0), 0, True
    if "free_events" not in price and "free_amount" not in price:
        still_free = False
    for value in events:
        running += value
        pays_on = value
        if still_free:
            enough_events = "free_events" in price and not before < price["free_events"] * share
            limit = ratio(price["free_amount"]) * share if "free_amount" in price else None
            if enough_events:
                still_free = False
            elif limit is not None and running > limit:
                still_free = False
                pays_on = running - limit
        before += 1
        if still_free:
            continue
        charge = pays_on * ratio(price["rate"]) / 100 + ratio(price.get("fixed_amount", "0"))
        if "event_minimum" in price and charge < ratio(price["event_minimum"]):
            charge = ratio(price["event_minimum"])
        if "event_maximum" in price and charge > ratio(price["event_maximum"]):
            charge = ratio(price["event_maximum"])
        total += charge
    return finished(price, max(total, Fraction(0)), fraction, currency)


def cells_minor(price, cells, fraction, currency):
    """Exact minor units of one charge for (dimensions, quantity) cells of a matrix."""
    total = Fraction(0)
    for dimensions, quantity in cells:
        unit = price["unit_amount"]
        for row in reversed(price["matrix"]):
            if all(dimensions.get(name) == value for name, value in row["match"].items()):
                unit = row["unit_amount"]
        units = max(Fraction(0), quantity)
        if "quantity_rounding" in price:
            units = rounded_quantity(units, price["quantity_rounding"])
        total += units * ratio(unit)
    return finished(price, total, fraction, currency)


def finished(price, amount, fraction, currency):
    """Proration, then the limits of the line, then minor units."""
    recurring = price["kind"] == "recurring" and price.get("prorate", True)
    if recurring:
        amount = amount * fraction
    if not price.get("group_by"):
        shrink = price.get("prorate_tiers", False) and (price["kind"] == "usage" or recurring)
        share = fraction if shrink else Fraction(1)
        if "minimum_amount" in price:
            amount = max(amount, ratio(price["minimum_amount"]) * share)
        if "maximum_amount" in price:
            amount = min(amount, ratio(price["maximum_amount"]) * share)
    return amount * 10 ** CURRENCY_DIGITS[currency]


def bound_share(price, fraction):
    shrink = price["kind"] == "usage" and price.get("prorate_tiers", False)
    return fraction if shrink else Fraction(1)


def rounded_quantity(quantity, rounding):
    unit = Fraction(1, 10) ** rounding["digits"]
    steps = quantity / unit
    whole = math.floor(steps)
    if rounding["mode"] == "up" and steps > whole:
        whole += 1
    if rounding["mode"] == "half_up" and steps - whole >= Fraction(1, 2):
        whole += 1
    return whole * unit


def model_amount(price, quantity, shrink):
    match price["model"]:
        case "flat":
            return ratio(price["flat_amount"])
        case "per_unit":
            return quantity * ratio(price["unit_amount"])
        case "package":
            size = ratio(price["package_size"])
            count = math.floor(quantity / size)
            if price.get("package_rounding", "up") == "up" and count * size < quantity:
                count += 1
            return count * ratio(price["unit_amount"])
        case "graduated":
            return graduated(price, quantity, shrink)
        case "volume" | "stairstep":
            return volume(price, quantity, shrink)
        case "graduated_percentage":
            tiers = [
                tier | {"unit_amount": ratio(tier.get("rate") or "0") / 100}
                for tier in price["tiers"]
            ]
            return graduated(price | {"tiers": tiers}, quantity, shrink)
        case "dynamic":
            return quantity


def graduated(price, quantity, shrink):
    if quantity == 0 and not price.get("flat_at_zero", True):
        return Fraction(0)
    total, lower = Fraction(0), Fraction(0)
    for number, tier in enumerate(price["tiers"]):
        if number > 0 and quantity <= lower:
            break
        upper = quantity if tier["up_to"] is None else ratio(tier["up_to"]) * shrink
        inside = min(quantity, upper) - lower
        total += inside * ratio(tier.get("unit_amount") or "0")
        total += ratio(tier.get("flat_amount") or "0")
        lower = upper
    return total


def volume(price, quantity, shrink):
    if quantity == 0 and not price.get("flat_at_zero", True):
        return Fraction(0)
    for tier in price["tiers"]:
        if tier["up_to"] is None or quantity <= ratio(tier["up_to"]) * shrink:
            unit = ratio(tier.get("unit_amount") or "0")
            return quantity * unit + ratio(tier.get("flat_amount") or "0")
    raise AssertionError("the last tier is open")


def rounded(amount, mode):
    """Minor units of an amount that is not negative."""
    whole = math.floor(amount)
    rest = amount - whole
    if rest > Fraction(1, 2):
        return whole + 1
    if rest == Fraction(1, 2) and (mode == "half_up" or whole % 2 == 1):
        return whole + 1
    return whole


def elapsed_share(period, active):
    """Proration by elapsed time."""
    microsecond = timedelta(microseconds=1)
    return Fraction((active[1] - active[0]) // microsecond, (period[1] - period[0]) // microsecond)


def dates_between(start, end, timezone):
    """Local dates from the start's on, up to but not including the end's."""
    zone = ZoneInfo(timezone)
    day, last, count = start.astimezone(zone).date(), end.astimezone(zone).date(), 0
    while day < last:
        day, count = day + timedelta(days=1), count + 1
    return count


def thirty_day_months_between(start, end, timezone):
    zone = ZoneInfo(timezone)
    first, last = start.astimezone(zone), end.astimezone(zone)
    months = (last.year - first.year) * 12 + last.month - first.month
    return months * 30 + min(last.day, 30) - min(first.day, 30)


def instant(wall, timezone):
    """A local wall time as an instant, found by asking every minute what the clock shows.

    The first instant whose clock shows `wall`; when none does, `wall` moved on by the gap.
    """
    zone = ZoneInfo(timezone)
    guess = wall.replace(tzinfo=UTC) - timedelta(hours=26)
    before = guess.astimezone(zone).utcoffset()
    candidates = sorted(
        {
            (wall - offset).replace(tzinfo=UTC)
            for offset in {
                (guess + timedelta(hours=hour)).astimezone(zone).utcoffset() for hour in range(53)
            }
        }
    )
    for candidate in candidates:
        if candidate.astimezone(zone).replace(tzinfo=None) == wall:
            return candidate
    return (wall - before).replace(tzinfo=UTC)


def add_months(wall, months, day):
    """`wall` so many months on, at `day` or the last day there is."""
    year, month = wall.year, wall.month
    step = 1 if months > 0 else -1
    for _ in range(abs(months)):
        month += step
        if month == 13:
            year, month = year + 1, 1
        if month == 0:
            year, month = year - 1, 12
    while True:
        try:
            return datetime(year, month, day, wall.hour, wall.minute, wall.second, wall.microsecond)
        except ValueError:
            day -= 1


def boundary(unit, count, anchor, timezone, index):
    """The nth boundary of an anniversary calendar."""
    if index == 0:
        return anchor
    wall = anchor.astimezone(ZoneInfo(timezone)).replace(tzinfo=None)
    days = {"day": 1, "week": 7}
    if unit in days:
        return instant(wall + timedelta(days=days[unit] * count * index), timezone)
    months = {"month": 1, "quarter": 3, "year": 12}[unit]
    return instant(add_months(wall, months * count * index, wall.day), timezone)
