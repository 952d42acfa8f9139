"""Verb: post a sheaf, and what was derived one by one among it, in one transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import count

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.period import local_date
from invoicing.alike import Due, Sheaf
from invoicing.alike_rows import Issue, Table, rows_of
from invoicing.alike_store import advance_alike, are_plain, copy_encoded
from invoicing.assembly import Draft
from invoicing.copied_facts_store import are_customers_same
from invoicing.derive import Derived
from invoicing.draft_store import waiting_edits
from invoicing.post import (
    Posted,
    StaleDerivationError,
    advance,
    compare_facts,
    hold_sweeps,
    post_drafts,
    series_of,
)
from invoicing.prepare import issue_instant, prepare
from invoicing.store import document_counts, lock_balances, next_number, take_numbers
from plans.catalog import party_id, party_of_seller
from plans.model import Seller


class NotAlikeError(Exception):
    """More than its terms decides a document: derive one by one. Never leaves the billing run.

    That of `customers` (ids), or of all where there are none.
    """

    def __init__(self, customers: Collection[str] = ()) -> None:
        super().__init__()
        self.customers = frozenset(customers)


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction posts: `sheaf` and `derived`, whose places are those in `due`."""

    due: Sequence[Due]
    sheaf: Sheaf
    derived: Sequence[Derived]

    @property
    def members(self) -> list[Due]:
        """The customers of the sheaf."""
        return [self.due[place] for place in self.sheaf.place.tolist()]

    @property
    def documents(self) -> int:
        """How many documents the sheaf gives."""
        return int(np.count_nonzero(np.diff(self.sheaf.offsets)))

    def apart(self, customers: Collection[str], derived: Sequence[Derived]) -> "Chunk":
        """The same with `customers` (ids) taken out of the sheaf; `derived` is what they owe."""
        keep = np.array([each.customer not in customers for each in self.members], dtype=np.bool_)
        places = {each.customer: place for place, each in enumerate(self.due)}
        every = [*self.derived, *derived]
        every.sort(key=lambda item: places[item.due.customer.id])
        return msgspec.structs.replace(self, sheaf=self.sheaf.kept(keep), derived=every)


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What the next number and the instant of issue will be, if nobody comes between."""

    issued_at: datetime
    sequence: int


class UnforeseenError(Exception):
    """Numbers or instant are not what was foreseen. Never leaves the billing run."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to be copied of a chunk's sheaf, of an outlook that may turn out wrong.

    The rest lies in the transaction already, which shares the posting lock.
    """

    chunk: Chunk
    outlook: Outlook
    tables: Sequence[Table]


async def post_alike(
    *,
    connection: AsyncConnection,
    seller: Seller,
    run: str,
    as_of: datetime,
    sweeps: int,
    chunk: Chunk,
    written: Written | None = None,
) -> Posted:
    """Post the documents of a chunk, numbered in the order of the work list.

    Raises StaleDerivationError as `post` does, and NotAlikeError where a customer of the sheaf has
    come to have credit, a document of that instant or lines by hand, or its seller taxes; and
    UnforeseenError where the outlook of what is `written` did not come true. The transaction must
    then be rolled back.
    """
    await hold_sweeps(connection=connection, sweeps=sweeps, shared=written is not None)
    await advance(connection=connection, derived=chunk.derived)
    await _advance_sheaf(connection, chunk)
    billed = [item for item in chunk.derived if item.differences]
    drafts: Sequence[Draft] = ()
    if billed:
        await compare_facts(connection=connection, derived=billed)
        drafts = await prepare(connection=connection, seller=seller, as_of=as_of, derived=billed)
    members = chunk.members
    owing = np.flatnonzero(np.diff(chunk.sheaf.offsets))
    due = [members[place] for place in owing.tolist()]
    if due:
        await _check_plain(connection, due)
    issued_at = await issue_instant(connection=connection, as_of=as_of)
    places = {each.customer: place for place, each in enumerate(chunk.due)}
    mine = await _take_numbers(
        connection, seller, issued_at, _order(drafts, places), chunk.sheaf.place[owing].tolist()
    )
    posted = Posted(documents=0, lines=0)
    if drafts:
        posted = await post_drafts(
            connection=connection, seller=seller, run=run, drafts=drafts, sequences=mine[0]
        )
    if due:
        found = Outlook(issued_at=issued_at, sequence=mine[1][0])
        if written is None:
            issue = issue_of(seller=seller, run=run, issued_at=issued_at)
            tables = rows_of(sheaf=chunk.sheaf, due=members, sequences=mine[1], issue=issue)
        elif written.outlook == found:
            tables = written.tables
        else:
            raise UnforeseenError
        await copy_encoded(connection=connection, tables=tables)
    return Posted(
        documents=posted.documents + len(due), lines=posted.lines + len(chunk.sheaf.charge)
    )


async def outlook_of(*, connection: AsyncConnection, seller: Seller, as_of: datetime) -> Outlook:
    """What numbers and instant the next documents will have."""
    return Outlook(
        issued_at=await issue_instant(connection=connection, as_of=as_of),
        sequence=await next_number(
            connection=connection, series=series_of(seller, credit_note=False)
        ),
    )


def issue_of(*, seller: Seller, run: str, issued_at: datetime) -> Issue:
    """What the documents of one transaction have in common."""
    return Issue(
        seller=seller.id,
        party=party_id(party_of_seller(seller)),
        run=run,
        series=series_of(seller, credit_note=False),
        issued_at=issued_at,
        entry_on=local_date(at=issued_at, timezone=seller.timezone),
        default_terms_days=seller.net_terms_days,
    )


async def _advance_sheaf(connection: AsyncConnection, chunk: Chunk) -> None:
    members = chunk.members
    if not members:
        return
    changed = await advance_alike(
        connection=connection,
        subscriptions=[each.subscription or "" for each in members],
        revisions=[each.revision or 0 for each in members],
        terms=chunk.sheaf.term.tolist(),
        progress=[terms.progress for terms in chunk.sheaf.terms],
    )
    if changed != len(members):
        raise StaleDerivationError


async def _check_plain(connection: AsyncConnection, due: Sequence[Due]) -> None:
    customers = [each.customer for each in due]
    copied = [each.copied for each in due]
    if not await are_customers_same(connection=connection, customers=customers, copied=copied):
        raise StaleDerivationError
    instants = list({each.due_at for each in due})
    if not await are_plain(connection=connection):
        raise NotAlikeError
    counts = await document_counts(connection=connection, customers=customers, instants=instants)
    balances = await lock_balances(connection=connection, customers=customers)
    edits = await waiting_edits(connection=connection, customers=customers)
    apart = {each.customer for each in due if (each.customer, each.due_at) in counts}
    apart.update(customer for customer, _ in balances)
    apart.update(edit.customer for edit in edits)
    if apart:
        raise NotAlikeError(apart)


def _order(drafts: Sequence[Draft], places: Mapping[str, int]) -> list[tuple[bool, int]]:
    """(whether it is a credit note, place in the work list) of each draft."""
    return [(draft.is_credit_note, places[draft.customer.id]) for draft in drafts]


async def _take_numbers(
    connection: AsyncConnection,
    seller: Seller,
    issued_at: datetime,
    drafts: Sequence[tuple[bool, int]],
    sheaf: Sequence[int],
) -> tuple[list[int], list[int]]:
    """The numbers of the drafts and of the sheaf's documents, invoices in one series."""
    if not drafts and sheaf:
        first = await take_numbers(
            connection=connection,
            series=series_of(seller, credit_note=False),
            count=len(sheaf),
            issued_at=issued_at,
        )
        return [], list(range(first, first + len(sheaf)))
    invoices = sorted(
        [(place, 0, at) for at, (credit_note, place) in enumerate(drafts) if not credit_note]
        + [(place, 1, at) for at, place in enumerate(sheaf)]
    )
    notes = [at for at, (credit_note, _) in enumerate(drafts) if credit_note]
    numbers = ([0] * len(drafts), [0] * len(sheaf))
    if invoices:
        first = await take_numbers(
            connection=connection,
            series=series_of(seller, credit_note=False),
            count=len(invoices),
            issued_at=issued_at,
        )
        for (_, kind, at), sequence in zip(invoices, count(first), strict=False):
            numbers[kind][at] = sequence
    if notes:
        first = await take_numbers(
            connection=connection,
            series=series_of(seller, credit_note=True),
            count=len(notes),
            issued_at=issued_at,
        )
        for at, sequence in zip(notes, count(first), strict=False):
            numbers[0][at] = sequence
    return numbers
