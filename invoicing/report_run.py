"""Verb: tell what a run that was begun for approval would post."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, not_found
from invoicing.report_rows_store import biggest_changes, remarked, report_totals
from invoicing.run_report import RunReport
from invoicing.run_states import RunStatus
from invoicing.run_store import list_runs

TOLD: Final = 20
"""Customers told one by one in each part of a report."""


async def report_run(*, connection: AsyncConnection, run: str) -> RunReport:
    """The report of a run; after its approval what was approved last.

    Errors: `not_found`, `report_not_ready` while it is being made.
    """
    found = await list_runs(connection=connection, run=run)
    if not found:
        raise not_found(noun="billing run", reference=run)
    if found[0].status == RunStatus.REVIEWING:
        detail = f"the report of the billing run {run!r} is being made"
        raise BillingError("report_not_ready", detail, kind=ErrorKind.CONFLICT)
    return RunReport(
        run=run,
        status=found[0].status,
        as_of=found[0].as_of,
        approved_at=found[0].approved_at,
        totals=tuple(await report_totals(connection=connection, run=run)),
        biggest_changes=tuple(await biggest_changes(connection=connection, run=run, limit=TOLD)),
        remarks=tuple(await remarked(connection=connection, run=run, limit=TOLD)),
        parked=found[0].parked,
    )
