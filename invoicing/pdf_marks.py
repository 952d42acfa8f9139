"""What is put on a page: texts, rules, panels and a picture, in points from the lower left."""

from typing import Final

import msgspec

from invoicing.pdf_text import Run, figure_runs, free_lines, runs_width

PAGE_WIDTH: Final = 595.28
PAGE_HEIGHT: Final = 841.89
LEFT: Final = 48.0
RIGHT: Final = PAGE_WIDTH - 48.0
TOP: Final = PAGE_HEIGHT - 50.0
BOTTOM: Final = 74.0

INK: Final = "#16191f"
GREY: Final = "#5b6270"
LINE: Final = "#d9dce2"
PANEL: Final = "#f3f4f7"
ALERT: Final = "#b3261e"


class Text(msgspec.Struct, frozen=True):
    """Runs of one line from the baseline point (x, y).

    A `frame` (left, right) is the column that a figure keeps its place in when the sheet is
    mirrored: digits are read from left to right everywhere.
    """

    x: float
    y: float
    size: float
    colour: str
    runs: tuple[Run, ...]
    frame: tuple[float, float] | None = None


class Box(msgspec.Struct, frozen=True):
    """A filled rectangle; a rule is a flat one."""

    x: float
    y: float
    width: float
    height: float
    colour: str


class Picture(msgspec.Struct, frozen=True):
    """Where the logo goes: the upper right (or left) corner of the space that it may fill."""

    x: float
    y: float
    width: float
    height: float
    at_left: bool = False


class Link(msgspec.Struct, frozen=True):
    """A rectangle that leads to an address."""

    x: float
    y: float
    width: float
    height: float
    address: str


Mark = Text | Box | Picture | Link


class Strip(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is never cut; its marks are told from its upper edge."""

    height: float
    marks: tuple[Mark, ...]


def rule(y: float, *, colour: str = LINE, weight: float = 0.6, left: float = LEFT) -> Box:
    """A horizontal line to the right margin."""
    return Box(left, y, RIGHT - left, weight, colour)


def shifted(mark: Mark, down: float) -> Mark:
    """The mark, moved by `down` points along y."""
    return msgspec.structs.replace(mark, y=mark.y + down)


def mirrored(mark: Mark) -> Mark:
    """The mark as a sheet has it that is read from the right."""
    match mark:
        case Text(frame=(left, right)):
            x = mark.x + PAGE_WIDTH - left - right
        case Text():
            x = PAGE_WIDTH - mark.x - runs_width(mark.runs) * mark.size
        case Picture():
            return msgspec.structs.replace(mark, x=PAGE_WIDTH - mark.x, at_left=True)
        case Box() | Link():
            x = PAGE_WIDTH - mark.x - mark.width
    return msgspec.structs.replace(mark, x=x)


class Stack:
    """Collects marks downwards from y = 0; `height` is what they take."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.height = 0.0

    def free(
        self,
        text: str,
        *,
        x: float,
        width: float,
        size: float,
        limit: int,
        colour: str = INK,
        bold: bool = False,
        leading: float = 1.36,
        link: str = "",
    ) -> None:
        """Free text, wrapped to `width` points and at most `limit` lines."""
        for runs in free_lines(text=text, room=width / size, limit=limit, bold=bold):
            self.height += size * leading
            self.marks.append(Text(x, size * 0.3 - self.height, size, colour, runs))
            if link:
                wide = runs_width(runs) * size
                self.marks.append(Link(x, -self.height, wide, size * leading, link))

    def skip(self, points: float) -> None:
        """Leave white."""
        self.height += points


def left_figure(
    text: str,
    *,
    field: str,
    x: float,
    y: float,
    size: float,
    colour: str = INK,
    bold: bool = False,
    room: float = 0.0,
) -> Text:
    """A figure that begins at x; made smaller, never cut, when it is wider than `room`."""
    runs = figure_runs(text=text, field=field, bold=bold)
    width = runs_width(runs)
    if room and width * size > room:
        size = room / width
    return Text(x, y, size, colour, runs)


def right_figure(
    text: str,
    *,
    field: str,
    x: float,
    y: float,
    size: float,
    colour: str = INK,
    bold: bool = False,
    room: float = 0.0,
    frame: tuple[float, float] | None = None,
) -> Text:
    """A figure that ends at x; made smaller, never cut, when it is wider than `room`."""
    mark = left_figure(text, field=field, x=x, y=y, size=size, colour=colour, bold=bold, room=room)
    return msgspec.structs.replace(mark, x=x - runs_width(mark.runs) * mark.size, frame=frame)


def right_free(
    text: str,
    *,
    x: float,
    y: float,
    size: float,
    width: float,
    colour: str = INK,
    bold: bool = False,
) -> list[Mark]:
    """One line of free text that ends at x."""
    lines = free_lines(text=text, room=width / size, limit=1, bold=bold)
    return [Text(x - runs_width(runs) * size, y, size, colour, runs) for runs in lines]
