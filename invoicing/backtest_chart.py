"""A simulation as a picture: totals and the differences of customers, for each currency. Pure.

SVG without scripts, fonts or addresses of others; what it shows is said in words too, and less and
more differ in hatching as well as in colour.
"""

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from engine.money import parse_amount
from invoicing.simulation import Bin, CurrencyEffect, Simulation

WIDTH: Final = 860
_LEFT: Final = 150
_RIGHT: Final = 150
_ROOM: Final = WIDTH - _LEFT - _RIGHT
_TOP: Final = 84
_PANEL: Final = 500
_PLOT: Final = 190
_SIDE: Final = 70
_BAR: Final = 26
_STYLE: Final = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1c2430 }
.title { font-size: 20px; font-weight: 600 } .head { font-size: 15px; font-weight: 600 }
.soft { fill: #5b6675 } .end { text-anchor: end } .middle { text-anchor: middle }
.strong { font-weight: 600 } .small { font-size: 11.5px }
.axis { stroke: #8a94a3; stroke-width: 1 } .grid { stroke: #e6e9ee; stroke-width: 1 }
.present { fill: #8a94a3 } .simulated { fill: #3b4a9c }
.less { fill: #1b7f79 } .more { fill: url(#hatched) }
"""
_HATCHED: Final = (
    '<defs><pattern id="hatched" width="6" height="6" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(45)"><rect width="6" height="6" fill="#d9822b"/>'
    '<rect width="2" height="6" fill="#b9640f"/></pattern></defs>'
)
MINUS: Final = "−"


def draw_chart(simulation: Simulation) -> str:
    """The picture as SVG; one panel for each currency."""
    height = _TOP + _PANEL * max(len(simulation.totals), 1)
    title = "Another price list over past usage"
    told = " ".join(_sentence(one) for one in simulation.totals) or "No charges in this stretch."
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title told"',
        f'  width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f'<title id="title">{escape(title)}</title><desc id="told">{escape(told)}</desc>',
        f"<style>{_STYLE}</style>{_HATCHED}",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(32, 40, title, "title"),
        _text(32, 63, f"{_stretch(simulation)}; before coupons, credit and tax", "soft"),
        *_left_out(simulation),
    ]
    if not simulation.totals:
        parts.append(_text(32, _TOP + 40, "No charges in this stretch.", "head"))
    for place, effect in enumerate(simulation.totals):
        parts += _panel(effect, _TOP + _PANEL * place)
    return "\n".join([*parts, "</svg>", ""])


def _left_out(simulation: Simulation) -> Iterator[str]:
    count = simulation.not_simulated_count
    if count:
        yield _text(WIDTH - 32, 40, f"left out of all sums: {_count(count)}", "head end")


def _stretch(simulation: Simulation) -> str:
    return (
        f"Billing periods that ended after {simulation.start:%Y-%m-%d %H:%M} and by"
        f" {simulation.end:%Y-%m-%d %H:%M} UTC"
    )


def _sentence(one: CurrencyEffect) -> str:
    percent = "" if one.percent is None else f" ({_signed(one.percent)} %)"
    return (
        f"{one.currency}: {shown(one.present)} with the present prices, {shown(one.simulated)} with"
        f" the others, {_signed(one.difference)}{percent}; by the month"
        f" {_signed(one.mrr.difference)}. Customers paying"
        f" less: {one.winners}, more: {one.losers}, the same: {one.unchanged}."
    )


def _panel(one: CurrencyEffect, top: int) -> Iterator[str]:
    yield f'<g role="group" aria-label={quoteattr(_sentence(one))}>'
    yield f'<line class="grid" x1="32" y1="{top}" x2="{WIDTH - 32}" y2="{top}"/>'
    yield _text(32, top + 32, f"Total in {one.currency}", "head")
    percent = "" if one.percent is None else f"  ({_signed(one.percent)} %)"
    yield _text(WIDTH - 32, top + 32, f"{_signed(one.difference)}{percent}", "head end")
    yield from _totals(one, top + 48)
    monthly = (
        f"by the month, without one-time prices: {shown(one.mrr.present)} \u2192"
        f" {shown(one.mrr.simulated)} ({_signed(one.mrr.difference)})"
    )
    yield _text(_LEFT, top + 136, monthly, "soft")
    yield _text(32, top + 178, "Customers by what they pay less or more", "head")
    yield _text(WIDTH - 32, top + 178, f"customers: {_count(one.customers)}", "soft end")
    yield from _legend(one, top + 202)
    yield from _histogram(one, top + 222)
    yield "</g>"


def _totals(one: CurrencyEffect, top: int) -> Iterator[str]:
    amounts = [parse_amount(each, currency=one.currency) for each in (one.present, one.simulated)]
    largest = max(*amounts, 1)
    rows = (
        ("present prices", one.present, "present"),
        ("other prices", one.simulated, "simulated"),
    )
    for place, (name, told, kind) in enumerate(rows):
        y = top + place * (_BAR + 10)
        width = max(amounts[place], 0) * _ROOM // largest
        yield _text(_LEFT - 10, y + 18, name, "end")
        yield f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" rx="2"/>'
        yield _text(_LEFT + width + 8, y + 18, shown(told), "strong")


def _legend(one: CurrencyEffect, y: int) -> Iterator[str]:
    x = 32
    for count, words, kind in ((one.winners, "pay less", "less"), (one.losers, "pay more", "more")):
        yield f'<rect class="{kind}" x="{x}" y="{y - 11}" width="12" height="12" rx="2"/>'
        yield _text(x + 18, y, f"{_count(count)} {words}", "")
        x += 180
    yield _text(x, y, f"{_count(one.unchanged)} pay the same (not shown)", "soft")


def _histogram(one: CurrencyEffect, top: int) -> Iterator[str]:
    if not one.histogram:
        yield _text(WIDTH // 2, top + _PLOT // 2, "Nobody pays anything else.", "soft middle")
        return
    base, room = top + _PLOT + 14, WIDTH - 2 * _SIDE
    most = max(each.customers for each in one.histogram)
    step = room // len(one.histogram)
    left = _SIDE + (room - step * len(one.histogram)) // 2
    right = left + step * len(one.histogram)
    for mark in marks(most=most):
        y = base - mark * _PLOT // most
        yield f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>'
        yield _text(left - 8, y + 4, _count(mark), "soft small end")
    for place, each in enumerate(one.histogram):
        x, size = left + step * place, each.customers * _PLOT // most
        size = max(size, 2) if each.customers else 0
        kind = "less" if _is_less(each) else "more"
        yield (
            f'<rect class="{kind}" x="{x + 1}" y="{base - size}" width="{step - 2}"'
            f' height="{size}"><title>{escape(_told(each, one.currency))}</title></rect>'
        )
    yield f'<line class="axis" x1="{left}" y1="{base}" x2="{right}" y2="{base}"/>'
    yield from _ticks(one.histogram, left=left, step=step, base=base)
    is_open = any(None in (each.low, each.high) for each in one.histogram)
    beyond = "; the outermost class holds all beyond" if is_open else ""
    yield _text(WIDTH // 2, base + 44, f"difference in {one.currency}{beyond}", "soft middle")


def _is_less(one: Bin) -> bool:
    return one.low is None or one.low.startswith("-")


def _told(one: Bin, currency: str) -> str:
    if one.low is None:
        bounds = f"below {shown(one.high or '')}"
    elif one.high is None:
        bounds = f"above {shown(one.low)}"
    else:
        bounds = f"{shown(one.low)} to {shown(one.high)}"
    return f"{bounds} {currency}, customers: {_count(one.customers)}"


def _ticks(bins: Sequence[Bin], *, left: int, step: int, base: int) -> Iterator[str]:
    """The bounds between classes, as many as have room; zero always."""
    bounds = [each.low for each in bins] + [bins[-1].high]
    zero = next((place for place, each in enumerate(bounds) if _is_zero(each)), 0)
    if not any(each.partition(".")[2].strip("0") for each in bounds if each is not None):
        bounds = [None if each is None else each.partition(".")[0] for each in bounds]
    longest = max(len(shown(each)) for each in bounds if each is not None)
    every = -(-(longest * 7 + 12) // step)
    for place, each in enumerate(bounds):
        x = left + step * place
        if each is None or (place - zero) % every:
            continue
        yield f'<line class="axis" x1="{x}" y1="{base}" x2="{x}" y2="{base + 5}"/>'
        yield _text(x, base + 20, "0" if _is_zero(each) else shown(each), "small middle")


def _is_zero(amount: str | None) -> bool:
    return amount is not None and not amount.strip("-0.")


def marks(*, most: int) -> list[int]:
    """Round numbers up to `most`, from one on, at most five of them."""
    width = 1
    while True:
        for factor in (1, 2, 5):
            if most // (factor * width) <= 5:
                return list(range(factor * width, most + 1, factor * width))
        width *= 10


def shown(amount: str) -> str:
    """An amount with thin gaps between thousands and a true minus, all its digits kept."""
    sign = MINUS if amount.startswith("-") else ""
    whole, _, fraction = amount.removeprefix("-").partition(".")
    told = f"{int(whole):,}".replace(",", "\u2009")
    return f"{sign}{told}" + (f".{fraction}" if fraction else "")


def _count(number: int) -> str:
    return shown(str(number))


def _signed(amount: str) -> str:
    return shown(amount) if amount.startswith("-") or _is_zero(amount) else f"+{shown(amount)}"


def _text(x: int, y: int, words: str, kind: str) -> str:
    of = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{of}>{escape(words)}</text>'
