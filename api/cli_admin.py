"""`usance seller`, `key`, `migrate` and `doctor`: what an operator sets up and looks at."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from api.cli_start import FAILED, console, run_async, settings_from_environment, started

if TYPE_CHECKING:
    from api.runtime import Runtime
    from engine.db import Database
    from engine.postgres_doctor import Finding
    from engine.settings import Settings
    from metering.fold_usage import Folded
    from plans.create_seller import CreatedSeller

SCOPES = ("ingest", "read", "billing", "admin")


@click.command()
def migrate() -> None:
    """Bring the database to the current schema."""
    from api.runtime import bring_up_to_date

    with started(ready=False) as running:
        revision = run_async(lambda: bring_up_to_date(started=running))
    click.echo(f"The database is at schema {revision}.")


@click.command()
def doctor() -> None:
    """Look at the interpreter, the disk and the database; say what to do about each finding."""
    from api.runtime import event_store_finding
    from engine.postgres_doctor import doctor_report

    settings = settings_from_environment()
    findings = [*doctor_report(settings=settings), _mail_finding(settings)]
    if settings.nats_urls:
        from api.cli_consume import nats_finding

        findings.append(run_async(lambda: nats_finding(settings=settings)))
    findings.append(event_store_finding(settings=settings))
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for finding in findings:
        mark = click.style(f"{finding.level:4}", fg=colours[finding.level])
        click.echo(f"{mark}  {finding.name:12} {finding.detail}")
        if finding.advice:
            click.echo(f"{'':19}{finding.advice}")
    if any(finding.level == "fail" for finding in findings):
        sys.exit(FAILED)


def _mail_finding(settings: "Settings") -> "Finding":
    from dunning.notify import Postman
    from engine.postgres_doctor import Finding

    server = settings.smtp
    if server is None:
        detail = "USANCE_SMTP_URL is not set: mails are written down and held, none is sent"
        advice = "Set USANCE_SMTP_URL and USANCE_SMTP_FROM, then send what is held by hand."
        return Finding(name="e-mail", level="warn", detail=detail, advice=advice)
    postman = Postman(server=server, deadline_seconds=5)
    wrong = run_async(postman.look)
    told = f"{server.host}:{server.port} ({server.security.value}), from {server.sender}"
    if wrong is None:
        return Finding(name="e-mail", level="ok", detail=told, advice="")
    advice = "Check USANCE_SMTP_URL; mails wait and are tried again for two days."
    return Finding(name="e-mail", level="fail", detail=f"{told}: {wrong}", advice=advice)


@click.command()
def fold() -> None:
    """Fold stored usage into chunks, so that reading it is cheap; `serve` does so by itself."""
    from api.worker import fold as fold_all

    async def run(database: "Database") -> "dict[int, Folded]":
        try:
            return await fold_all(database=database, steps=1_000_000)
        finally:
            await database.close()

    with started() as running:
        done = run_async(lambda: run(running.open()))
    batches = sum(each.batches for each in done.values())
    chunks = sum(each.written - each.merged for each in done.values())
    click.echo(f"{batches:,} batches folded; {chunks:+,} chunks.")


@click.group()
def seller() -> None:
    """The businesses that bill."""


@seller.command("create")
@click.option("--name", "legal_name", required=True, help="Legal name, printed on documents.")
@click.option("--country", default=None, metavar="CC", help="ISO 3166 code, for example US.")
@click.option("--currency", default="USD", show_default=True, help="ISO 4217 base currency.")
@click.option("--timezone", default="UTC", show_default=True, help="For example Europe/Berlin.")
@click.option("--test", is_flag=True, help="A test seller: no real money, its own movable clock.")
@click.option(
    "--clock",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]),
    default=None,
    help="Where a test seller's clock begins (UTC); now, when left out.",
)
def seller_create(*, test: bool, clock: datetime | None, **fields: Any) -> None:
    """Create a seller and its first API key, which is shown this once."""
    if clock is not None and not test:
        raise click.UsageError("--clock is for test sellers: add --test.")
    now = datetime.now(UTC)
    fields["mode"] = "test" if test else "live"
    fields["clock_at"] = clock.replace(tzinfo=UTC) if clock is not None else None
    with started() as running:
        made = run_async(lambda: _create_seller(running=running, fields=fields, now=now))
    click.echo(f"seller {made.id}")
    click.echo(f"key    {made.secret}")
    console(err=True).print(
        "The key has all scopes. It is stored hashed: keep it now, it is not shown again.",
        style="dim",
    )


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.option("--seller", "seller_id", default=None, help="sel_…; may be left out if there is one.")
@click.option("--name", default="command line", show_default=True, help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="Repeat for several; all, when left out.",
)
@click.option(
    "--events-per-second",
    type=click.IntRange(1, 1_000_000_000),
    default=None,
    help="What the key may send in the long run, to each process; no limit, when left out.",
)
def key_create(seller_id: str | None, scopes: tuple[str, ...], **fields: Any) -> None:
    """Create an API key for a seller, shown this once."""
    now = datetime.now(UTC)
    fields["scopes"] = scopes or SCOPES
    with started() as running:
        seller_of_key, secret = run_async(
            lambda: _create_key(running=running, seller_id=seller_id, fields=fields, now=now)
        )
    click.echo(f"seller {seller_of_key}")
    click.echo(f"key    {secret}")


async def _create_seller(
    *, running: "Runtime", fields: dict[str, Any], now: datetime
) -> "CreatedSeller":
    import msgspec

    from engine.errors import BillingError
    from plans.create_seller import create_seller
    from plans.drafts import SellerDraft

    try:
        draft = msgspec.convert(fields, SellerDraft)
    except msgspec.ValidationError as error:
        raise BillingError("invalid_seller", f"This cannot be a seller: {error}") from error
    database = running.open()
    try:
        return await create_seller(database=database, draft=draft, now=now)
    finally:
        await database.close()


async def _create_key(
    *, running: "Runtime", seller_id: str | None, fields: dict[str, Any], now: datetime
) -> tuple[str, str]:
    import msgspec

    from api.act_as import choose_seller
    from plans.api_keys import ApiKeyDraft
    from plans.issue_key import issue_key

    database = running.open()
    try:
        entry = await choose_seller(database=database, seller_id=seller_id)
        draft = msgspec.convert(fields, ApiKeyDraft)
        async with database.transaction(seller=entry.seller) as connection:
            made = await issue_key(connection=connection, mode=entry.mode, draft=draft, now=now)
        assert made.secret is not None
        return entry.id, made.secret
    finally:
        await database.close()
