"""`usance run`: a billing run with a progress bar and a table of what it posted."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import rich_click as click

from api.cli_start import FAILED, console, run_async, started

if TYPE_CHECKING:
    from api.runtime import Runtime
    from engine.db import Database
    from invoicing.model import BillingRun, ParkedAccount
    from invoicing.portions import Progress
    from invoicing.rehearsal import RunRehearsal
    from invoicing.run_report_store import PostedDocument

SHOWN = 40
"""Documents listed one by one."""


@click.command()
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]),
    default=None,
    help="Bill what is due by this instant (UTC); the seller's now, when left out.",
)
@click.option("--seller", "seller_id", default=None, help="sel_…; may be left out if only one.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be posted.")
@click.option(
    "--approve/--no-approve",
    default=None,
    help="Report it first, and wait for `usance runs approve`; the seller's choice, when left out.",
)
@click.option(
    "--no-wait", "queue", is_flag=True, help="Leave it to a worker (`usance serve`); tell its id."
)
def run(
    *,
    as_of: datetime | None,
    seller_id: str | None,
    dry_run: bool,
    approve: bool | None,
    queue: bool,
) -> None:
    """Bill what is due, and every difference that waits, over all customers of a seller.

    Running it again posts nothing. Accounts that could not be billed are parked with a reason, and
    the exit code is 1. Ctrl-C pauses the run; `usance runs` lists runs and goes on with them.
    """
    now = datetime.now(UTC)
    wanted = as_of.replace(tzinfo=UTC) if as_of is not None else None
    if dry_run and approve:
        raise click.UsageError("A dry run posts nothing: there is nothing to be approved.")
    if dry_run and queue:
        raise click.UsageError("A dry run leaves nothing to be read later: wait for it.")
    with started() as running:
        if dry_run:
            told = run_async(
                lambda: _rehearse(running=running, seller_id=seller_id, as_of=wanted, now=now)
            )
            show_rehearsal(told)
            if told.parked:
                sys.exit(FAILED)
            return
        finished, posted = run_async(
            lambda: _run(
                running=running,
                seller_id=seller_id,
                as_of=wanted,
                now=now,
                approve=approve,
                queue=queue,
            )
        )
    show_run(finished=finished, posted=posted)
    if queue:
        return
    if finished.parked or finished.status not in ("finished", "awaiting_approval"):
        sys.exit(FAILED)


async def _run(
    *,
    running: "Runtime",
    seller_id: str | None,
    as_of: datetime | None,
    now: datetime,
    approve: bool | None,
    queue: bool,
) -> "tuple[BillingRun, list[PostedDocument]]":
    from api.act_as import choose_seller
    from invoicing.rehearsal import refuse_ahead
    from plans.seller_store import load_seller

    database = running.open()
    try:
        seller = await choose_seller(database=database, seller_id=seller_id)
        business_now = seller.clock_at or now
        at = as_of or business_now
        refuse_ahead(as_of=at, now=business_now)
        if queue:
            return await _queue(
                database=database, seller=seller.seller, as_of=at, now=business_now, approve=approve
            )
        if approve is None:
            async with database.transaction(seller=seller.seller) as connection:
                approve = (await load_seller(connection=connection)).run_approval
        return await bill(
            database=database, seller=seller.seller, as_of=at, now=business_now, approve=approve
        )
    finally:
        await database.close()


async def _queue(
    *, database: "Database", seller: int, as_of: datetime, now: datetime, approve: bool | None
) -> "tuple[BillingRun, list[PostedDocument]]":
    """Write the run down for a worker."""
    from invoicing.queue_run import queue_run
    from invoicing.run_store import Unfinished, list_runs
    from plans.seller_store import load_seller

    async with database.transaction(seller=seller) as connection:
        queued = await queue_run(
            connection=connection,
            seller=await load_seller(connection=connection),
            wanted=Unfinished(
                as_of=as_of, pending=True, approve=approve is True, as_seller=approve is None
            ),
            now=now,
        )
        return (await list_runs(connection=connection, run=queued))[0], []


async def _rehearse(
    *, running: "Runtime", seller_id: str | None, as_of: datetime | None, now: datetime
) -> "RunRehearsal":
    from api.act_as import choose_seller
    from invoicing.rehearsal import refuse_far
    from invoicing.rehearse_run import rehearse_run

    database = running.open()
    try:
        seller = await choose_seller(database=database, seller_id=seller_id)
        business_now = seller.clock_at or now
        at = as_of or business_now
        refuse_far(as_of=at, now=business_now)
        return await rehearse_run(database=database, seller=seller.seller, as_of=at)
    finally:
        await database.close()


async def bill(
    *, database: "Database", seller: int, as_of: datetime, now: datetime, approve: bool = False
) -> "tuple[BillingRun, list[PostedDocument]]":
    """One billing run under a progress bar; gives the run and the first documents it posted.

    Ctrl-C pauses it.
    """
    from api.collector import keep_what_was_started
    from api.run_watch import pausable, watched
    from invoicing.end_due_credits import end_due_credits
    from invoicing.run_billing import run_billing

    async def work(report: "Callable[[Progress], None]") -> "BillingRun":
        if not approve:
            await end_due_credits(database=database, seller=seller, through=as_of, now=now)
        return await run_billing(
            database=database,
            seller=seller,
            as_of=as_of,
            now=now,
            report=report,
            approve=approve,
        )

    keep_what_was_started()
    with watched() as report:
        finished = await pausable(
            lambda: work(report), database=database, seller=seller, through=as_of, now=now
        )
    return finished, await first_posted(database=database, seller=seller, run=finished.id)


async def first_posted(*, database: "Database", seller: int, run: str) -> "list[PostedDocument]":
    """The first documents of a run."""
    from invoicing.run_report_store import list_posted

    async with database.transaction(seller=seller) as connection:
        return await list_posted(connection=connection, run=run, limit=SHOWN)


def show_run(*, finished: "BillingRun", posted: "Sequence[PostedDocument]") -> None:
    """Print the documents of a run and the accounts it parked."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    if posted:
        table = Table("number", "document", "customer", box=None, pad_edge=False)
        table.add_column("total", justify="right")
        table.add_column("to pay", justify="right")
        for entry in posted:
            due = f"{entry.amount_due} {entry.currency}" if entry.kind == "invoice" else ""
            total = f"{entry.total} {entry.currency}"
            table.add_row(entry.number, entry.kind, Text(entry.customer), total, due)
        out.print(table)
        if finished.documents > len(posted):
            out.print(f"… and {finished.documents - len(posted):,} more")
    if finished.status != "finished":
        _show_stopped(finished)
    out.print(
        f"{finished.documents:,} documents with {finished.lines:,} lines posted as of "
        f"{finished.as_of:%Y-%m-%d %H:%M:%S} UTC; {len(finished.parked)} accounts parked."
    )
    for each in finished.fallbacks:
        out.print(
            f"{each.customers:,} customers were billed one by one, which is slower:"
            f" {each.reason}: {each.detail}",
            soft_wrap=True,
            markup=False,
        )
    _show_parked(finished.parked)


