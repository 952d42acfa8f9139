"""Verb: post derived differences as numbered documents with their entries, in one transaction."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.journal import Posting
from engine.period import local_date
from invoicing.assembly import CREDIT_NOTE_SUFFIX, Draft
from invoicing.copied_facts_store import are_customers_same, are_groups_same
from invoicing.derive import Derived
from invoicing.draft_store import mark_edits
from invoicing.losses import write_off_postings
from invoicing.numbers import number_of
from invoicing.posting_rules import (
    balance_postings,
    credit_note_postings,
    invoice_postings,
    prepaid_postings,
)
from invoicing.prepare import prepare
from invoicing.rows import Rows
from invoicing.settlement import Books
from invoicing.store import (
    add_balances,
    advance_subscriptions,
    copy_documents,
    lock_balances,
    lock_billing,
    lock_open_invoices,
    lock_shared_billing,
    reduce_invoices,
    take_numbers,
)
from plans.catalog import party_id, party_of_seller
from plans.model import Seller
from plans.seller_store import load_seller


class StaleDerivationError(Exception):
    """Facts changed between deriving and posting: derive again. Never leaves the billing run."""


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction posted."""

    documents: int
    lines: int


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

    Raises StaleDerivationError when another run swept the inbox, or a subscription or what a
    document copies of a customer changed since `derived` was read; the transaction must then be
    rolled back. What is said of the `seller` is taken as it is given.
    """
    await hold_sweeps(connection=connection, sweeps=sweeps)
    await advance(connection=connection, derived=derived)
    billed = [item for item in derived if item.differences]
    if not billed:
        return Posted(documents=0, lines=0)
    await compare_facts(connection=connection, derived=billed)
    drafts = await prepare(connection=connection, seller=seller, as_of=as_of, derived=billed)
    return await post_drafts(connection=connection, seller=seller, run=run, drafts=drafts)


async def post_drafts(
    *,
    connection: AsyncConnection,
    seller: Seller,
    run: str,
    drafts: Sequence[Draft],
    sequences: Sequence[int] | None = None,
) -> Posted:
    """Number the drafts, settle them and write them with their entries, in the order given.

    The posting lock must be held. `run` is the billing run, or "" for a document by hand.
    `sequences` are numbers taken before.
    """
    customers = list(dict.fromkeys(draft.customer.id for draft in drafts))
    books = Books(
        balances=await lock_balances(connection=connection, customers=customers),
        invoices=await lock_open_invoices(
            connection=connection, invoices=_adjusted_documents(drafts)
        ),
    )
    desk = _Desk(books=books, seller=seller, run=run)
    if sequences is None:
        sequences = await _numbers(connection, seller, drafts)
    for draft, sequence in zip(drafts, sequences, strict=True):
        desk.write(draft, sequence)
    rows = desk.rows
    await copy_documents(connection=connection, tables=rows.tables())
    await reduce_invoices(connection=connection, reductions=desk.reductions)
    await add_balances(connection=connection, changes=books.changes)
    edited = [(edit, draft.id) for draft in drafts for edit in draft.edits]
    await mark_edits(connection=connection, posted=edited)
    return Posted(documents=len(drafts), lines=rows.count("line_items"))


async def hold_sweeps(*, connection: AsyncConnection, sweeps: int, shared: bool = False) -> None:
    """Take the posting lock; StaleDerivationError when the inbox was swept since.

    With `shared` in a transaction that shares it already.
    """
    if shared:
        found = await lock_shared_billing(connection=connection)
    else:
        found = await lock_billing(connection=connection, sweep=False)
    if found != sweeps:
        raise StaleDerivationError


async def advance(*, connection: AsyncConnection, derived: Sequence[Derived]) -> None:
    """Note the progress; StaleDerivationError when a subscription changed since."""
    progress = [entry for item in derived for entry in item.progress]
    if progress:
        changed = await advance_subscriptions(connection=connection, progress=progress)
        if changed != len(progress):
            raise StaleDerivationError


async def compare_seller(*, connection: AsyncConnection, seller: Seller) -> None:
    """StaleDerivationError where the seller is not any more what it was, but for its clock."""
    found = await load_seller(connection=connection)
    if msgspec.structs.replace(found, clock_at=seller.clock_at) != seller:
        raise StaleDerivationError


async def compare_facts(*, connection: AsyncConnection, derived: Sequence[Derived]) -> None:
    """StaleDerivationError when a customer is not any more as its documents would have it."""
    groups: dict[str, str] = {}
    for item in derived:
        for difference in item.differences:
            agreement = difference.charge.agreement
            groups[agreement.id] = agreement.invoice_group
    if not (
        await are_customers_same(
            connection=connection,
            customers=[item.due.customer.id for item in derived],
            copied=[item.due.copied for item in derived],
        )
        and await are_groups_same(connection=connection, groups=groups)
    ):
        raise StaleDerivationError


def _adjusted_documents(drafts: Sequence[Draft]) -> list[str]:
    return list(
        dict.fromkeys(
            document
            for draft in drafts
            if draft.is_credit_note
            for document in draft.adjusted_documents
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
                series=series_of(seller, credit_note=credit_note),
                count=count,
                issued_at=drafts[0].issued_at,
            )
    numbers: list[int] = []
    for draft in drafts:
        numbers.append(following[draft.is_credit_note])
        following[draft.is_credit_note] += 1
    return numbers


def series_of(seller: Seller, *, credit_note: bool) -> str:
    """The series that numbers the seller's documents of a kind."""
    return f"{seller.series}{CREDIT_NOTE_SUFFIX}" if credit_note else seller.series


