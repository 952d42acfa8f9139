"""What follows the lines: totals, the taxes by rate, where to pay, notes."""

from typing import Final

from invoicing.paper_parts import Fact, Paper, PaperTable
from invoicing.pdf_marks import (
    GREY,
    INK,
    LEFT,
    PANEL,
    RIGHT,
    Box,
    Mark,
    Stack,
    Strip,
    Text,
    left_figure,
    right_figure,
    rule,
)
from invoicing.pdf_text import figure_runs, free_lines, runs_width

SIZE: Final = 8.8
STRONG: Final = 11.0
SMALL: Final = 7.6
LABEL_SIZE: Final = 7.4
TOTALS_LEFT: Final = RIGHT - 236.0
TOTAL_STEP: Final = 15.5
LABEL_ROOM: Final = 150.0
OTHER_COLUMN: Final = 95.0
# A table of taxes, of four columns, is as wide as the lines above it.
FIRST_COLUMN: Final = RIGHT - LEFT - 3 * OTHER_COLUMN
TABLE_STEP: Final = 13.5
PAY_LABEL: Final = 112.0
NOTE_WIDTH: Final = 430.0
# What is taller is cut between its parts.
WHOLE_ENDING: Final = 440.0


def _total(stack: Stack, fact: Fact, *, frame: tuple[float, float]) -> None:
    bold = fact.strong
    size = STRONG if bold else SIZE
    if bold:
        stack.skip(4.0)
        stack.marks.append(rule(-stack.height, colour=INK, weight=0.9, left=TOTALS_LEFT))
        stack.skip(5.0)
    stack.skip(TOTAL_STEP)
    y = 5.0 - stack.height
    used = LABEL_ROOM
    if fact.free_label:
        lines = free_lines(text=fact.label, room=LABEL_ROOM / size, limit=2, bold=bold)
        for index, runs in enumerate(lines):
            stack.marks.append(Text(TOTALS_LEFT, y - index * size * 1.3, size, INK, runs))
        stack.skip(max(len(lines) - 1, 0) * size * 1.3)
    else:
        label = left_figure(fact.label, field="total", x=TOTALS_LEFT, y=y, size=size, bold=bold)
        used = runs_width(label.runs) * size
        stack.marks.append(label)
    room = RIGHT - TOTALS_LEFT - used - 10.0
    stack.marks.append(
        right_figure(
            fact.value, field=fact.label, x=RIGHT, y=y, size=size, bold=bold, room=room, frame=frame
        )
    )


def _totals(paper: Paper) -> Strip:
    stack = Stack()
    stack.skip(8.0)
    widths = [
        runs_width(figure_runs(text=fact.value, field=fact.label, bold=fact.strong))
        * (STRONG if fact.strong else SIZE)
        for fact in paper.totals
    ]
    frame = (RIGHT - max(widths, default=0.0), RIGHT)
    for fact in paper.totals:
        _total(stack, fact, frame=frame)
    stack.skip(20.0)
    return Strip(height=stack.height, marks=tuple(stack.marks))


def _table_row(texts: tuple[str, ...], y: float, *, head: bool) -> list[Mark]:
    """One free text, then figures that end at their columns."""
    colour, size = (GREY, LABEL_SIZE) if head else (INK, SMALL)
    marks: list[Mark] = []
    lines = free_lines(text=texts[0], room=(FIRST_COLUMN - 10.0) / size, limit=1, bold=head)
    marks += (Text(LEFT, y, size, colour, runs) for runs in lines)
    for index, text in enumerate(texts[1:], start=1):
        right = LEFT + FIRST_COLUMN + OTHER_COLUMN * index
        marks.append(
            right_figure(
                text,
                field="table",
                x=right,
                y=y,
                size=size,
                colour=colour,
                bold=head,
                room=OTHER_COLUMN - 8.0,
                frame=(right - OTHER_COLUMN + 8.0, right),
            )
        )
    return marks


def _table(table: PaperTable) -> Strip:
    stack = Stack()
    right = LEFT + FIRST_COLUMN + OTHER_COLUMN * (len(table.headings) - 1)
    for index, texts in enumerate((table.headings, *table.rows)):
        stack.skip(TABLE_STEP)
        stack.marks += _table_row(texts, 4.0 - stack.height, head=index == 0)
        if index == 0:
            stack.marks.append(Box(LEFT, -stack.height, right - LEFT, 0.6, GREY))
            stack.skip(1.0)
    stack.skip(16.0)
    return Strip(height=stack.height, marks=tuple(stack.marks))


def _payment(paper: Paper) -> Strip:
    stack, padding = Stack(), 14.0
    stack.skip(8.0)
    left, width = LEFT + padding, RIGHT - LEFT - 2 * padding
    title = paper.words.payment_details
    stack.free(title, x=left, width=width, size=SIZE, limit=1, bold=True)
    stack.skip(3.0)
    for fact in paper.payment:
        y = SMALL * 0.3 - stack.height - SMALL * 1.5
        label = left_figure(
            fact.label, field="payment", x=left, y=y, size=SMALL, colour=GREY, room=PAY_LABEL - 8.0
        )
        stack.marks.append(label)
        before = stack.height
        stack.free(
            fact.value, x=left + PAY_LABEL, width=width - PAY_LABEL, size=SMALL, limit=3,
            leading=1.5, link=fact.link,
        )  # fmt: skip
        stack.height = max(stack.height, before + SMALL * 1.5)
    stack.skip(9.0)
    panel = Box(LEFT, -stack.height, RIGHT - LEFT, stack.height, PANEL)
    return Strip(height=stack.height + 14.0, marks=(panel, *stack.marks))


def _notes(paper: Paper) -> Strip:
    stack = Stack()
    for note in paper.notes:
        stack.free(note, x=LEFT, width=NOTE_WIDTH, size=8.0, limit=12, colour=GREY)
        stack.skip(4.0)
    return Strip(height=stack.height, marks=tuple(stack.marks))


def lay_closing(*, paper: Paper) -> list[list[Strip]]:
    """Groups of strips that stay together; the first belongs to the last line.

    Notes go with what stands before them: alone they would begin a page.
    """
    groups = [[_totals(paper)], *([_table(table)] for table in paper.tables)]
    if paper.payment:
        groups.append([_payment(paper)])
    notes = _notes(paper)
    if sum(strip.height for strip in groups[-1]) + notes.height <= WHOLE_ENDING:
        groups[-1].append(notes)
    else:
        groups.append([notes])
    return groups
