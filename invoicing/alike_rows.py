"""A sheaf as the rows that are copied into the tables of documents. Pure.

Column for column these are the rows that `rows` writes for a plain invoice.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.columns import SINCE, Column, Ragged, encode_copy, nulls, numerics, same, texts
from engine.id_columns import IdColumns
from engine.ids import unix_micros
from engine.journal import ACCOUNTS_RECEIVABLE, CONTRACT_BALANCE
from invoicing.alike import ID_LENGTH, Due, Sheaf, document_bodies
from invoicing.charges import Charge
from invoicing.model import Reason
from invoicing.numbers import number_of
from invoicing.rows import COLUMNS

_FIRST_DAY: Final = date(2000, 1, 1)
_DAY_MICROS: Final = 86_400_000_000
_Ints = NDArray[np.int64]
Table = tuple[str, tuple[str, ...], bytes]


class Issue(msgspec.Struct, frozen=True, kw_only=True):
    """What the documents of one transaction have in common.

    `party` is the seller's.
    """

    seller: str
    party: str
    run: str
    series: str
    issued_at: datetime
    entry_on: date
    default_terms_days: int


def rows_of(
    *, sheaf: Sheaf, due: Sequence[Due], sequences: Sequence[int], issue: Issue
) -> list[Table]:
    """(table, columns, encoded rows) of every subscription that owes anything.

    `due` are the customers of the whole sheaf, `sequences` the numbers of those with a document.
    """
    counts = np.diff(sheaf.offsets)
    billed = np.flatnonzero(counts)
    chosen = [due[place] for place in billed.tolist()]
    agreements = [sheaf.terms[term].agreement for term in sheaf.term[billed].tolist()]
    bodies = document_bodies(
        seller=issue.seller,
        customers=[each.customer for each in chosen],
        instants=[each.due_at for each in chosen],
        currencies=[agreement.currency for agreement in agreements],
    )
    documents = _Documents(
        ids=IdColumns(bodies=bodies),
        customer=texts([each.customer for each in chosen]),
        currency=texts([agreement.currency for agreement in agreements]),
        total=np.add.reduceat(sheaf.amount_minor, sheaf.offsets[billed])
        if len(billed)
        else np.empty(0, dtype=np.int64),
        of=np.repeat(np.arange(len(billed)), counts[billed]),
        ordinal=np.arange(len(sheaf.charge)) - np.repeat(sheaf.offsets[billed], counts[billed]) + 1,
    )
    terms = [
        _terms_days(agreement.net_terms_days, each.net_terms_days, issue.default_terms_days)
        for agreement, each in zip(agreements, chosen, strict=True)
    ]
    return [
        _table("invoices", _invoices(documents, chosen, sequences, terms, issue)),
        _table("line_items", _lines(documents, sheaf, chosen)),
        _table("journal_entries", _entries(documents, issue)),
        _table("postings", _postings(documents, sheaf, chosen)),
        _table("outbox", _events(documents, issue)),
    ]


class _Documents(msgspec.Struct, frozen=True, kw_only=True):
    """n invoices, and of each line its invoice and its ordinal there.

    Whatever is found by their ids is copied in the order of these, so that PostgreSQL fills one
    page of an index after another.
    """

    ids: IdColumns
    customer: Column
    currency: Column
    total: _Ints
    of: _Ints
    ordinal: _Ints

    def sort(self, of: _Ints) -> _Ints:
        """The order of parts by the id of the invoice each is `of`, else as they come."""
        rank = np.empty_like(self.ids.in_order)
        rank[self.ids.in_order] = np.arange(len(rank))
        return np.argsort(rank[of], kind="stable")


def _table(name: str, columns: Sequence[Column]) -> Table:
    assert len(columns) == len(COLUMNS[name]), "a column for each name"
    return name, COLUMNS[name], encode_copy(columns)


def _terms_days(agreed: int | None, customers: int | None, default: int) -> int:
    if agreed is not None:
        return agreed
    return default if customers is None else customers


def _instants(values: Sequence[datetime]) -> _Ints:
    known = {at: unix_micros(at) - SINCE for at in set(values)}
    return np.array([known[at] for at in values], dtype=np.int64)


def _instant(at: datetime, count: int) -> _Ints:
    return np.full(count, unix_micros(at) - SINCE, dtype=np.int64)


def _picked(column: Column, of: _Ints) -> Column:
    if isinstance(column, np.ndarray):
        return column[of]
    return msgspec.structs.replace(column, content=column.content[of], lengths=column.lengths[of])


def _invoices(
    documents: _Documents,
    due: Sequence[Due],
    sequences: Sequence[int],
    terms: Sequence[int],
    issue: Issue,
) -> list[Column]:
    count, series = len(due), issue.series
    numbers = [number_of(series=series, sequence=each) for each in sequences]
    issued_at = _instant(issue.issued_at, count)
    return [
        documents.ids.find("inv"),
        same(series, count=count),
        np.array(sequences, dtype=np.int32),
        texts(numbers),
        documents.customer,
        documents.currency,
        same("open", count=count),
        _instants([each.due_at for each in due]),
        issued_at,
        issued_at + np.array(terms, dtype=np.int64) * _DAY_MICROS,
        documents.total,
        documents.total,
        np.zeros(count, dtype=np.int64),
        documents.total,
        same(issue.party, count=count),
        texts([each.party for each in due]),
        texts([each.po_number for each in due]),
        same(issue.run, count=count),
        nulls(count=count),
        np.ones(count, dtype=np.int32),
    ]


def _lines(documents: _Documents, sheaf: Sheaf, due: Sequence[Due]) -> list[Column]:
    count, charges = len(sheaf.charge), sheaf.charges
    intervals = "".join([each.intervals or "" for each in due]).encode()
    stored = np.frombuffer(intervals, dtype=np.uint8).reshape(-1, ID_LENGTH)
    sizes = np.array([len(each.intervals or "") // ID_LENGTH for each in due], dtype=np.int64)
    begins = np.cumsum(sizes) - sizes
    order = documents.sort(documents.of)
    of, ordinal, charge = documents.of[order], documents.ordinal[order], sheaf.charge[order]
    return [
        documents.ids.find("li", of=of, ordinal=ordinal),
        documents.ids.find("inv", of=of),
        ordinal.astype(np.int32),
        _picked(texts([each.subscription for each in due]), of),
        stored[begins[of] + _places(charges)[charge]],
        _picked(texts([each.stretch.price.key for each in charges]), charge),
        _instants([each.period.start for each in charges])[charge],
        same("", count=count),
        np.ones(count, dtype=np.int32),
        _instants([each.active.start for each in charges])[charge],
        _instants([each.active.end for each in charges])[charge],
        numerics(sheaf.quantity_nanos[order]),
        sheaf.amount_minor[order],
        same(Reason.INITIAL, count=count),
        nulls(count=count),
    ]


def _places(charges: Sequence[Charge]) -> _Ints:
    """Where each charge's price interval stands among those of its subscription."""
    found: list[int] = []
    for charge in charges:
        stretches = [stretch.id for stretch in charge.agreement.intervals]
        found.append(stretches.index(charge.stretch.id))
    return np.array(found, dtype=np.int64)


