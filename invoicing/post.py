"""Verb: post derived differences as numbered documents with their journal entries, in one transaction."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind
from engine.ids import ORDINAL_MAX, derived_id
from engine.journal import Posting
from engine.period import local_date
from invoicing.assembly import CREDIT_NOTE_SUFFIX, Draft, assemble
from invoicing.derive import Derived
from invoicing.posting_rules import balance_postings, credit_note_postings, invoice_postings
from invoicing.rows import COLUMNS, Rows
from invoicing.store import (
    OpenInvoice,
    add_balances,
    advance_subscriptions,
    copy_documents,
    document_counts,
    last_issued_at,
    lock_balances,
    lock_billing,
    lock_open_invoices,
    reduce_invoices,
    take_numbers,
)
from plans.catalog import party_id, party_of_seller
from plans.model import Seller

INVOICE_NUMBER: Final = "{series}-{sequence:06d}"


class StaleDerivationError(Exception):
    """Facts changed between deriving and posting: derive again. Never leaves the billing run."""


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction posted."""

    documents: int
    lines: int


class _Books:
    """What settles documents while they are posted: customer balances and open invoices."""

    def __init__(
        self, *, balances: dict[tuple[str, str], int], invoices: dict[str, OpenInvoice]
    ) -> None:
        self.balances = balances
        self.changes: dict[tuple[str, str], int] = {}
        self.invoices = {key: item.amount_due_minor for key, item in invoices.items()}
        self.versions = {key: item.version for key, item in invoices.items()}

    def use_balance(self, key: tuple[str, str], wanted: int) -> int:
        """Take up to `wanted` of the customer's balance in that currency."""
        used = min(wanted, self.balances.get(key, 0) + self.changes.get(key, 0))
        if used:
            self.changes[key] = self.changes.get(key, 0) - used
        return used

    def add_balance(self, key: tuple[str, str], amount: int) -> None:
        """Give the customer credit for its next invoice."""
        if amount:
            self.changes[key] = self.changes.get(key, 0) + amount

    def apply_credit(self, documents: Sequence[str], amount: int) -> list[tuple[str, int]]:
        """Spread a credit over what is open on the invoices, oldest first; the rest is not used."""
        applied: list[tuple[str, int]] = []
        wanted = set(documents)
        for invoice, open_minor in self.invoices.items():
            if invoice in wanted and open_minor > 0 and amount > 0:
                part = min(amount, open_minor)
                applied.append((invoice, part))
                self.invoices[invoice] = open_minor - part
                amount -= part
        return applied


async def post(
    *,
    connection: AsyncConnection,
    seller: Seller,
    run: str,
    as_of: datetime,
    sweeps: int,
    derived: Sequence[Derived],
) -> Posted:
    """Post what is derived: documents, lines, entries, settlements, outbox, and the progress.

    Raises StaleDerivationError when another run swept the inbox or a subscription changed since
    `derived` was read; the transaction must then be rolled back.
    """
    if await lock_billing(connection=connection, sweep=False) != sweeps:
        raise StaleDerivationError
    await _advance(connection, derived)
    billed = [item for item in derived if item.differences]
    if not billed:
        return Posted(documents=0, lines=0)
    drafts = await _drafts(connection, seller, as_of, billed)
    customers = list(dict.fromkeys(draft.customer.id for draft in drafts))
    books = _Books(
        balances=await lock_balances(connection=connection, customers=customers),
        invoices=await lock_open_invoices(
            connection=connection, invoices=_adjusted_documents(drafts)
        ),
    )
    numbers = await _numbers(connection, seller, drafts)
    rows = Rows()
    reductions: list[tuple[str, int, datetime]] = []
    for draft, sequence in zip(drafts, numbers, strict=True):
        posted_on = local_date(at=draft.issued_at, timezone=seller.timezone)
        if draft.is_credit_note:
            reductions += _credit_note(rows, books, seller, run, draft, sequence, posted_on)
        else:
            _invoice(rows, books, seller, run, draft, sequence, posted_on)
    await copy_documents(
        connection=connection,
        rows={table: (columns, rows.of(table)) for table, columns in COLUMNS.items()},
    )
    await reduce_invoices(connection=connection, reductions=reductions)
    await add_balances(connection=connection, changes=books.changes)
    return Posted(documents=len(drafts), lines=len(rows.of("line_items")))


async def _advance(connection: AsyncConnection, derived: Sequence[Derived]) -> None:
    progress = [entry for item in derived for entry in item.progress]
    if progress:
        changed = await advance_subscriptions(connection=connection, progress=progress)
        if changed != len(progress):
            raise StaleDerivationError


