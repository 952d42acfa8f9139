"""`usance consume`: events through NATS JetStream, each settled after its commit."""

import asyncio
import contextlib
import logging
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from api.cli_serve import watch_server
from api.cli_start import refuse, run_async, settings_from_environment, started

if TYPE_CHECKING:
    from api.jetstream import JetStream, StreamState
    from api.runtime import Runtime
    from engine.postgres_doctor import Finding
    from engine.settings import Settings


@click.command()
@click.option("--create", is_flag=True, help="Make the streams and the consumer, and end.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=3,
    show_default=True,
    help="With --create: how many nodes keep each message.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1_000_000),
    default=8_000_000_000,
    show_default=True,
    help="With --create: what the stream holds before it refuses more.",
)
def consume(*, create: bool, replicas: int, max_bytes: int) -> None:
    """Take events from NATS JetStream until told to stop (SIGTERM or Ctrl-C).

    A message is acknowledged after its events are committed. Several processes share the work.
    """
    settings = settings_from_environment()
    if not settings.nats_urls:
        refuse("USANCE_NATS_URL is not set: it names the nodes of NATS (docs/jetstream.md).")
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if create:
        run_async(lambda: _create(settings, replicas=replicas, max_bytes=max_bytes))
        click.echo(f"The stream {settings.nats_stream} is there, {replicas} nodes keep it.")
        return
    with started(settings=settings) as running:
        run_async(lambda: _consume(running=running))
    click.echo("Usance has stopped.", err=True)


def connect(settings: "Settings") -> "contextlib.AbstractAsyncContextManager[JetStream]":
    """The connection that the settings name; a sentence where NATS's client is not installed."""
    try:
        from api.jetstream import connected
    except ModuleNotFoundError:
        refuse("The client of NATS is missing: install Usance with its extra `nats`.")
    return connected(
        urls=settings.nats_urls,
        credentials=settings.nats_credentials,
        stream=settings.nats_stream,
        prefix=settings.nats_prefix,
    )


async def _create(settings: "Settings", **how: Any) -> None:
    async with connect(settings) as jetstream:
        await jetstream.create(**how)
        await jetstream.look()


async def _consume(*, running: "Runtime") -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    database = running.open_to_serve()
    try:
        async with connect(running.settings) as jetstream, watch_server(running=running):
            from api.consume import Taker, consume

            state = await _first_look(jetstream, stop=stop)
            if state is None:
                return
            if state.faults:
                told = "".join(f"\n  {fault}" for fault in state.faults)
                refuse(f"The stream {jetstream.stream} would lose events:{told}")
            if state.replicas < 3:
                click.echo(f"{state.replicas} of NATS's nodes keeps each message.", err=True)
            taker = Taker(jetstream=jetstream, database=database, clock=_now)
            await taker.start()
            click.echo(f"Usance takes events from {jetstream.stream}.", err=True)
            try:
                seconds = running.settings.drain_timeout_seconds
                await consume(jetstream=jetstream, taker=taker, stop=stop, drain_seconds=seconds)
            finally:
                await taker.stop()
            click.echo(_told(taker.taken), err=True)
    finally:
        await database.close()


async def _first_look(jetstream: "JetStream", *, stop: asyncio.Event) -> "StreamState | None":
    """How the streams are made, as soon as JetStream tells; None when told to stop before."""
    from engine.errors import BillingError, ErrorKind

    while not stop.is_set():
        try:
            return await jetstream.look()
        except BillingError as error:
            # Nodes that agree on a new leader answer nobody for some seconds.
            if error.kind is not ErrorKind.UNAVAILABLE:
                raise
            logging.getLogger("usance.consume").warning("%s", error.detail)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await stop.wait()
    return None


async def nats_finding(*, settings: "Settings") -> "Finding":
    """What `doctor` says of the stream: whether it is there, keeps what it takes, and how full."""
    from engine.errors import BillingError
    from engine.postgres_doctor import Finding

    try:
        async with connect(settings) as jetstream:
            state = await jetstream.look()
    except BillingError as error:
        return Finding(name="nats", level="fail", detail=error.detail)
    detail = (
        f"{settings.nats_stream}: {state.messages:,} messages ({state.bytes:,} bytes) wait,"
        f" {state.unsettled:,} under way, {state.strays:,} of no seller; {state.replicas} replicas"
    )
    if state.faults:
        return Finding(name="nats", level="fail", detail=detail, advice="; ".join(state.faults))
    advice = ""
    if state.strays:
        advice = f"{settings.nats_stream}_STRAYS holds messages whose subject names no seller"
    elif state.replicas < 3:
        advice = "a message that one node keeps goes with it: three keep it through a loss"
    return Finding(name="nats", level="warn" if advice else "ok", detail=detail, advice=advice)


def _told(taken: Any) -> str:
    return (
        f"{taken.messages:,} messages: {taken.accepted:,} events, {taken.duplicates:,} duplicates,"
        f" {taken.rejected:,} refused; {taken.refused_messages:,} messages refused,"
        f" {taken.strays:,} of no seller, {taken.put_back:,} put back."
    )


def _now() -> datetime:
    return datetime.now(UTC)
