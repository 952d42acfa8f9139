"""The pieces of a printed document, every text final: what is drawn and nothing to decide."""

import msgspec

from invoicing.paper_party import PaperParty
from invoicing.words.en import WORDS as ENGLISH
from invoicing.words.phrases import Words


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled value; `free` when somebody typed it, `free_label` when the label was typed.

    `strong` is the sum that the others lead to.
    """

    label: str
    value: str
    free: bool = False
    free_label: bool = False
    link: str = ""
    strong: bool = False


class PaperCells(msgspec.Struct, frozen=True, kw_only=True):
    """One row of figures; `label` and `notes` are free text, the rest is ours."""

    label: str
    notes: tuple[str, ...] = ()
    period: tuple[str, ...] = ()
    quantity: str = ""
    unit: str = ""
    unit_note: str = ""
    amount: str


class PaperRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line with the tiers and discounts that make it up."""

    cells: PaperCells
    details: tuple[PaperCells, ...] = ()


class PaperTable(msgspec.Struct, frozen=True, kw_only=True):
    """A small table below the totals: rows of one free text and then figures."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Paper(msgspec.Struct, frozen=True, kw_only=True):
    """A document ready to draw. `decimal_mark` is what figures of a column align on.

    `headings` are those of the five columns of `rows`, empty where a column is not used. `accent`
    is the seller's colour (#rrggbb), `language` that of the words (`en`).
    """

    title: str
    number: str
    stamp: str
    issuer: PaperParty
    recipient: PaperParty
    recipient_label: str
    facts: tuple[Fact, ...]
    headline: Fact
    headline_note: str
    headings: tuple[str, str, str, str, str]
    rows: tuple[PaperRow, ...]
    totals: tuple[Fact, ...]
    tables: tuple[PaperTable, ...] = ()
    payment: tuple[Fact, ...] = ()
    notes: tuple[str, ...]
    footer: str
    decimal_mark: str
    language: str = "en"
    words: Words = ENGLISH
    accent: str = ""
    logo: bytes | None = None