def _entries(documents: _Documents, issue: Issue) -> list[Column]:
    count, day = len(documents.total), issue.entry_on
    return [
        documents.ids.find("je", of=documents.ids.in_order),
        same("issued", count=count),
        documents.ids.find("inv", of=documents.ids.in_order),
        np.full(count, (day - _FIRST_DAY) // timedelta(days=1), dtype=np.int32),
        np.full(count, (day.replace(day=1) - _FIRST_DAY) // timedelta(days=1), dtype=np.int32),
        _instant(issue.issued_at, count),
    ]


def _postings(documents: _Documents, sheaf: Sheaf, due: Sequence[Due]) -> list[Column]:
    """The receivable of each document, then what each line puts on its contract."""
    count = len(due)
    of = np.concatenate([np.arange(count), documents.of])
    line = np.concatenate([np.zeros(count, np.int64), documents.ordinal])
    order = documents.sort(of)
    of, line = of[order], line[order]
    accounts = texts([ACCOUNTS_RECEIVABLE, CONTRACT_BALANCE])
    contracts = texts(["", *[each.contract for each in due]])
    items = documents.ids.find("li", of=of, ordinal=line)
    amounts = np.concatenate([documents.total, -sheaf.amount_minor])
    return [
        documents.ids.find("je", of=of),
        (line + 1).astype(np.int32),
        _picked(accounts, (line > 0).astype(np.int64)),
        _picked(documents.customer, of),
        _picked(contracts, np.where(line > 0, of + 1, 0)),
        documents.ids.find("inv", of=of),
        Ragged(content=items, lengths=np.where(line > 0, items.shape[1], 0).astype(np.int32)),
        _picked(documents.currency, of),
        amounts[order],
    ]


def _events(documents: _Documents, issue: Issue) -> list[Column]:
    count = len(documents.total)
    return [
        documents.ids.find("evt"),
        same("invoice.issued", count=count),
        documents.ids.find("inv"),
        np.ones(count, dtype=np.int32),
        _instant(issue.issued_at, count),
    ]
