"""The billing run through ORM objects on our own tables, in a clone taken before our run.

It is the run of `orm_billing`, on the tables with all that guards them. None of that is turned off;
a unit of work that knew nothing of it would be refused, or be slow, so what writes is made for it:

- The instants that are due are read from `due_instants`, by its index.
- The number series moves before the invoices are written: a number must have been taken.
- Postings of an entry and lines of a document come in one statement, or they are refused. The unit
  of work sends `executemany`, a statement a row. So the objects of these two are written by one
  `INSERT` of arrays each, of all that the chunk has; `insertmanyvalues`, SQLAlchemy's own way to
  put many rows into a statement, takes more than twice as long for them.
- Progress is one `UPDATE` of arrays as well. As objects that the unit of work updates, it took
  about a millisecond a document instead of 0.05, for `due_instants` is kept once a statement, by a
  statement that is planned each time.

Invoices, entries and events are added to the session and left to the unit of work; their triggers
(whether the number was taken, who tells the outbox in turn) fire once a row then, and cost little.
Written as arrays too, these three would make all of it about a tenth quicker, and nothing but the
number series would go through the unit of work any more.

Of each transaction the seller is named, as the application does, for triggers ask for it. It acts
as the superuser, whom row-level security costs nothing. No foreign key is asked, of us neither:
documents have none, and no such column of what is moved on changes. Commits wait for the disk. As
many documents are billed as on the bare tables, the first in the order of what is due, which lie
together; what they read was read once before, and a few warm the statements.
"""

