"""Verb: write the rows of the next chunk while one is posted, in another thread.

Posting is PostgreSQL's work, writing rows is ours: side by side they take the time of one.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from invoicing.alike import Due, Sheaf
from invoicing.alike_rows import rows_of
from invoicing.derive import Derived
from invoicing.post_alike import Chunk, Outlook, Written, issue_of
from plans.model import Seller


class Ahead:
    """The rows of at most one chunk. `outlook` is that of the chunk about to be posted."""

    def __init__(self, *, seller: Seller, run: str) -> None:
        self.outlook: Outlook | None = None
        self.seller = seller
        self._run = run
        self._writing: asyncio.Future[Written] | None = None

    def begin(self, chunk: Chunk, following: Chunk | None = None) -> None:
        """Begin with what comes after `chunk`, where nothing else takes numbers between."""
        if self.outlook is None or chunk.derived or following is None or following.derived:
            return
        sequence = self.outlook.sequence + chunk.documents
        outlook = Outlook(issued_at=self.outlook.issued_at, sequence=sequence)
        work = partial(write, seller=self.seller, run=self._run, chunk=following, outlook=outlook)
        self._writing = asyncio.get_running_loop().run_in_executor(None, work)

    async def take(self) -> Written | None:
        """What was begun last; None where nothing was, or where it failed: posting says why."""
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        await asyncio.wait({writing})
        return None if writing.exception() else writing.result()


def write(*, seller: Seller, run: str, chunk: Chunk, outlook: Outlook) -> Written:
    """The rows of a chunk of nothing but a sheaf, numbered as they will be."""
    sequences = range(outlook.sequence, outlook.sequence + chunk.documents)
    issue = issue_of(seller=seller, run=run, issued_at=outlook.issued_at)
    tables = rows_of(sheaf=chunk.sheaf, due=chunk.members, sequences=sequences, issue=issue)
    return Written(chunk=chunk, outlook=outlook, tables=tables)


def chunks_of(
    *, due: Sequence[Due], sheaf: Sheaf, derived: Sequence[Derived], size: int
) -> list[Chunk]:
    """The work list cut into transactions of so many customers."""
    found = {item.due.customer.id: item for item in derived}
    chunks: list[Chunk] = []
    for begin in range(0, len(due), size):
        part = due[begin : begin + size]
        some = [found[each.customer] for each in part if each.customer in found]
        chunks.append(Chunk(due=part, sheaf=sheaf.between(begin, begin + size), derived=some))
    return chunks