async def _drafts(
    connection: AsyncConnection, seller: Seller, as_of: datetime, billed: Sequence[Derived]
) -> list[Draft]:
    latest = await last_issued_at(connection=connection)
    issued_at = as_of if latest is None else max(as_of, latest)
    counts = await document_counts(
        connection=connection,
        customers=[item.due.customer.id for item in billed],
        instants=list({item.due.due_at for item in billed}),
    )
    drafts: list[Draft] = []
    for item in billed:
        drafts.extend(
            assemble(
                seller_id=seller.id,
                customer=item.due.customer,
                billed_at=item.due.due_at,
                issued_at=issued_at,
                default_terms_days=seller.net_terms_days,
                ordinal=counts.get((item.due.customer.id, item.due.due_at), 0),
                differences=item.differences,
            )
        )
        if len(item.differences) > ORDINAL_MAX - 2:
            message = f"{len(item.differences)} lines do not fit one document"
            raise BillingError("too_many_lines", message, kind=ErrorKind.INVALID)
    return drafts


def _adjusted_documents(drafts: Sequence[Draft]) -> list[str]:
    return list(
        dict.fromkeys(
            document
            for draft in drafts
            if draft.is_credit_note
            for line in draft.differences
            for document in line.adjusted_documents
        )
    )


async def _numbers(
    connection: AsyncConnection, seller: Seller, drafts: Sequence[Draft]
) -> list[int]:
    """The sequence number of each draft in its series, in the order given."""
    following: dict[bool, int] = {}
    for credit_note in (False, True):
        count = sum(draft.is_credit_note is credit_note for draft in drafts)
        if count:
            following[credit_note] = await take_numbers(
                connection=connection,
                series=_series(seller, credit_note=credit_note),
                count=count,
                issued_at=drafts[0].issued_at,
            )
    numbers: list[int] = []
    for draft in drafts:
        numbers.append(following[draft.is_credit_note])
        following[draft.is_credit_note] += 1
    return numbers


def _series(seller: Seller, *, credit_note: bool) -> str:
    return f"{seller.series}{CREDIT_NOTE_SUFFIX}" if credit_note else seller.series


def _invoice(
    rows: Rows,
    books: _Books,
    seller: Seller,
    run: str,
    draft: Draft,
    sequence: int,
    posted_on: date,
) -> None:
    series = _series(seller, credit_note=False)
    used = books.use_balance((draft.customer.id, draft.currency), draft.total_minor)
    number = INVOICE_NUMBER.format(series=series, sequence=sequence)
    rows.add_invoice(
        draft=draft,
        party=party_id(party_of_seller(seller)),
        run=run,
        series=series,
        sequence=sequence,
        number=number,
        balance_applied_minor=used,
    )
    lines = rows.add_lines(draft=draft)
    postings = invoice_postings(draft=draft, document=draft.id, lines=lines)
    _enter(rows, draft, "issued", 0, posted_on, postings)
    rows.add_event(draft=draft, ordinal=0, kind="invoice.issued", subject=draft.id, version=1)
    if used:
        balance = balance_postings(draft=draft, document=draft.id, amount_minor=used)
        _enter(rows, draft, "balance_applied", 1, posted_on, balance)
        rows.add_settlement(draft=draft, ordinal=1, invoice=draft.id, amount_minor=used)
    if used == draft.total_minor:
        rows.add_event(draft=draft, ordinal=1, kind="invoice.paid", subject=draft.id, version=2)


def _credit_note(
    rows: Rows,
    books: _Books,
    seller: Seller,
    run: str,
    draft: Draft,
    sequence: int,
    posted_on: date,
) -> list[tuple[str, int, datetime]]:
    series = _series(seller, credit_note=True)
    adjusted = [document for line in draft.differences for document in line.adjusted_documents]
    applied = books.apply_credit(adjusted, -draft.total_minor)
    applied_minor = sum(part for _, part in applied)
    books.add_balance((draft.customer.id, draft.currency), -draft.total_minor - applied_minor)
    rows.add_credit_note(
        draft=draft,
        party=party_id(party_of_seller(seller)),
        run=run,
        series=series,
        sequence=sequence,
        number=INVOICE_NUMBER.format(series=series, sequence=sequence),
        applied_minor=applied_minor,
    )
    lines = rows.add_lines(draft=draft)
    postings = credit_note_postings(
        draft=draft, document=draft.id, lines=lines, applied_minor=applied_minor
    )
    _enter(rows, draft, "issued", 0, posted_on, postings)
    rows.add_event(draft=draft, ordinal=0, kind="credit_note.issued", subject=draft.id, version=1)
    for ordinal, (invoice, part) in enumerate(applied, start=1):
        rows.add_settlement(draft=draft, ordinal=ordinal, invoice=invoice, amount_minor=part)
        books.versions[invoice] += 1
        rows.add_event(
            draft=draft,
            ordinal=ordinal,
            kind="invoice.paid" if books.invoices[invoice] == 0 else "invoice.credited",
            subject=invoice,
            version=books.versions[invoice],
        )
    return [(invoice, part, draft.issued_at) for invoice, part in applied]


def _enter(
    rows: Rows,
    draft: Draft,
    kind: str,
    ordinal: int,
    posted_on: date,
    postings: Sequence[Posting],
) -> None:
    entry = derived_id(prefix="je", body=draft.body, ordinal=ordinal)
    rows.add_entry(entry=entry, kind=kind, draft=draft, entry_on=posted_on)
    rows.add_postings(entry=entry, currency=draft.currency, postings=postings)
