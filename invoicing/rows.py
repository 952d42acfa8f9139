"""Documents as the rows that are copied into their tables, column by column. Pure."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Final

from engine.journal import Posting
from invoicing.assembly import Draft
from invoicing.difference import Difference

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "invoices": tuple(
        "id series sequence number customer currency status billed_at issued_at due_at"
        " subtotal_minor total_minor balance_applied_minor amount_due_minor billed_from billed_to"
        " po_number run paid_at version".split()
    ),
    "credit_notes": tuple(
        "id series sequence number customer currency status reason billed_at issued_at"
        " subtotal_minor total_minor applied_minor credited_minor refunded_minor billed_from"
        " billed_to po_number run version".split()
    ),
    "line_items": tuple(
        "id document ordinal subscription price_interval price_key charge_start_at charge_group"
        " sequence period_start_at period_end_at quantity amount_minor reason adjusts".split()
    ),
    "settlements": tuple("id invoice kind credit_note amount_minor settled_at".split()),
    "journal_entries": tuple("id kind source entry_on accounting_month posted_at".split()),
    "postings": tuple(
        "entry ordinal account customer contract document line currency amount_minor".split()
    ),
    "outbox": tuple("id type object version occurred_at".split()),
}
_NANO: Final = Decimal("1e-9")


class Rows:
    """Rows of every table, gathered document by document and written in one go."""

    def __init__(self) -> None:
        """Begin with empty tables."""
        self._rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in COLUMNS}

    def of(self, table: str) -> list[tuple[object, ...]]:
        """What has been gathered for a table, in the order of `COLUMNS`."""
        return self._rows[table]

    def add_invoice(
        self,
        *,
        draft: Draft,
        party: str,
        run: str,
        series: str,
        sequence: int,
        number: str,
        balance_applied_minor: int,
    ) -> None:
        """An invoice; with nothing left to pay it is paid at once."""
        due = draft.total_minor - balance_applied_minor
        self._rows["invoices"].append(
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
                draft.total_minor,
                draft.total_minor,
                balance_applied_minor,
                due,
                party,
                draft.customer.party,
                draft.customer.po_number,
                run,
                None if due else draft.issued_at,
                1 if due else 2,
            )
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
        self._rows["credit_notes"].append(
            (
                draft.id,
                series,
                sequence,
                number,
                draft.customer.id,
                draft.currency,
                "issued",
                "adjustment",
                draft.billed_at,
                draft.issued_at,
                total,
                total,
                applied_minor,
                total - applied_minor - refunded_minor,
                refunded_minor,
                party,
                draft.customer.party,
                draft.customer.po_number,
                run,
                1,
            )
        )

    def add_lines(self, *, draft: Draft) -> list[str]:
        """The lines of a document, numbered from 1; gives their ids."""
        ids: list[str] = []
        rows = self._rows["line_items"]
        find, document = draft.ids.find, draft.id
        for ordinal, line in enumerate(draft.differences, start=1):
            charge = line.charge
            identity = find("li", ordinal)
            ids.append(identity)
            rows.append(
                (
                    identity,
                    document,
                    ordinal,
                    charge.agreement.id,
                    charge.stretch.id,
                    charge.stretch.price.key,
                    charge.period.start,
                    line.group,
                    line.sequence,
                    line.period.start,
                    line.period.end,
                    _quantity(line),
                    line.amount_minor,
                    line.reason,
                    line.adjusts,
                )
            )
        return ids

    def add_settlement(
        self, *, draft: Draft, ordinal: int, invoice: str, amount_minor: int
    ) -> None:
        """What a credit note, or the customer's balance, pays of an invoice."""
        note = draft.id if draft.is_credit_note else None
        self._rows["settlements"].append(
            (
                draft.ids.find("stl", ordinal),
                invoice,
                "customer_balance" if note is None else "credit_note",
                note,
                amount_minor,
                draft.issued_at,
            )
        )

    def add_entry(self, *, entry: str, kind: str, draft: Draft, entry_on: date) -> None:
        """A journal entry of the document."""
        self._rows["journal_entries"].append(
            (entry, kind, draft.id, entry_on, entry_on.replace(day=1), draft.issued_at)
        )

    def add_postings(self, *, entry: str, currency: str, postings: Sequence[Posting]) -> None:
        """The postings of one entry, numbered from 1."""
        rows = self._rows["postings"]
        for ordinal, posting in enumerate(postings, start=1):
            rows.append(
                (
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
            )

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


def _quantity(line: Difference) -> Decimal | None:
    """Nine digits; what a limit adds over groups has no quantity."""
    if line.charge.stretch.price.group_by and not line.group:
        return None
    return Decimal(line.quantity_nanos) * _NANO
