"""Verb: copy the lines and entries of the next chunks while one is posted, on other connections.

Most of what a chunk costs is its lines and entries finding their places in the indexes: of that
nothing depends on who comes between. So its transaction begins early, shares the posting lock, and
goes on once the chunk before it has committed: with all that is compared, with the numbers and
with the invoices. Whatever turns out otherwise than it was foreseen, it is rolled back and the
chunk is posted in a transaction of its own.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.threads import begin_in_thread
from invoicing.alike import Due, Sheaf
from invoicing.alike_rows import Table, rows_of
from invoicing.alike_store import copy_encoded
from invoicing.derive import Derived
from invoicing.post_alike import Chunk, Outlook, Written, issue_of, outlook_of
from invoicing.store import share_billing
from plans.model import Seller

_log: Final = logging.getLogger("usance.billing")
CHUNKS: Final = 2
"""So many lie ahead of the one that is posted."""
_SPARE: Final = 2
_FREE: Final = frozenset({"line_items", "journal_entries", "postings"})
"""Tables whose rows neither are numbered nor told to anybody in turn."""


class _GivenUpError(Exception):
    """Rolls a transaction back, or does not begin one. Never leaves this module."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction in which the lines and entries of a chunk lie, and what it still lacks."""

    written: Written
    connection: AsyncConnection
    transaction: AsyncExitStack

    async def give_up(self) -> None:
        """Roll back; where the connection is lost the server has done so."""
        with suppress(Exception):
            async with self.transaction:
                raise _GivenUpError


class _Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk ahead, its outlook where that is known, and the task that copies it."""

    chunk: Chunk
    outlook: Outlook | None
    copying: asyncio.Task[Begun]


class CopyAhead:
    """At most two chunks ahead, and the tasks that copy of them what can be copied.

    One is copied after the other, so that none waits for rows of one after it; while one lies there
    or waits for its turn the server has the next.
    """

    def __init__(
        self, *, database: Database, number: int, seller: Seller, run: str, as_of: datetime
    ) -> None:
        """`number` is the seller's, whose documents the run posts."""
        self.seller = seller
        self._database = database
        self._number = number
        self._run = run
        self._as_of = as_of
        self._ahead: deque[_Ahead] = deque()
        self._is_failure_told = False

    def begin(self, chunks: Sequence[Chunk], before: Begun | None = None) -> None:
        """Begin with the next chunks that are not begun, where connections are to spare.

        As long as they are nothing but a sheaf. `before` is the chunk that is posted meanwhile;
        without one only the first is begun, whose numbers are not known before it asks.
        """
        outlook = None if before is None else _after(before.written.chunk, before.written.outlook)
        previous: _Ahead | None = None
        for place, chunk in enumerate(takewhile(_is_plain, chunks[:CHUNKS])):
            if place == len(self._ahead):
                if self._database.spare < _SPARE + place or (place and outlook is None):
                    return
                copying = self._copy(chunk, outlook, previous)
                self._ahead.append(
                    _Ahead(chunk=chunk, outlook=outlook, copying=asyncio.create_task(copying))
                )
            previous = self._ahead[place]
            outlook = None if previous.outlook is None else _after(chunk, previous.outlook)

    async def take(self, chunk: Chunk) -> Begun | None:
        """The chunk, begun now where it was not; None where that cannot be, or failed."""
        if not self._ahead:
            self.begin([chunk])
        if not self._ahead:
            return None
        copying = self._ahead[0].copying
        await asyncio.wait({copying})
        error = None if copying.cancelled() else copying.exception()
        if error is None and not copying.cancelled():
            begun = copying.result()
            if begun.written.chunk is chunk:
                self._ahead.popleft()
                return begun
        elif error is not None and not isinstance(error, _GivenUpError):
            self._tell(error)
        await self.drop()
        return None

    def _tell(self, error: BaseException) -> None:
        """Log a failure, once in a run."""
        if not self._is_failure_told:
            self._is_failure_told = True
            words = "run %s: chunks are not copied ahead, which is slower"
            _log.warning(words, self._run, exc_info=error)

    async def drop(self) -> None:
        """Roll back what was begun; nothing is being copied afterwards."""
        tasks = [each.copying for each in self._ahead]
        self._ahead.clear()
        if tasks:
            # Whoever is cancelled here, even twice, leaves no transaction that nobody ends.
            await asyncio.shield(asyncio.create_task(_dropped(tasks)))

    async def _copy(self, chunk: Chunk, outlook: Outlook | None, previous: _Ahead | None) -> Begun:
        tables = None if outlook is None else self._write(chunk, outlook)
        if previous is not None:
            await asyncio.wait({previous.copying})
            previous.copying.result()  # or what was in its way
            if self._database.spare < _SPARE:  # others took them meanwhile
                raise _GivenUpError
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(
                self._database.transaction(seller=self._number)
            )
            await share_billing(connection=connection)
            if outlook is None or tables is None:
                outlook = await outlook_of(
                    connection=connection, seller=self.seller, as_of=self._as_of
                )
                tables = self._write(chunk, outlook)
            rows = await tables
            free = [table for table in rows if table[0] in _FREE]
            await copy_encoded(connection=connection, tables=free)
            left = [table for table in rows if table[0] not in _FREE]
            return Begun(
                written=Written(chunk=chunk, outlook=outlook, tables=left),
                connection=connection,
                transaction=stack.pop_all(),
            )

    def _write(self, chunk: Chunk, outlook: Outlook) -> Awaitable[list[Table]]:
        """The rows of a chunk, written beside everything else."""
        work = partial(write, seller=self.seller, run=self._run, chunk=chunk, outlook=outlook)
        return begin_in_thread(work)


def _is_plain(chunk: Chunk) -> bool:
    """Whether it is nothing but a sheaf, of which something is owed."""
    return not chunk.derived and bool(chunk.documents)


def _after(chunk: Chunk, outlook: Outlook) -> Outlook:
    """The outlook of what is posted after a chunk."""
    return msgspec.structs.replace(outlook, sequence=outlook.sequence + chunk.documents)


async def _dropped(tasks: Sequence[asyncio.Task[Begun]]) -> None:
    for copying in tasks:
        copying.cancel()
    await asyncio.wait(tasks)
    for copying in reversed(tasks):
        if not copying.cancelled() and copying.exception() is None:
            await copying.result().give_up()


def write(*, seller: Seller, run: str, chunk: Chunk, outlook: Outlook) -> list[Table]:
    """The rows of a chunk of nothing but a sheaf, numbered as they will be."""
    sequences = range(outlook.sequence, outlook.sequence + chunk.documents)
    issue = issue_of(seller=seller, run=run, issued_at=outlook.issued_at)
    return rows_of(sheaf=chunk.sheaf, due=chunk.members, sequences=sequences, issue=issue)


def chunks_of(
    *,
    due: Sequence[Due],
    sheaf: Sheaf,
    derived: Sequence[Derived],
    size: int,
    first: int | None = None,
) -> list[Chunk]:
    """The work list cut into transactions of so many customers, the `first` of another size."""
    found = {item.due.customer.id: item for item in derived}
    chunks: list[Chunk] = []
    begin, end = 0, first or size
    while begin < len(due):
        part = due[begin:end]
        some = [found[each.customer] for each in part if each.customer in found]
        # A portion may be cut short of its sheaf: what lies beyond is derived again with the next.
        mine = sheaf.between(begin, begin + len(part))
        chunks.append(Chunk(due=part, sheaf=mine, derived=some))
        begin, end = end, end + size
    return chunks
