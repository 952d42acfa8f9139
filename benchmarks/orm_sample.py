"""What the run through ORM objects bills, kept before ours bills it, and compared afterwards."""

from datetime import datetime
from typing import Any

from orm_tables import SCHEMA, Base

from invoicing.rows import COLUMNS

READ = ("customers", "subscriptions", "price_intervals", "prices", "number_series")
# Of each table that is written, the column that names the document.
WRITTEN = {
    "invoices": "id",
    "line_items": "document",
    "journal_entries": "source",
    "postings": "document",
    "outbox": "object",
}
NUMBERS = {"sequence", "number"}
PROGRESS = "id, next_due_at, derived_through_at, next_change_at, dirty_from_at, interim_at"


async def keep_sample(raw: Any, *, seller: int, as_of: datetime, documents: int) -> None:
    """Copy so many of the subscriptions that are due, with all that billing them reads.

    To be called before our own run: it moves what is due. They are taken from all due instants.
    """
    await raw.execute(f"CREATE SCHEMA {SCHEMA}")
    for table in (*READ, *WRITTEN):
        await raw.execute(f"CREATE TABLE {SCHEMA}.{table} (LIKE public.{table} INCLUDING ALL)")
    chosen = f"next_due_at <= '{as_of}' ORDER BY hashtext(id), id LIMIT {documents}"
    kept = {
        "subscriptions": chosen,
        "customers": f"id IN (SELECT customer FROM {SCHEMA}.subscriptions)",
        "price_intervals": f"subscription IN (SELECT id FROM {SCHEMA}.subscriptions)",
        "prices": f"id IN (SELECT price FROM {SCHEMA}.price_intervals)",
        "line_items": f"price_interval IN (SELECT id FROM {SCHEMA}.price_intervals)",
        "number_series": "true",
    }
    for table, which in kept.items():
        await raw.execute(
            f"INSERT INTO {SCHEMA}.{table} OVERRIDING SYSTEM VALUE"
            f" SELECT * FROM public.{table} WHERE seller = {seller} AND {which}"
        )
        await raw.execute(f"ANALYZE {SCHEMA}.{table}")


def check_columns() -> None:
    """What is written through objects has the columns that our run writes."""
    for mapper in Base.registry.mappers:
        table = mapper.local_table.name
        if table in WRITTEN:
            assert set(mapper.local_table.columns.keys()) == {"seller", *COLUMNS[table]}, table


async def compare(raw: Any, *, run: str, documents: int) -> None:
    """End the program unless objects gave what our run posted of the same subscriptions."""
    kept = await raw.fetchval(f"SELECT count(*) FROM {SCHEMA}.subscriptions")
    if documents != kept:
        raise SystemExit(f"{documents} documents through objects, of {kept} subscriptions")
    posted = (
        f"SELECT id FROM public.invoices WHERE run = '{run}'"
        f" AND customer IN (SELECT id FROM {SCHEMA}.customers)"
    )
    sides: dict[str, tuple[str, str]] = {}
    for table, column in WRITTEN.items():
        columns = ", ".join(name for name in COLUMNS[table] if name not in NUMBERS)
        made = f"SELECT id FROM {SCHEMA}.invoices"
        sides[table] = (
            f"SELECT {columns} FROM {SCHEMA}.{table} WHERE {column} IN ({made})",
            f"SELECT {columns} FROM public.{table} WHERE {column} IN ({posted})",
        )
    mine = f"SELECT {PROGRESS} FROM {SCHEMA}.subscriptions"
    known = f"SELECT id FROM {SCHEMA}.subscriptions"
    theirs = f"SELECT {PROGRESS} FROM public.subscriptions WHERE id IN ({known})"
    sides["subscriptions"] = (mine, theirs)
    for table, (objects, ours) in sides.items():
        for first, second, whose in ((objects, ours, "objects"), (ours, objects, "our run")):
            row = await raw.fetchrow(f"({first}) EXCEPT ALL ({second}) LIMIT 1")
            if row is not None:
                raise SystemExit(f"{table}: {whose} alone has {dict(row)}")
    whole = await raw.fetchval(
        "SELECT count(*) = max(i.sequence) - min(i.sequence) + 1 AND max(i.sequence) + 1 ="
        f" (SELECT n.next_sequence FROM {SCHEMA}.number_series n WHERE n.series = min(i.series))"
        f" FROM {SCHEMA}.invoices i"
    )
    if not whole:
        raise SystemExit("the numbers of documents made through objects have gaps")