import contextlib
import io
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
from orm_billing import WARMING, Billed, Form, bill_all, office_of
from orm_documents import progress_of
from orm_sample import WRITTEN, compare
from orm_tables import SCHEMA, Base, DueInstant, LineItem, Posting, Subscription
from orm_usage import fill_events
from sqlalchemy import (
    ARRAY,
    DateTime,
    Insert,
    Select,
    Text,
    Update,
    and_,
    column,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from engine.db import CONNECT_SECONDS, Database, quote_name
from engine.scratch import PREFIX, database_dsn
from invoicing.rows import COLUMNS

GUARDED = "guarded"
_TURNS = 10
_READ = ("subscriptions", "customers", "price_intervals", "prices", "line_items", "due_instants")


@asynccontextmanager
async def clone_of(dsn: str) -> AsyncIterator[str]:
    """A copy of a database that nobody uses just now; gives its address, drops it after."""
    name = f"{PREFIX}_{os.urandom(8).hex()}"
    # It stays open: by its name others see that the copy is in use, and leave it.
    raw = await asyncpg.connect(
        database_dsn(dsn=dsn, name="postgres"),
        timeout=CONNECT_SECONDS,
        server_settings={"application_name": name},
    )
    source = quote_name(dsn.partition("?")[0].rpartition("/")[2])
    try:
        await _when_free(raw, f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
        yield database_dsn(dsn=dsn, name=name)
    finally:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await raw.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        raw.terminate()


async def _when_free(raw: Any, statement: str) -> None:
    """Run what needs a database that nobody uses; a session that ends may take its time to go."""
    for _ in range(_TURNS):
        with contextlib.suppress(asyncpg.ObjectInUseError):
            await raw.execute(statement)  # the server itself waits for five seconds
            return
    await raw.execute(statement)


def listed_in_order(seller: int, as_of: datetime) -> Select[Subscription]:
    return (
        select(Subscription)
        .join(
            DueInstant,
            and_(
                DueInstant.seller == Subscription.seller,
                DueInstant.subscription == Subscription.id,
            ),
        )
        .where(DueInstant.seller == seller, DueInstant.next_due_at <= as_of)
        .order_by(DueInstant.next_due_at, DueInstant.key)
    )


async def write_guarded(
    session: AsyncSession, made: Sequence[Base], billed: Sequence[Subscription]
) -> float:
    """Each statement at the time and of the size that the guards ask for."""
    await session.flush()
    session.add_all(each for each in made if not isinstance(each, LineItem | Posting))
    await session.flush()
    for kind in (LineItem, Posting):
        await session.execute(inserted([each for each in made if isinstance(each, kind)]))
    begin = time.perf_counter()
    await session.execute(moved(billed))
    return time.perf_counter() - begin


def inserted(objects: Sequence[Base]) -> Insert:
    """Objects of one class written as a whole."""
    table = type(objects[0]).__table__
    arrays = [
        literal([getattr(each, name) for each in objects], ARRAY(kept.type))
        for name, kept in table.columns.items()
    ]
    rows = (
        func.unnest(*arrays)
        .table_valued(*(column(name, kept.type) for name, kept in table.columns.items()))
        .render_derived(name="rows")
    )
    return insert(type(objects[0])).from_select(table.columns.keys(), select(*rows.c))


def moved(billed: Sequence[Subscription]) -> Update:
    """Progress of what was billed."""
    instant = DateTime(timezone=True)
    progress = [progress_of(one) for one in billed]
    to = (
        func.unnest(
            literal([one.id for one in billed], ARRAY(Text)),
            literal([derived for derived, _ in progress], ARRAY(instant)),
            literal([due for _, due in progress], ARRAY(instant)),
        )
        .table_valued(
            column("id", Text),
            column("derived_through_at", instant),
            column("next_due_at", instant),
        )
        .render_derived(name="moved")
    )
    return (
        update(Subscription)
        .where(Subscription.seller == billed[0].seller, Subscription.id == to.c.id)
        .values(
            derived_through_at=to.c.derived_through_at,
            next_due_at=to.c.next_due_at,
            next_change_at=None,
            dirty_from_at=None,
            interim_at=None,
        )
        .execution_options(synchronize_session=False)
    )


AS_OURS = Form(schemas={SCHEMA: "public"}, due=listed_in_order, write=write_guarded)


async def bill_guarded(
    *,
    raw: Any,
    database: Database,
    clone: str,
    seller: int,
    run: str,
    as_of: datetime,
    documents: int,
) -> Billed:
    """So many documents billed through objects in a clone, and compared with what `run` posted.

    Ends the program where anything differs.
    """
    apart = await asyncpg.connect(clone, timeout=CONNECT_SECONDS)
    try:
        chosen = await apart.fetch(
            "SELECT d.subscription, c.number FROM due_instants d"
            " JOIN customers c ON c.seller = d.seller AND c.id = d.bill_to"
            " WHERE d.seller = $1 AND d.next_due_at <= $2"
            " ORDER BY d.next_due_at, d.key LIMIT $3",
            seller,
            as_of,
            documents,
        )
        await fill_events(apart, seller=seller, customers=[row["number"] for row in chosen])
        for table in _READ:
            await apart.execute(f"SELECT count(t) FROM {table} t")  # into memory
        await apart.execute("CHECKPOINT")
        office = await office_of(raw=raw, database=database, seller=seller, run=run, as_of=as_of)
        found = await bill_all(form=AS_OURS, dsn=clone, office=office, subscriptions=len(chosen))
        await bring_over(apart, raw, run=run, subscriptions=[row["subscription"] for row in chosen])
    finally:
        await apart.close()
    await compare(raw, schema=GUARDED, run=run, documents=WARMING + found.documents)
    return found


async def bring_over(apart: Any, raw: Any, *, run: str, subscriptions: Sequence[str]) -> None:
    """Copy what was billed, and what came of it, to where our run billed."""
    billed = "SELECT id FROM invoices WHERE run = $1"
    chosen = list(subscriptions)
    parts: dict[str, tuple[str, str, object]] = {
        table: (", ".join(COLUMNS[table]), f"{name} IN ({billed})", run)
        for table, name in WRITTEN.items()
    }
    parts["subscriptions"] = ("*", "id = ANY($1)", chosen)
    known = "SELECT customer FROM subscriptions WHERE id = ANY($1)"
    parts["customers"] = ("*", f"id IN ({known})", chosen)
    parts["number_series"] = ("*", "series IN (SELECT series FROM invoices WHERE run = $1)", run)
    await raw.execute(f"CREATE SCHEMA {GUARDED}")
    for table, (told, which, argument) in parts.items():
        content = io.BytesIO()
        query = f"SELECT {told} FROM {table} WHERE {which}"
        await apart.copy_from_query(query, argument, output=content, format="binary")
        content.seek(0)
        await raw.execute(
            f"CREATE TABLE {GUARDED}.{table} AS SELECT {told} FROM public.{table} WITH NO DATA"
        )
        await raw.copy_to_table(table, schema_name=GUARDED, source=content, format="binary")
