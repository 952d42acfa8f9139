"""Documents as the rows that are copied into their tables, column by column. Pure."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Final

import msgspec

from engine.journal import Posting
from invoicing.assembly import Draft
from invoicing.lines import Line

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "invoices": tuple(
        "id series sequence number customer currency status billed_at issued_at due_at"
        " subtotal_minor total_minor balance_applied_minor amount_due_minor billed_from billed_to"
        " po_number run paid_at version".split()
    ),
    "held_entries": ("invoice", "enter_by_at", "postings"),
    "credit_notes": tuple(
        "id series sequence number customer currency status reason billed_at issued_at"
        " subtotal_minor total_minor applied_minor credited_minor refunded_minor billed_from"
        " billed_to po_number run version".split()
    ),
    "line_items": tuple(
        "id document ordinal subscription price_interval price_key charge_start_at charge_group"
        " sequence period_start_at period_end_at quantity amount_minor reason adjusts".split()
    ),
    "refunds": tuple(
        "id customer currency amount_minor source credit_note status created_at version".split()
    ),
    "settlements": tuple("id invoice kind credit_note amount_minor settled_at".split()),
    "journal_entries": tuple("id kind source entry_on accounting_month posted_at".split()),
    "postings": tuple(
        "entry ordinal account customer contract document line currency amount_minor".split()
    ),
    "line_taxes": tuple(
        "document line ordinal rate percentage included jurisdiction category taxable_minor"
        " amount_minor".split()
    ),
    "line_discounts": tuple("document line application amount_minor".split()),
    "credit_draws": tuple("document line credit_grant kind amount_minor".split()),
    "outbox": tuple("id type object version occurred_at".split()),
}
_REDUCED: Final = ("discount_minor", "promotional_minor", "tax_minor")
MORE: Final[dict[str, tuple[str, ...]]] = {
    "invoices": (*_REDUCED, "invoice_group", "prepaid_applied_minor"),
    "credit_notes": (*_REDUCED, "invoice"),
    "line_items": (
        *_REDUCED,
        "tax_included_minor",
        "contract",
        "name",
        "customer",
        "unit_amount",
        "revenue",
    ),
    "postings": ("dimension",),
}
"""Columns that most rows leave at their defaults, and then are not written at all."""

_NANO: Final = Decimal("1e-9")


class Rows:
    """Rows of every table, gathered document by document and written in one go."""

    def __init__(self) -> None:
        """Begin with empty tables."""
        self._rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in COLUMNS}
        self._more: dict[str, list[tuple[object, ...]]] = {table: [] for table in MORE}

    def tables(self) -> Iterator[tuple[str, tuple[str, ...], list[tuple[object, ...]]]]:
        """What has been gathered: (table, columns, rows), rows alike together."""
        for table, columns in COLUMNS.items():
            yield table, columns, self._rows[table]
            if table in MORE:
                yield table, columns + MORE[table], self._more[table]

    def count(self, table: str) -> int:
        """How many rows of a table there are."""
        return len(self._rows[table]) + len(self._more.get(table, ()))

    def _add(
        self, table: str, row: tuple[object, ...], more: tuple[object, ...], *, plain: bool
    ) -> None:
        if plain:
            self._rows[table].append(row)
        else:
            self._more[table].append(row + more)

    def add_invoice(
        self,
        *,
        draft: Draft,
        party: str,
        run: str,
        series: str,
        sequence: int,
        number: str,
        prepaid_applied_minor: int,
        balance_applied_minor: int,
    ) -> None:
        """An invoice; with nothing left to pay it is paid at once."""
        due = draft.total_minor - prepaid_applied_minor - balance_applied_minor
        self._add(
            "invoices",
            (
                draft.id,
                series,
                sequence,
                number,
                draft.customer.id,
                draft.currency,
                "open" if due else "paid",
                draft.billed_at,
                draft.issued_at,
                draft.due_at,
                draft.subtotal_minor,
                draft.total_minor,
                balance_applied_minor,
                due,
                party,
                draft.customer.party,
                draft.customer.po_number,
                run,
                None if due else draft.issued_at,
                1 if due else 2,
            ),
            (
                draft.discount_minor,
                draft.promotional_minor,
                draft.tax_minor,
                draft.group,
                prepaid_applied_minor,
            ),
            plain=draft.is_plain and not draft.group,
        )

    def add_credit_note(
        self,
        *,
        draft: Draft,
        party: str,
        run: str,
        series: str,
        sequence: int,
        number: str,
        applied_minor: int,
        refunded_minor: int,
    ) -> None:
        """A credit note: its amounts are positive in the customer's favour."""
        total = -draft.total_minor
        self._add(
            "credit_notes",
            (
                draft.id,
                series,
                sequence,
                number,
                draft.customer.id,
                draft.currency,
                "issued",
                draft.reason,
                draft.billed_at,
                draft.issued_at,
                -draft.subtotal_minor,
                total,
                applied_minor,
                total - applied_minor - refunded_minor,
                refunded_minor,
                party,
                draft.customer.party,
                draft.customer.po_number,
                run,
                1,
            ),
            (
                -draft.discount_minor,
                -draft.promotional_minor,
                -draft.tax_minor,
                draft.invoice,
            ),
            plain=draft.is_plain and draft.invoice is None,
        )

    def add_lines(self, *, draft: Draft) -> list[str]:
        """The lines of a document, numbered from 1, with all that reduces and taxes them.

        Gives their ids. All lines of a document are rows of one kind: they come in one statement.
        """
        find, document = draft.ids.find, draft.id
        plain = draft.is_plain and all(line.price_interval is not None for line in draft.lines)
        rows = self._rows["line_items"] if plain else self._more["line_items"]
        ids = [find("li", ordinal) for ordinal in range(1, len(draft.lines) + 1)]
        for ordinal, (identity, line) in enumerate(zip(ids, draft.lines, strict=True), start=1):
            period = line.period
            row = (
                identity,
                document,
                ordinal,
                line.subscription,
                line.price_interval,
                line.key,
                line.charge_start_at,
                line.group,
                line.sequence,
                None if period is None else period.start,
                None if period is None else period.end,
                _quantity(line),
                line.amount_minor,
                line.reason,
                line.adjusts,
            )
            rows.append(row if plain else row + _reductions(line))
        if not draft.is_plain:
            self._add_parts(draft, ids)
        return ids

    def _add_parts(self, draft: Draft, ids: Sequence[str]) -> None:
        document = draft.id
        for ordinal, tax in enumerate(draft.taxes, start=1):
            self._rows["line_taxes"].append(
                (
                    document,
                    ids[tax.line],
                    ordinal,
                    tax.rate,
                    Decimal(tax.percentage),
                    tax.included,
                    tax.jurisdiction,
                    tax.category,
                    tax.taxable_minor,
                    tax.amount_minor,
                )
            )
        for discount in draft.discounts:
            self._rows["line_discounts"].append(
                (document, ids[discount.line], discount.application, discount.amount_minor)
            )
        for draw in draft.draws:
            self._rows["credit_draws"].append(
                (document, ids[draw.line], draw.grant, draw.kind, draw.amount_minor)
            )

    def add_refund(self, *, draft: Draft, amount_minor: int) -> str:
        """What a credit note owes as money; gives its id."""
        refund = draft.ids.find("ref")
        owner = (refund, draft.customer.id, draft.currency, amount_minor)
        state = ("credit_note", draft.id, "pending", draft.issued_at, 1)
        self._rows["refunds"].append(owner + state)
        return refund

    def add_settlement(
        self, *, draft: Draft, ordinal: int, kind: str, invoice: str, amount_minor: int
    ) -> None:
        """What a credit note, the customer's balance or prepaid credit pays of an invoice."""
        self._rows["settlements"].append(
            (
                draft.ids.find("stl", ordinal),
                invoice,
                kind,
                draft.id if kind == "credit_note" else None,
                amount_minor,
                draft.issued_at,
            )
        )

    def add_entry(self, *, entry: str, kind: str, draft: Draft, entry_on: date) -> None:
        """A journal entry of the document."""
        self._rows["journal_entries"].append(
            (entry, kind, draft.id, entry_on, entry_on.replace(day=1), draft.issued_at)
        )

    def add_held(
        self, *, document: str, enter_by_at: datetime, postings: Sequence[Posting]
    ) -> None:
        """The entry of an invoice that may be cancelled until then; it is made later."""
        told = msgspec.json.encode(postings).decode()
        self._rows["held_entries"].append((document, enter_by_at, told))

    def add_postings(self, *, entry: str, currency: str, postings: Sequence[Posting]) -> None:
        """The postings of one entry, numbered from 1."""
        plain = not any(posting.dimension for posting in postings)
        rows = self._rows["postings"] if plain else self._more["postings"]
        for ordinal, posting in enumerate(postings, start=1):
            row = (
                entry,
                ordinal,
                posting.account,
                posting.customer,
                posting.contract,
                posting.document,
                posting.line,
                currency,
                posting.amount_minor,
            )
            rows.append(row if plain else (*row, posting.dimension))

    def add_event(
        self, *, draft: Draft, ordinal: int, kind: str, subject: str, version: int
    ) -> None:
        """What the outside world will hear of it."""
        self._rows["outbox"].append(
            (
                draft.ids.find("evt", ordinal),
                kind,
                subject,
                version,
                draft.issued_at,
            )
        )


def _quantity(line: Line) -> Decimal | None:
    """Nine digits; what a limit adds over groups has no quantity."""
    return None if line.quantity_nanos is None else Decimal(line.quantity_nanos) * _NANO


def _reductions(line: Line) -> tuple[object, ...]:
    contract = "" if line.subscription is not None else line.contract
    return (
        line.discount_minor,
        line.promotional_minor,
        line.tax_minor,
        line.tax_included_minor,
        contract,
        line.name,
        line.customer,
        line.unit_amount,
        line.revenue,
    )
