"""`usance runs`: billing runs listed, stopped, resumed, approved, their parked tried again."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import rich_click as click

from api.cli_run import first_posted, show_run
from api.cli_start import FAILED, Answer, Commands, console, run_async, started

if TYPE_CHECKING:
    from engine.db import Database
    from invoicing.model import BillingRun
    from invoicing.run_report import RunReport
    from invoicing.run_report_store import PostedDocument
    from invoicing.run_states import RunAct

LISTED = 20
_SELLER = click.option("--seller", "seller_id", default=None, help="sel_…; needed among several.")
_REASON = click.option("--reason", default=None, help="Why; kept in the audit log.")
_NO_WAIT = click.option("--no-wait", "queue", is_flag=True, help="Leave it to `usance serve`.")


@click.group(cls=Commands, invoke_without_command=True)
@_SELLER
@click.pass_context
def runs(context: click.Context, seller_id: str | None) -> None:
    """Billing runs: the latest of them, and what may be done to one.

    A run stops between two chunks. What a paused run has not posted yet is held back from every
    other run; what a cancelled one has not posted is due for a later run.
    """
    context.obj = seller_id
    if context.invoked_subcommand is None:
        _list(seller_id)


@runs.command("list")
@_SELLER
@click.pass_obj
def list_(above: str | None, seller_id: str | None) -> None:
    """List the runs that began last."""
    _list(seller_id or above)


def _list(seller_id: str | None) -> None:
    async def find(database: "Database", seller: int, now: datetime) -> "list[BillingRun]":
        from invoicing.run_store import latest_runs

        del now
        async with database.transaction(seller=seller) as connection:
            return await latest_runs(connection=connection, limit=LISTED)

    _show_runs(_on_seller(seller_id, find))


@runs.command()
@click.argument("run")
@_SELLER
@click.pass_obj
def show(above: str | None, run: str, seller_id: str | None) -> None:
    """Show one run: how far it is, and what it parked."""

    async def find(
        database: "Database", seller: int, now: datetime
    ) -> "tuple[BillingRun, list[PostedDocument]]":
        return await _find(database, seller, now, run=run)

    _show(*_on_seller(seller_id or above, find))


@runs.command()
@click.argument("run")
@_SELLER
@_REASON
@click.pass_obj
def pause(above: str | None, run: str, seller_id: str | None, reason: str | None) -> None:
    """Pause a run after the chunk in hand."""
    _step(seller_id or above, run, "pause", reason)


@runs.command()
@click.argument("run")
@_SELLER
@_REASON
@click.pass_obj
def cancel(above: str | None, run: str, seller_id: str | None, reason: str | None) -> None:
    """End a run after the chunk in hand: what it posted stays."""
    _step(seller_id or above, run, "cancel", reason)


@runs.command()
@click.argument("run")
@_SELLER
@_REASON
@_NO_WAIT
@click.pass_obj
def resume(
    above: str | None, run: str, seller_id: str | None, reason: str | None, queue: bool
) -> None:
    """Go on with a paused run, here unless a worker is to."""
    _go_on(seller_id or above, run, "resume", reason, queue=queue)


@runs.command()
@click.argument("run")
@_SELLER
@_REASON
@_NO_WAIT
@click.pass_obj
def approve(
    above: str | None, run: str, seller_id: str | None, reason: str | None, queue: bool
) -> None:
    """Post what the report of a run tells, and nothing else."""
    _go_on(seller_id or above, run, "approve", reason, queue=queue)


@runs.command()
@click.argument("run")
@_SELLER
@_REASON
@click.pass_obj
def reject(above: str | None, run: str, seller_id: str | None, reason: str | None) -> None:
    """End a run that awaits approval: all of it stays due."""
    _step(seller_id or above, run, "reject", reason)


@runs.command()
@click.argument("run")
@_SELLER
@click.option(
    "--csv",
    "file",
    type=click.File("w", encoding="utf-8", lazy=True),
    default=None,
    help="Write every customer to this file, - for the output.",
)
@click.pass_obj
def report(above: str | None, run: str, seller_id: str | None, file: "TextIO | None") -> None:
    """Tell what a run that awaits approval would post, and what to look at."""
    from api.report_shown import show_report, write_report
    from invoicing.report_run import report_run

    async def find(database: "Database", seller: int, now: datetime) -> "RunReport":
        del now
        async with database.transaction(seller=seller, snapshot=True) as connection:
            told = await report_run(connection=connection, run=run)
            if file is not None:
                await write_report(connection=connection, run=run, file=file)
            return told

    told = _on_seller(seller_id or above, find)
    if file is None:
        show_report(told)


@runs.command()
@click.argument("run")
@click.option("--customer", "customers", multiple=True, help="Key or id; all parked, without.")
@_SELLER
@_REASON
@_NO_WAIT
@click.pass_obj
def retry(
    above: str | None,
    *,
    run: str,
    customers: tuple[str, ...],
    seller_id: str | None,
    reason: str | None,
    queue: bool,
) -> None:
    """Try the parked accounts of a finished run again; those that succeed leave its list."""
    _go_on(seller_id or above, run, "retry", reason, customers or None, queue=queue)


def _step(seller_id: str | None, run: str, act: str, reason: str | None) -> None:
    async def do(
        database: "Database", seller: int, now: datetime
    ) -> "tuple[BillingRun, list[PostedDocument]]":
        await _control(database, seller, now, run=run, act=_act(act), reason=reason)
        return await _find(database, seller, now, run=run)

    _show(*_on_seller(seller_id, do))


def _go_on(
    seller_id: str | None,
    run: str,
    act: str,
    reason: str | None,
    customers: Sequence[str] | None = None,
    *,
    queue: bool,
) -> None:
    async def do(
        database: "Database", seller: int, now: datetime
    ) -> "tuple[BillingRun, list[PostedDocument]]":
        from api.collector import keep_what_was_started
        from api.run_watch import pausable, watched
        from invoicing.run_billing import take_up_run

        await _control(
            database,
            seller,
            now,
            run=run,
            act=_act(act),
            reason=reason,
            customers=customers,
            background=queue,
        )
        if queue:
            return await _find(database, seller, now, run=run)
        found, _ = await _find(database, seller, now, run=run)
        keep_what_was_started()
        with watched() as report:
            await pausable(
                lambda: take_up_run(
                    database=database, seller=seller, run=run, now=now, report=report
                ),
                database=database,
                seller=seller,
                through=found.as_of,
                now=now,
            )
        return await _find(database, seller, now, run=run)

    finished, posted = _on_seller(seller_id, do)
    _show(finished, posted)
    if queue:
        return
    if finished.parked or finished.status != "finished":
        sys.exit(FAILED)


def _act(word: str) -> "RunAct":
    from invoicing.run_states import RunAct

    return RunAct(word)


async def _control(
    database: "Database",
    seller: int,
    now: datetime,
    *,
    run: str,
    act: "RunAct",
    reason: str | None,
    customers: Sequence[str] | None = None,
    background: bool = False,
) -> None:
    from api.run_watch import operator
    from invoicing.control_run import control_run

    async with database.transaction(seller=seller) as connection:
        await control_run(
            connection=connection,
            run=run,
            act=act,
            actor=operator(),
            reason=reason,
            now=now,
            wall_now=datetime.now(UTC),
            customers=customers,
            background=background,
        )


async def _find(
    database: "Database", seller: int, now: datetime, *, run: str
) -> "tuple[BillingRun, list[PostedDocument]]":
    from engine.errors import not_found
    from invoicing.run_store import list_runs

    del now
    async with database.transaction(seller=seller) as connection:
        found = await list_runs(connection=connection, run=run)
    if not found:
        raise not_found(noun="billing run", reference=run)
    return found[0], await first_posted(database=database, seller=seller, run=run)


def _on_seller(
    seller_id: str | None, work: "Callable[[Database, int, datetime], Awaitable[Answer]]"
) -> Answer:
    """What the work gives on the seller's database, by the seller's clock."""

    async def do(running: Any) -> Answer:
        from api.act_as import choose_seller

        database: Database = running.open()
        try:
            seller = await choose_seller(database=database, seller_id=seller_id)
            return await work(database, seller.seller, seller.clock_at or datetime.now(UTC))
        finally:
            await database.close()

    with started() as running:
        return run_async(lambda: do(running))


def _show(found: "BillingRun", posted: "list[PostedDocument]") -> None:
    show_run(finished=found, posted=posted)


def _show_runs(found: "Sequence[BillingRun]") -> None:
    from rich.table import Table

    out = console()
    if not found:
        out.print("There is no billing run yet.")
        return
    table = Table("run", "as of", "status", box=None, pad_edge=False)
    for name in ("customers", "documents", "parked", "per second", "finish"):
        table.add_column(name, justify="right")
    for run in found:
        total = "" if run.customers_total is None else f" of {run.customers_total:,}"
        finish = run.finished_at or run.estimated_finish_at
        table.add_row(
            run.id,
            f"{run.as_of:%Y-%m-%d %H:%M}",
            run.status.replace("_", " ") + (", fails" if run.failure else ""),
            f"{run.customers_done:,}{total}",
            f"{run.documents:,}",
            f"{len(run.parked):,}",
            run.customers_per_second or "",
            "" if finish is None else f"{finish:%m-%d %H:%M:%S}",
        )
    out.print(table)
