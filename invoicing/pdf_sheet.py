"""The pages of a document: its head, the table cut into pages, the totals with its last line."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from invoicing.paper_parts import Fact, Paper
from invoicing.paper_party import PaperParty
from invoicing.pdf_closing import lay_closing
from invoicing.pdf_marks import (
    ALERT,
    BOTTOM,
    GREY,
    INK,
    LEFT,
    PAGE_HEIGHT,
    PAGE_WIDTH,
    PANEL,
    RIGHT,
    TOP,
    Box,
    Mark,
    Picture,
    Stack,
    Strip,
    Text,
    left_figure,
    mirrored,
    right_figure,
    right_free,
    rule,
    shifted,
)
from invoicing.pdf_table import Block, lay_heading, lay_rows, measure_columns
from invoicing.pdf_text import free_lines, japanese_runs, runs_width

TITLE_SIZE: Final = 23.0
PARTY_LEFTS: Final = (LEFT, LEFT + 172.0)
PARTY_WIDTH: Final = 154.0
FACTS_LEFT: Final = LEFT + 344.0
SIZE: Final = 8.8
LABEL_SIZE: Final = 7.4
PANEL_HEIGHT: Final = 50.0
BAND: Final = 7.0
BAR: Final = 3.5
LOGO_WIDTH: Final = 170.0
LOGO_HEIGHT: Final = 46.0
WHOLE_BLOCK: Final = 190.0
ADDRESS_ROWS: Final = 14
# A legal name of 200 letters is printed whole; rows are cut when a party would take half the page.
NAME_LINES: Final = 9
ROW_LINES: Final = 5
PARTY_HEIGHT: Final = 400.0


def _title(paper: Paper) -> Strip:
    """Title and, at the right, the logo or the seller's name as a wordmark."""
    y = -TITLE_SIZE * 0.86
    title = left_figure(paper.title, field="title", x=LEFT, y=y, size=TITLE_SIZE, bold=True)
    marks: list[Mark] = [title]
    if paper.stamp:
        x = LEFT + runs_width(title.runs) * TITLE_SIZE + 14.0
        stamp = left_figure(
            paper.stamp, field="stamp", x=x + 7.0, y=y + 2.6, size=12.0, colour=ALERT, bold=True
        )
        width = runs_width(stamp.runs) * stamp.size + 14.0
        marks += [
            Box(x, y - 2.5, width, 0.9, ALERT),
            Box(x, y + 14.5, width, 0.9, ALERT),
            Box(x, y - 2.5, 0.9, 17.9, ALERT),
            Box(x + width - 0.9, y - 2.5, 0.9, 17.9, ALERT),
            stamp,
        ]
    if paper.logo is not None:
        marks.append(Picture(RIGHT, 0.0, LOGO_WIDTH, LOGO_HEIGHT))
    else:
        lines = free_lines(text=paper.issuer.name, room=250.0 / 13.0, limit=2, bold=True)
        for index, runs in enumerate(lines):
            left = RIGHT - runs_width(runs) * 13.0
            marks.append(Text(left, -13.0 - index * 16.0, 13.0, INK, runs))
    return Strip(height=LOGO_HEIGHT + 8.0, marks=tuple(marks))


def _party(label: str, party: PaperParty, x: float, more_text: str) -> Stack:
    stack = Stack()
    stack.free(label, x=x, width=PARTY_WIDTH, size=LABEL_SIZE, limit=1, colour=GREY, bold=True)
    stack.skip(1.5)
    stack.free(party.name, x=x, width=PARTY_WIDTH, size=SIZE, limit=NAME_LINES, bold=True)
    rows = party.rows[:ADDRESS_ROWS]
    for left, row in zip(range(len(rows), 0, -1), rows, strict=True):
        # As long as each row after it can have a line of its own.
        spare = (PARTY_HEIGHT - stack.height) / (SIZE * 1.36) - left
        limit = max(1, min(ROW_LINES, int(spare) + 1))
        stack.free(row, x=x, width=PARTY_WIDTH, size=SIZE, limit=limit)
    more = len(party.rows) - len(rows)
    if more:
        text = more_text.format(count=more)
        stack.free(text, x=x, width=PARTY_WIDTH, size=SIZE, limit=1, colour=GREY)
    return stack


def _facts(facts: Sequence[Fact]) -> Stack:
    """Labels over their values: a long number has the whole width."""
    stack = Stack()
    width = RIGHT - FACTS_LEFT
    for fact in facts:
        stack.free(
            fact.label,
            x=FACTS_LEFT,
            width=width,
            size=LABEL_SIZE,
            limit=1,
            colour=GREY,
            bold=True,
        )
        if fact.free:
            stack.free(fact.value, x=FACTS_LEFT, width=width, size=SIZE, limit=6)
        else:
            stack.skip(SIZE * 1.36)
            stack.marks.append(
                left_figure(
                    fact.value,
                    field=fact.label,
                    x=FACTS_LEFT,
                    y=SIZE * 0.3 - stack.height,
                    size=SIZE,
                    room=width,
                )
            )
        stack.skip(4.5)
    return stack


def _panel(paper: Paper) -> Strip:
    """What matters most: how much, and by when."""
    marks: list[Mark] = [
        Box(LEFT, -PANEL_HEIGHT, RIGHT - LEFT, PANEL_HEIGHT, PANEL),
        left_figure(
            paper.headline.label,
            field="headline",
            x=LEFT + 14.0,
            y=-17.0,
            size=LABEL_SIZE,
            colour=GREY,
            bold=True,
        ),
        left_figure(
            paper.headline.value,
            field="amount_due",
            x=LEFT + 14.0,
            y=-38.0,
            size=18.0,
            bold=True,
            room=330.0,
        ),
        right_figure(
            paper.headline_note, field="headline_note", x=RIGHT - 14.0, y=-38.0, size=10.5
        ),
    ]
    if paper.accent:
        marks.append(Box(LEFT, -PANEL_HEIGHT, BAR, PANEL_HEIGHT, paper.accent))
    return Strip(height=PANEL_HEIGHT + 18.0, marks=tuple(marks))


