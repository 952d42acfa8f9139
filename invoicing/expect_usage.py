"""Verb: foresee what usage the rest of a billing run asks for, so that it is read once. Reads only.

Each portion of a run asks for other customers, of the same batches. What the later ones will ask
for is foreseen from the work list: of each subscription from where it is derived through until it
falls due. That is measured with the first portion. Nothing depends on its being right: what a
portion asks for otherwise is read for it. The sums hold as long as what is derived ahead does:
usage that comes later, or is corrected, lies in the inbox, and the next sweep marks whom it
touches.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.expected_usage_store import list_expected
from invoicing.work_store import Place
from metering.kept_usage import KeptUsage, may_keep, room_for
from metering.model import Windows
from plans.model import Meter

_STRAY: Final = 10
"""One in so many may be unforeseen before more is looked for."""
LEAST: Final = 250_000
"""So many are expected however many meters they ask: of some the sums are kept all the same."""


class UsageAhead(msgspec.Struct, frozen=True, kw_only=True):
    """The usage that is kept, and of how many at `most` more may be: those due by an instant.

    From beyond the place `after` on, or from the begin.
    """

    kept: KeptUsage
    due_by: datetime
    after: Place | None
    most: int


async def expect_usage(
    *,
    connection: AsyncConnection,
    meters: Mapping[int, Meter],
    windows: Windows,
    ahead: UsageAhead,
) -> None:
    """Expect what is due later too, where these windows begin beyond what was expected so far.

    Their own is expected again with it: where they are derived anew it is known. No more customers
    than there is room for the sums of every meter that these windows ask, but for LEAST.
    """
    if not ahead.most:
        return
    numbers = [number for number, meter in meters.items() if may_keep(meter)]
    asked = np.isin(windows.meter, numbers)
    foreseen = ahead.kept.foresaw(
        customer=windows.customer[asked], end_micros=windows.end_micros[asked]
    )
    strays = len(foreseen) - int(np.count_nonzero(foreseen))
    if strays * _STRAY <= len(foreseen):
        return
    room = room_for(meters=len(np.unique(windows.meter[asked])))
    most = min(ahead.most, max(room, LEAST))
    customer, start_micros, end_micros = await list_expected(
        connection=connection, due_by=ahead.due_by, after=ahead.after, limit=most
    )
    ahead.kept.expect(customer=customer, start_micros=start_micros, end_micros=end_micros)
