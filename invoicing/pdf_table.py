"""The table of lines: columns as wide as their figures need, decimals in one vertical."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from invoicing.paper_parts import Paper, PaperCells, PaperRow
from invoicing.pdf_marks import (
    GREY,
    INK,
    LEFT,
    RIGHT,
    Mark,
    Stack,
    Strip,
    Text,
    left_figure,
    right_figure,
    rule,
)
from invoicing.pdf_text import figure_runs, runs_width

SIZE: Final = 8.8
SMALL: Final = 7.6
HEAD_SIZE: Final = 7.4
HEAD_HEIGHT: Final = 19.0
GAP: Final = 14.0
INDENT: Final = 10.0
LEADING: Final = 1.36
PADDING: Final = 6.5
DETAIL_PADDING: Final = 1.0
LEAST_DESCRIPTION: Final = 120.0
# Least and most points that the columns period, quantity, unit price and amount may take.
BOUNDS: Final = ((58.0, 96.0), (40.0, 92.0), (44.0, 98.0), (56.0, 112.0))
FIELDS: Final = ("period", "quantity", "unit", "amount")


class Column(msgspec.Struct, frozen=True):
    """A column of figures that ends at `right`; `tail` is the widest fraction, in points."""

    right: float
    width: float
    tail: float


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything in the table stands."""

    description: float
    period_left: float
    period: float
    figures: tuple[Column, Column, Column]
    mark: str
    accent: str
    continued: str


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A line with its tiers; `again` heads what comes on the next page when it is cut."""

    strips: tuple[Strip, ...]
    again: Strip


def _width(text: str, size: float, field: str) -> float:
    return runs_width(figure_runs(text=text, field=field)) * size


def _tail(text: str, mark: str, size: float, field: str) -> float:
    """Points from the decimal mark (or the end of the whole number) to the end."""
    whole, found, fraction = text.rpartition(mark)
    if found:
        return _width(found + fraction, size, field)
    digits = len(text.rstrip("\u00a0 ").rstrip(_letters(text)))
    return _width(text[digits:], size, field) if whole or digits < len(text) else 0.0


def _letters(text: str) -> str:
    """Characters of `text` that are no digits: a currency behind the number belongs to its tail."""
    return "".join(char for char in text if not char.isdigit())


def _cells(rows: Iterable[PaperRow]) -> Iterable[tuple[PaperCells, float]]:
    for row in rows:
        yield row.cells, SIZE
        for detail in row.details:
            yield detail, SMALL


def measure_columns(*, paper: Paper) -> Columns:
    """Columns wide enough for all figures of the paper, within bounds; the name gets the rest."""
    mark = paper.decimal_mark
    period = BOUNDS[0][0]
    heads, tails, notes = [0.0] * 3, [0.0] * 3, [0.0] * 3
    for cells, size in _cells(paper.rows):
        period = max([period, *(_width(text, SIZE, "period") for text in cells.period)])
        for index, text in enumerate((cells.quantity, cells.unit, cells.amount)):
            if text:
                tail = _tail(text, mark, size, FIELDS[index + 1])
                if index == 2 and size < SIZE:
                    tail = min(tail, tails[2])  # amounts end at the margin, as the totals do
                tails[index] = max(tails[index], tail)
                heads[index] = max(heads[index], _width(text, size, "figure") - tail)
        if cells.unit_note:
            notes[1] = max(notes[1], _width(cells.unit_note, SMALL, "unit_note"))
    right, columns = RIGHT, list[Column]()
    for index in (2, 1, 0):
        least, most = BOUNDS[index + 1]
        label = _width(paper.headings[index + 2], HEAD_SIZE, "heading") * 1.06
        natural = max(heads[index] + tails[index], notes[index], label)
        if not natural:  # nothing stands in it
            columns.append(Column(right, 0.0, 0.0))
            continue
        width = min(max(least, natural), most)
        tail = tails[index] if heads[index] + tails[index] <= width else -1.0
        columns.append(Column(right, width, tail))
        right -= width + GAP
    period = min(period, BOUNDS[0][1], right - LEFT - LEAST_DESCRIPTION)
    return Columns(
        description=right - period - GAP - LEFT,
        period_left=right - period,
        period=period,
        figures=(columns[2], columns[1], columns[0]),
        mark=mark,
        accent=paper.accent or INK,
        continued=paper.words.continued,
    )


def _frame(column: Column) -> tuple[float, float]:
    return column.right - column.width, column.right


def _figures(cells: PaperCells, columns: Columns, y: float, size: float, colour: str) -> list[Mark]:
    """Quantity, unit price and amount on the baseline y, decimal marks below each other."""
    marks: list[Mark] = []
    texts = (cells.quantity, cells.unit, cells.amount)
    for field, column, text in zip(FIELDS[1:], columns.figures, texts, strict=True):
        if not text:
            continue
        place = column.right
        if column.tail >= 0:
            place -= max(column.tail - _tail(text, columns.mark, size, field), 0.0)
        marks.append(
            right_figure(
                text,
                field=field,
                x=place,
                y=y,
                size=size,
                colour=colour,
                room=column.width,
                frame=_frame(column),
            )
        )
    return marks


def _main_strip(cells: PaperCells, columns: Columns, *, closing: bool) -> Strip:
    """The row of the line itself."""
    stack = Stack()
    stack.skip(PADDING)
    stack.free(cells.label, x=LEFT, width=columns.description, size=SIZE, limit=6)
    for note in cells.notes:
        stack.free(note, x=LEFT, width=columns.description, size=SMALL, limit=3, colour=GREY)
    step = SIZE * LEADING
    first = SIZE * 0.3 - PADDING - step
    marks = stack.marks + _figures(cells, columns, first, SIZE, INK)
    for index, text in enumerate(cells.period):
        marks.append(
            left_figure(
                text,
                field="period",
                x=columns.period_left,
                y=first - index * step,
                size=SIZE,
                room=columns.period,
            )
        )
    lines = max(len(cells.period), 1)
    if cells.unit_note:
        unit = columns.figures[1]
        lines = max(lines, 2)
        marks.append(
            right_figure(
                cells.unit_note,
                field="unit_note",
                x=unit.right,
                y=first - step,
                size=SMALL,
                colour=GREY,
                room=unit.width,
                frame=_frame(unit),
            )
        )
    height = max(stack.height, PADDING + lines * step) + (PADDING if closing else 2.0)
    return Strip(height=height, marks=tuple(marks))


def _detail_strip(cells: PaperCells, columns: Columns, *, closing: bool) -> Strip:
    """One tier, set smaller under its line."""
    stack = Stack()
    stack.skip(DETAIL_PADDING)
    room = columns.description + GAP + columns.period - INDENT
    stack.free(cells.label, x=LEFT + INDENT, width=room, size=SMALL, limit=2, colour=GREY)
    first = SMALL * 0.3 - DETAIL_PADDING - SMALL * LEADING
    marks = stack.marks + _figures(cells, columns, first, SMALL, GREY)
    height = max(stack.height, DETAIL_PADDING + SMALL * LEADING)
    return Strip(height=height + (PADDING if closing else DETAIL_PADDING), marks=tuple(marks))


def _ruled(strip: Strip) -> Strip:
    return Strip(height=strip.height, marks=(*strip.marks, rule(-strip.height)))


def _again(cells: PaperCells, columns: Columns) -> Strip:
    stack = Stack()
    stack.skip(PADDING)
    stack.free(
        columns.continued.format(name=cells.label[:120]),
        x=LEFT,
        width=columns.description + GAP + columns.period,
        size=SMALL,
        limit=1,
        colour=GREY,
    )
    return Strip(height=stack.height + 2.0, marks=tuple(stack.marks))


def lay_rows(*, rows: Sequence[PaperRow], columns: Columns) -> list[Block]:
    """Every line as strips with a rule under its last one."""
    blocks: list[Block] = []
    for row in rows:
        strips = [_main_strip(row.cells, columns, closing=not row.details)]
        final = len(row.details) - 1
        for index, detail in enumerate(row.details):
            strips.append(_detail_strip(detail, columns, closing=index == final))
        strips[-1] = _ruled(strips[-1])
        blocks.append(Block(strips=tuple(strips), again=_again(row.cells, columns)))
    return blocks


def lay_heading(*, paper: Paper, columns: Columns) -> Strip:
    """The row of headings that begins the table on every page."""
    y = -HEAD_HEIGHT + 7.0
    description, period, *others = paper.headings
    marks: list[Mark] = [
        _head(description, LEFT, y),
        _head(period, columns.period_left, y),
        rule(-HEAD_HEIGHT, colour=columns.accent, weight=0.9),
    ]
    for label, column in zip(others, columns.figures, strict=True):
        mark = _head(label, column.right, y)
        x = column.right - runs_width(mark.runs) * HEAD_SIZE
        marks.append(msgspec.structs.replace(mark, x=x, frame=_frame(column)))
    return Strip(height=HEAD_HEIGHT, marks=tuple(marks))


def _head(text: str, x: float, y: float) -> Text:
    return left_figure(text, field="heading", x=x, y=y, size=HEAD_SIZE, colour=GREY, bold=True)
