"""The worker: on every tick, bill the live sellers that have something due, and fold usage.

The truth about what is due lies in the tables; every process may tick, and a seller's billing lock
lets one of them work. Test sellers are left alone: their clock moves by hand.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from api.background_runs import BackgroundRuns
from api.idempotency_store import forget_answers
from dunning.notify import Postman
from dunning.send_emails import send_emails
from engine.database_errors import anticipated
from engine.db import Database, is_free
from engine.errors import BillingError
from engine.mail_address import SmtpServer
from invoicing.email_store import list_mailing_sellers
from invoicing.end_due_credits import end_due_credits
from invoicing.enter_held import enter_due
from invoicing.model import BillingRun
from invoicing.proposal_store import leave_to_worker
from invoicing.propose_run import propose_run
from invoicing.queue_emails import queue_emails
from invoicing.run_billing import run_billing
from invoicing.run_progress_store import is_any_resting
from invoicing.sweep_usage import billing_lock
from invoicing.top_up_credits import top_up_credits
from invoicing.watch_spending import watch_spending
from invoicing.watch_usage import watch_usage
from invoicing.work_store import is_any_due
from metering.fold_usage import Folded, fold_usage
from plans.seller_directory_store import (
    list_alerted_sellers,
    list_due_sellers,
    list_sellers,
)
from plans.seller_store import load_seller

TICK_SECONDS: Final = 5
TRIED_AGAIN_AFTER: Final = timedelta(minutes=10)
"""Whoever is parked is no reason for another run for so long; a run for others tries them too."""
WATCH_SECONDS: Final = 1
REST: Final = 4
"""How many times as long as it took does a look at usage alerts wait for the next one."""
FOLD_STEPS: Final = 20
MAILS_AT_ONCE: Final = 20
_log: Final = logging.getLogger("usance.worker")


async def tick(*, database: Database, now: datetime) -> int:
    """Bill what is due at `now`, seller by seller; give the number of documents posted.

    One seller's failure is logged and leaves the others alone; the next tick tries it again.
    """
    async with database.transaction(seller=None) as connection:
        sellers = await list_due_sellers(connection=connection, now=now)
    documents = 0
    for seller in sellers:
        if not await _is_idle(database, seller):
            continue
        try:
            run = await _bill(database, seller, now)
        except BillingError as error:
            level = logging.DEBUG if error.code == "billing_on_hold" else logging.WARNING
            _log.log(level, "seller %s was not billed: %s", seller, error)
            continue
        except Exception as error:
            if anticipated(error) is not None:  # the database is away: nobody else fares better
                raise
            _log.exception("seller %s was not billed", seller)
            continue
        if run is None:
            continue
        documents += run.documents
        for account in run.parked:
            told = (seller, account.customer, account.code, account.detail)
            _log.error("seller %s: customer %s is parked: %s: %s", *told)
    return documents


async def _bill(database: Database, seller: int, now: datetime) -> BillingRun | None:
    """Do what is due of one seller; None where no run posted: nothing is due, or it is proposed."""
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
        await leave_to_worker(connection=connection)
        rests = await is_any_resting(connection=connection)
    await watch_spending(database=database, seller=seller, now=now)
    await enter_due(database=database, seller=seller, now=now)
    if found.run_approval:
        if not await propose_run(database=database, seller=seller, now=now):
            await top_up_credits(database=database, seller=seller, now=now)
        return None
    if rests:
        return None
    await _end_credits(database, seller, now)
    async with database.transaction(seller=seller) as connection:
        due = await is_any_due(
            connection=connection, due_by=now - found.grace, now=now, rest=TRIED_AGAIN_AFTER
        )
    run: BillingRun | None = None
    if due:
        run = await run_billing(database=database, seller=seller, as_of=now, now=now, pending=False)
    await top_up_credits(database=database, seller=seller, now=now)
    return run


async def _is_idle(database: Database, seller: int) -> bool:
    """Whether no run of the seller is at work: others must not wait for it."""
    async with database.transaction(seller=seller) as connection:
        return await is_free(connection=connection, name=billing_lock(seller))


async def fold(*, database: Database, steps: int = FOLD_STEPS) -> dict[int, Folded]:
    """Fold what came of every seller, in so many transactions of each at most; what was done.

    One seller's failure is logged and leaves the others alone; the next tick tries it again.
    """
    async with database.transaction(seller=None) as connection:
        sellers = await list_sellers(connection=connection)
    done: dict[int, Folded] = {}
    for entry in sellers:
        try:
            done[entry.seller] = await fold_usage(
                database=database, seller=entry.seller, steps=steps
            )
        except Exception:  # noqa: BLE001 logged; what was not folded is read as it stands
            _log.exception("usage of seller %s was not folded", entry.seller)
    return done


async def watch(*, database: Database, now: datetime) -> int:
    """Compare new usage with the usage alerts of live sellers; how many thresholds were told.

    One seller's failure is logged and leaves the others alone; the next look tries it again.
    """
    async with database.transaction(seller=None) as connection:
        sellers = await list_alerted_sellers(connection=connection)
    told = 0
    for seller in sellers:
        try:
            told += await watch_usage(database=database, seller=seller, now=now)
        except Exception:  # noqa: BLE001 logged; what was not compared stays marked
            _log.exception("usage alerts of seller %s were not compared", seller)
    return told


async def _end_credits(database: Database, seller: int, now: datetime) -> None:
    failed = await end_due_credits(database=database, seller=seller, through=now, now=now)
    if failed:
        _log.error("seller %s: credit of %s customers could not end", seller, failed)


async def mail(
    *,
    database: Database,
    clock: Callable[[], datetime],
    server: SmtpServer | None,
    stopping: asyncio.Event | None = None,
) -> int:
    """Write down the mails that are due and send what waits; gives how many were tried.

    Sellers take turns of 20 mails each until nothing is due, or until `stopping` after the mail
    at hand. Without a server nothing is left waiting: it is held, with that reason.
    """
    postman = None if server is None else Postman(server=server)
    total, tried = 0, -1
    try:
        while tried and not _must_stop(postman, stopping):
            async with database.transaction(seller=None) as connection:
                sellers = await list_mailing_sellers(connection=connection)
            tried = 0
            for seller in sellers:
                try:
                    tried += await _mail_of(database, seller, postman, clock, stopping)
                except Exception:  # noqa: BLE001 logged; the next tick tries it again
                    _log.exception("mails of seller %s were not sent", seller)
            total += tried
    finally:
        if postman is not None:
            await postman.close()
    return total


def _must_stop(postman: Postman | None, stopping: asyncio.Event | None) -> bool:
    """Whether the next mail must wait for the next tick."""
    asked = stopping is not None and stopping.is_set()
    return asked or (postman is not None and postman.unreachable)


async def _mail_of(
    database: Database,
    seller: int,
    postman: Postman | None,
    clock: Callable[[], datetime],
    stopping: asyncio.Event | None,
) -> int:
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
    await queue_emails(database=database, seller=seller, now=found.clock_at or clock())
    tried = 0
    while tried < MAILS_AT_ONCE and not _must_stop(postman, stopping):
        sent = await send_emails(
            database=database, seller=seller, postman=postman, clock=clock, limit=1
        )
        if not sent:
            break
        tried += sent
    return tried


async def tidy_up(*, database: Database, now: datetime) -> int:
    """Forget the answers kept for idempotency keys past their 30 days; give how many."""
    async with database.transaction(seller=None) as connection:
        sellers = await list_sellers(connection=connection)
    forgotten = 0
    for entry in sellers:
        async with database.transaction(seller=entry.seller) as connection:
            forgotten += await forget_answers(connection=connection, now=now)
    return forgotten


def _alone(
    lock: asyncio.Lock, work: Callable[[], Awaitable[object]], *, failed: str, rest: int = 0
) -> Callable[[], Awaitable[None]]:
    """The work under the lock, its failure only logged: what is to be done is found again.

    After it is done it is left out for `rest` times as long as it took.
    """
    rests_until = 0.0

    async def run() -> None:
        nonlocal rests_until
        seconds = asyncio.get_running_loop().time
        if seconds() < rests_until:
            return
        async with lock:
            begun = seconds()
            try:
                await work()
            except Exception:  # noqa: BLE001 logged; the next time finds the same work
                _log.exception(failed)
            rests_until = seconds() + rest * (seconds() - begun)

    return run


@asynccontextmanager
async def working(
    *, database: Database, clock: Callable[[], datetime], smtp: SmtpServer | None = None
) -> AsyncIterator[None]:
    """Tick for the length of the block; a tick under way is finished before it ends."""
    # APScheduler cancels what it runs when it is shut down: a lock tells when a tick is over.
    ticking, folding, watching = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
    run_tick = _alone(
        ticking,
        lambda: tick(database=database, now=clock()),
        failed="a tick failed; the next one tries again",
    )
    run_tidy_up = _alone(
        ticking,
        lambda: tidy_up(database=database, now=clock()),
        failed="old answers were not forgotten; the next hour tries again",
    )
    folded = "usage was not folded; the next tick tries again"
    run_fold = _alone(folding, lambda: fold(database=database), failed=folded)
    run_watch = _alone(
        watching,
        lambda: watch(database=database, now=clock()),
        failed="usage alerts were not compared; the next second tries again",
        rest=REST,
    )
    background = BackgroundRuns(database=database, clock=clock)
    looking = asyncio.Lock()
    run_look = _alone(
        looking, background.look, failed="queued runs were not found; the next second tries again"
    )
    mailing, stopping = asyncio.Lock(), asyncio.Event()
    run_mail = _alone(
        mailing,
        lambda: mail(database=database, clock=clock, server=smtp, stopping=stopping),
        failed="mails were not sent; the next tick tries again",
    )
    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_job(run_tidy_up, "interval", hours=1, coalesce=True, max_instances=1)
    scheduler.add_job(
        run_tick,
        "interval",
        seconds=TICK_SECONDS,
        next_run_time=clock(),
        coalesce=True,
        max_instances=1,
        misfire_grace_time=60,
    )
    for job in (run_mail, run_fold):
        scheduler.add_job(job, "interval", seconds=TICK_SECONDS, coalesce=True, max_instances=1)
    for job in (run_watch, run_look):
        scheduler.add_job(job, "interval", seconds=WATCH_SECONDS, coalesce=True, max_instances=1)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.pause()
        stopping.set()
        async with looking:
            await background.stop()
        async with ticking, folding, watching, mailing:
            scheduler.shutdown(wait=False)
