"""SQL for finding the billing runs of all sellers that are not over."""

from datetime import datetime
from fractions import Fraction
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.run_pace import customers_per_second, seconds_left
from invoicing.run_states import RunStatus

_OPEN: Final = text("""
SELECT seller_id, status, runs, customers_done, customers_total, documents, lines, parked,
  worked_micros, progress_at
FROM open_billing_runs()
""")
_BACKGROUND: Final = text("SELECT seller, id, rests FROM background_billing_runs()")


class OpenRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one seller that stand at one status, summed."""

    seller_id: str
    status: str
    runs: int
    customers_done: int
    customers_total: int | None
    documents: int
    lines: int
    parked: int
    worked_micros: int
    progress_at: datetime

    @property
    def customers_per_second(self) -> Fraction | None:
        """The mean over the time that was worked; None before anything was done."""
        return customers_per_second(done=self.customers_done, worked_micros=self.worked_micros)

    @property
    def seconds_left(self) -> Fraction | None:
        """What that rate foretells of what is running, from `progress_at` on."""
        rate = self.customers_per_second
        if rate is None or self.customers_total is None or self.status != RunStatus.RUNNING:
            return None
        return seconds_left(done=self.customers_done, total=self.customers_total, rate=rate)


class BackgroundRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that nobody waits for; `rests` while it is not to be tried again yet."""

    seller: int
    run: str
    rests: bool


async def list_open_runs(*, connection: AsyncConnection) -> list[OpenRuns]:
    """Runs that are not over, by seller id and status."""
    rows = await connection.execute(_OPEN)
    return [msgspec.convert(dict(row), OpenRuns, strict=False) for row in rows.mappings()]


async def list_background_runs(*, connection: AsyncConnection) -> list[BackgroundRun]:
    """What a worker is to go on with, in the order in which it is due."""
    rows = await connection.execute(_BACKGROUND)
    return [BackgroundRun(seller=row.seller, run=row.id, rests=row.rests) for row in rows]
