"""Verb: derive the next stretch of a billing run's work list, in one snapshot. Reads only."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.alike import Due, Sheaf, following_of
from invoicing.copy_ahead import chunks_of
from invoicing.derive import Derived, Work, derive, following_due, load_work
from invoicing.derive_alike import derive_alike
from invoicing.expect_usage import UsageAhead
from invoicing.portions import Portions
from invoicing.post_alike import Chunk
from invoicing.work_store import DueCustomer, Place, due_customer, due_with_terms
from metering.kept_usage import KeptUsage
from plans.model import Seller
from plans.subscription_store import PriceBook

INSTANT = timedelta(microseconds=1)


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """What of the work list is wanted: at most so many due by an instant, beyond a place.

    `parked` and `customers` (ids) are left out and the only ones wanted.
    """

    due_by: datetime
    limit: int
    parked: Sequence[str]
    customers: Sequence[str] | None
    after: Place | None = None

    def beyond(self, portion: "Portion", *, limit: int) -> "Stretch":
        """What comes after a portion, before any of its customers is due again."""
        due_by = self.due_by
        if portion.following is not None:
            due_by = min(due_by, portion.following - INSTANT)
        return msgspec.structs.replace(self, due_by=due_by, limit=limit, after=portion.last)

    def usage_ahead(self, kept: KeptUsage, *, most: int) -> UsageAhead:
        """What is kept of the usage, and of how many at `most` it may be, from its begin on.

        No more where those wanted are named, or where this stretch has as many itself.
        """
        more = self.customers is None and most > self.limit
        most = most if more else 0
        return UsageAhead(kept=kept, due_by=self.due_by, after=self.after, most=most)


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the work list and what its customers owe.

    `chunks` where some of them were derived together, else `derived`. `last` is the place at which
    it ends, None where there is nothing; with `is_first` nothing is due before it. None of its
    customers is due again before `following`; with `goes_on` others may be due until then.
    """

    chunks: deque[Chunk]
    derived: Sequence[Derived]
    last: Place | None
    is_first: bool
    following: datetime | None
    goes_on: bool


async def derive_portion(
    *,
    connection: AsyncConnection,
    seller: Seller,
    stretch: Stretch,
    portions: Portions,
    alike_only: bool = False,
    kept: KeptUsage | None = None,
) -> Portion | None:
    """Derive what comes first of a stretch; documents are numbered in the order of due instants.

    So it ends before any of its customers falls due again. With `alike_only` None where no two have
    the same terms. What is `kept` of the usage is not read again, and where there is more in the
    work list its usage is. Raises BillingError, and whatever else is wrong with an account.
    """
    book = PriceBook()
    due, goes_on = await due_in(connection=connection, stretch=stretch)
    ahead = None
    if kept is not None:
        ahead = stretch.usage_ahead(kept, most=portions.expected if goes_on else 0)
    sheaf = await derive_alike(
        connection=connection,
        seller=seller,
        due=due,
        book=book,
        few=portions.few,
        ahead=ahead,
    )
    if sheaf is None and alike_only:
        return None
    end, one_by_one = apart(due, sheaf, portions.segment)
    work = await load_work(connection=connection, due=one_by_one, book=book)
    following = earlier(following_due(work=work), following_of(sheaf, end))
    reached, work = cut(due=due[:end], work=work, following=following)
    goes_on = reached == end and (goes_on or end < len(due))
    end = reached
    derived = await derive(connection=connection, seller=seller, work=work) if work else []
    chunks = (
        []
        if sheaf is None
        else chunks_of(
            due=due[:end],
            sheaf=sheaf,
            derived=derived,
            size=portions.chunk,
            first=min(portions.opening, portions.chunk) if stretch.after is None else None,
        )
    )
    return Portion(
        chunks=deque(chunks),
        derived=derived if sheaf is None else (),
        last=Place(due_at=due[end - 1].due_at, key=due[end - 1].key) if end else None,
        is_first=stretch.after is None,
        following=following,
        goes_on=goes_on,
    )


async def due_in(*, connection: AsyncConnection, stretch: Stretch) -> tuple[list[Due], bool]:
    """The customers of a stretch, and whether there may be more."""
    return await due_with_terms(
        connection=connection,
        due_by=stretch.due_by,
        limit=stretch.limit,
        parked=stretch.parked,
        customers=stretch.customers,
        after=stretch.after,
    )


def cut(
    *, due: Sequence[Due], work: Sequence[Work], following: datetime | None
) -> tuple[int, list[Work]]:
    """How many of the customers, and what of the work, fall due before any does again."""
    if following is None:
        return len(due), list(work)
    reached = sum(each.due_at < following for each in due)
    return reached, [item for item in work if item.due.due_at < following]


def apart(due: Sequence[Due], sheaf: Sheaf | None, most: int) -> tuple[int, list[DueCustomer]]:
    """(end, customers): those up to `end` that are derived one by one, at most so many."""
    together = frozenset[int]() if sheaf is None else frozenset(sheaf.place.tolist())
    found: list[DueCustomer] = []
    for place, each in enumerate(due):
        if place in together:
            continue
        if len(found) == most:
            return place, found
        found.append(due_customer(each))
    return len(due), found


def earlier(first: datetime | None, second: datetime | None) -> datetime | None:
    """The earlier of two instants, either of which may be none."""
    known = [at for at in (first, second) if at is not None]
    return min(known, default=None)