def _first_head(paper: Paper) -> Strip:
    """Everything above the table on the first page."""
    title, more = _title(paper), paper.words.more
    stacks = (
        _party(paper.words.sender, paper.issuer, PARTY_LEFTS[0], more),
        _party(paper.recipient_label, paper.recipient, PARTY_LEFTS[1], more),
        _facts(paper.facts),
    )
    marks = list(title.marks)
    for stack in stacks:
        marks += (shifted(mark, -title.height) for mark in stack.marks)
    height = title.height + max(stack.height for stack in stacks) + 18.0
    panel = _panel(paper)
    marks += (shifted(mark, -height) for mark in panel.marks)
    return Strip(height=height + panel.height, marks=tuple(marks))


def _next_head(paper: Paper) -> Strip:
    """The running head of the pages that follow."""
    left = left_figure(
        f"{paper.title} {paper.number}", field="number", x=LEFT, y=-9.0, size=SIZE, bold=True
    )
    right = right_free(paper.recipient.name, x=RIGHT, y=-9.0, size=SIZE, width=280.0, colour=GREY)
    return Strip(height=30.0, marks=(left, *right))


def _footer(paper: Paper, page: int, pages: int) -> list[Mark]:
    stack = Stack()
    stack.free(paper.footer, x=LEFT, width=380.0, size=7.2, limit=2, colour=GREY)
    marks: list[Mark] = [rule(52.0)]
    marks += (shifted(mark, 47.0) for mark in stack.marks)
    if paper.accent:
        marks.append(Box(0.0, PAGE_HEIGHT - BAND, PAGE_WIDTH, BAND, paper.accent))
    count = paper.words.page.format(page=page, pages=pages)
    marks.append(right_figure(count, field="page", x=RIGHT, y=39.4, size=7.2, colour=GREY))
    return marks


def _groups(blocks: Sequence[Block]) -> Iterator[tuple[list[Strip], Strip | None]]:
    """Strips that stay together, and what heads them when a page begins in their block."""
    for block in blocks:
        if sum(strip.height for strip in block.strips) <= WHOLE_BLOCK:
            yield list(block.strips), None
            continue
        yield list(block.strips[:2]), None
        for strip in block.strips[2:]:
            yield [strip], block.again


class _Pages:
    """Fills page after page from the top."""

    def __init__(self, paper: Paper, heading: Strip) -> None:
        self.pages: list[list[Mark]] = []
        self._heading = heading
        self._next_head = _next_head(paper)
        self.begin(_first_head(paper))
        self.put(heading)

    def begin(self, head: Strip) -> None:
        self.pages.append([])
        self._y = TOP
        self.put(head)

    def turn(self, again: Strip | None, *, in_table: bool) -> None:
        self.begin(self._next_head)
        if in_table:
            self.put(self._heading)
        if again is not None:
            self.put(again)

    def put(self, strip: Strip) -> None:
        self.pages[-1] += (shifted(mark, self._y) for mark in strip.marks)
        self._y -= strip.height

    def holds(self, strips: Sequence[Strip]) -> bool:
        return self._y - sum(strip.height for strip in strips) >= BOTTOM


def lay_pages(*, paper: Paper) -> list[list[Mark]]:
    """The marks of every page; `glyph_missing` when a figure cannot be drawn."""
    columns = measure_columns(paper=paper)
    pages = _Pages(paper, lay_heading(paper=paper, columns=columns))
    groups = list(_groups(lay_rows(rows=paper.rows, columns=columns)))
    first, *others = lay_closing(paper=paper)
    if groups:
        groups[-1] = ([*groups[-1][0], *first], groups[-1][1])
    else:
        groups.append((first, None))
    lines = len(groups)
    groups += ((strips, None) for strips in others)
    for index, (strips, again) in enumerate(groups):
        if not pages.holds(strips):
            pages.turn(again, in_table=index < lines)
        for strip in strips:
            pages.put(strip)
    count = len(pages.pages)
    for index, marks in enumerate(pages.pages):
        marks.extend(_footer(paper, index + 1, count))
    return [[_dressed(mark, paper) for mark in marks] for marks in pages.pages]


def _dressed(mark: Mark, paper: Paper) -> Mark:
    """The mark in the characters and the direction of the paper's language."""
    if isinstance(mark, Text):
        runs = japanese_runs(mark.runs, japanese=paper.language == "ja")
        mark = msgspec.structs.replace(mark, runs=runs) if runs is not mark.runs else mark
    return mirrored(mark) if paper.words.right_to_left else mark


class LogoSpace(msgspec.Struct, frozen=True):
    """Where a picture of given proportions stands inside the space kept for it."""

    x: float
    y: float
    width: float
    height: float


def fit_logo(*, picture: Picture, width: int, height: int) -> LogoSpace:
    """As large as the space allows, in its upper corner, never larger than its own pixels."""
    scale = min(picture.width / width, picture.height / height, 1.0)
    drawn_width, drawn_height = width * scale, height * scale
    left = picture.x if picture.at_left else picture.x - drawn_width
    return LogoSpace(left, picture.y - drawn_height, drawn_width, drawn_height)