class _Desk:
    """Writes drafts as rows, settling each against the books on the way."""

    def __init__(self, *, books: Books, seller: Seller, run: str) -> None:
        self.rows = Rows()
        self.reductions: list[tuple[str, int, datetime]] = []
        self._books = books
        self._seller = seller
        self._run = run
        self._party = party_id(party_of_seller(seller))

    def write(self, draft: Draft, sequence: int) -> None:
        """The document with its lines, entries, settlements and events."""
        if draft.is_credit_note:
            self._credit_note(draft, sequence)
        else:
            self._invoice(draft, sequence)

    def _invoice(self, draft: Draft, sequence: int) -> None:
        series = series_of(self._seller, credit_note=False)
        prepaid = sum([draw.amount_minor for draw in draft.draws if draw.kind == "prepaid"])
        owner = (draft.customer.id, draft.currency)
        used = self._books.use_balance(owner, draft.total_minor - prepaid)
        self.rows.add_invoice(
            draft=draft,
            party=self._party,
            run=self._run,
            series=series,
            sequence=sequence,
            number=number_of(series=series, sequence=sequence),
            prepaid_applied_minor=prepaid,
            balance_applied_minor=used,
        )
        document = draft.id
        lines = self.rows.add_lines(draft=draft)
        postings = invoice_postings(draft=draft, document=document, lines=lines)
        if draft.enter_by_at is not None and not used + prepaid and draft.total_minor:
            self.rows.add_held(document=document, enter_by_at=draft.enter_by_at, postings=postings)
        else:
            self._enter(draft, "issued", 0, postings)
        self._tell(draft, 0, "invoice.issued", document, 1)
        if used:
            balance = balance_postings(draft=draft, document=document, amount_minor=used)
            self._enter(draft, "balance_applied", 1, balance)
            self._settle(draft, 1, "customer_balance", document, used)
        if prepaid:
            paid = prepaid_postings(draft=draft, document=document)
            self._enter(draft, "prepaid_applied", 2, paid)
            self._settle(draft, 2, "prepaid", document, prepaid)
        if used + prepaid == draft.total_minor:
            self._tell(draft, 1, "invoice.paid", document, 2)

    def _credit_note(self, draft: Draft, sequence: int) -> None:
        series = series_of(self._seller, credit_note=True)
        applied = self._books.apply_credit(
            draft.adjusted_documents, -draft.total_minor, customer=draft.customer.id
        )
        applied_minor = sum(part for _, part in applied)
        left = -draft.total_minor - applied_minor
        refunded_minor = min(left, draft.refundable_minor)
        self._books.add_balance((draft.customer.id, draft.currency), left - refunded_minor)
        self.rows.add_credit_note(
            draft=draft,
            party=self._party,
            run=self._run,
            series=series,
            sequence=sequence,
            number=number_of(series=series, sequence=sequence),
            applied_minor=applied_minor,
            refunded_minor=refunded_minor,
        )
        document = draft.id
        lines = self.rows.add_lines(draft=draft)
        postings = credit_note_postings(
            draft=draft,
            document=document,
            lines=lines,
            applied_minor=applied_minor,
            refunded_minor=refunded_minor,
        )
        self._enter(draft, "issued", 0, postings)
        self._tell(draft, 0, "credit_note.issued", document, 1)
        self._undo_losses(draft, applied)
        for ordinal, (invoice, part) in enumerate(applied, start=1):
            self._settle(draft, ordinal, "credit_note", invoice, part)
            paid = self._books.is_settled(invoice)
            kind = "invoice.paid" if paid else "invoice.credited"
            self._tell(draft, ordinal, kind, invoice, self._books.next_version(invoice))
            self.reductions.append((invoice, part, draft.issued_at))
        if refunded_minor:
            refund = self.rows.add_refund(draft=draft, amount_minor=refunded_minor)
            self._tell(draft, len(applied) + 1, "refund.created", refund, 1)

    def _undo_losses(self, draft: Draft, applied: Sequence[tuple[str, int]]) -> None:
        """What the note took off receivables of an invoice that was written off were losses."""
        undone = [
            posting
            for invoice, part in applied
            for posting in write_off_postings(
                losses=self._books.undo_losses(invoice, part),
                customer=draft.customer.id,
                invoice=invoice,
                sign=-1,
            )
            if posting.amount_minor
        ]
        if undone:
            self._enter(draft, "write_off_recovered", 1, undone)

    def _settle(
        self, draft: Draft, ordinal: int, kind: str, invoice: str, amount_minor: int
    ) -> None:
        self.rows.add_settlement(
            draft=draft, ordinal=ordinal, kind=kind, invoice=invoice, amount_minor=amount_minor
        )

    def _enter(self, draft: Draft, kind: str, ordinal: int, postings: Sequence[Posting]) -> None:
        entry = draft.ids.find("je", ordinal)
        posted_on = local_date(at=draft.issued_at, timezone=self._seller.timezone)
        self.rows.add_entry(entry=entry, kind=kind, draft=draft, entry_on=posted_on)
        self.rows.add_postings(entry=entry, currency=draft.currency, postings=postings)

    def _tell(self, draft: Draft, ordinal: int, kind: str, subject: str, version: int) -> None:
        self.rows.add_event(
            draft=draft, ordinal=ordinal, kind=kind, subject=subject, version=version
        )