def _show_stopped(run: "BillingRun") -> None:
    out = console()
    out.print(f"The run {run.id} is {run.status.replace('_', ' ')}.")
    if run.failure is not None:
        failure = run.failure
        out.print(
            f"It failed {failure.times} times, at last {failure.failed_at:%Y-%m-%d %H:%M:%S} UTC:"
            f" {failure.code}: {failure.detail}. A worker tries it again at"
            f" {failure.tried_again_at:%H:%M:%S} UTC.",
            style="red",
            soft_wrap=True,
        )
    if run.customers_total is not None and run.status in ("running", "reviewing", "paused"):
        finish = run.estimated_finish_at
        by = "" if finish is None else f"; it may be through at {finish:%Y-%m-%d %H:%M:%S} UTC"
        out.print(f"{run.customers_done:,} of {run.customers_total:,} customers are done{by}.")
    if run.status == "queued":
        out.print(
            "A worker (`usance serve`) begins with it within seconds;"
            f" `usance runs show {run.id}` tells how far it is,"
            f" `usance runs cancel {run.id}` ends it.",
            soft_wrap=True,
        )
    if run.status == "awaiting_approval":
        out.print(
            f"`usance runs report {run.id}` tells what it would post,"
            f" `usance runs approve {run.id}` posts that,"
            f" `usance runs reject {run.id}` ends it;"
            " until then no other run bills its customers.",
            soft_wrap=True,
        )
    if run.status == "paused":
        out.print(
            f"`usance runs resume {run.id}` goes on, `usance runs cancel {run.id}` ends it;"
            " until then no other run bills its customers.",
            soft_wrap=True,
        )


def show_rehearsal(told: "RunRehearsal") -> None:
    """Print what a run would post, and the accounts it would park."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    if told.first:
        table = Table("document", "customer", box=None, pad_edge=False)
        table.add_column("total", justify="right")
        for entry in told.first:
            kind = entry.kind.replace("_", " ")
            table.add_row(kind, Text(entry.customer), f"{entry.total} {entry.currency}")
        out.print(table)
        if told.documents > len(told.first):
            out.print(f"… and {told.documents - len(told.first):,} more")
    for total in told.totals:
        out.print(
            f"{total.invoices} {total.currency} would be invoiced, {total.credit_notes}"
            f" {total.currency} credited."
        )
    out.print(
        f"{told.documents:,} documents with {told.lines:,} lines would be posted as of"
        f" {told.as_of:%Y-%m-%d %H:%M:%S} UTC; nothing is."
    )
    _show_parked(told.parked)


def _show_parked(parked: "Sequence[ParkedAccount]") -> None:
    from rich.text import Text

    out = console()
    for account in parked:
        told = f"parked  {account.customer}: {account.code}: {account.detail}"
        out.print(Text(told, style="red"), soft_wrap=True)
