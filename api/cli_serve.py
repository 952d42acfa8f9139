"""`usance serve`: the API and the worker in one process, or one of them."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from api.cli_start import refuse, run_async, settings_from_environment, started

if TYPE_CHECKING:
    from api.runtime import Runtime

CONNECTIONS = 4_096
"""Open connections, idle ones included; the next waits to be taken until one ends."""
HEADER_SECONDS = 10
"""How long a connection may take to send the head of its next request."""
WATCH_SECONDS = 1.0
"""How often the embedded server is looked at; it is started again when it has gone."""


@click.command()
@click.option("--host", default=None, help="Address to listen on. [USANCE_HOST or 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65_535), default=None, help="[USANCE_PORT or 8400]")
@click.option(
    "--role",
    type=click.Choice(["all", "api", "worker"]),
    default="all",
    show_default=True,
    help="Serve requests, do due work, or both.",
)
def serve(host: str | None, port: int | None, role: str) -> None:
    """Serve the API and do due work, until told to stop (SIGTERM or Ctrl-C).

    Requests under way are answered before the process ends.
    """
    settings = settings_from_environment()
    address = (host or settings.host, port or settings.port)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for name in ("apscheduler", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with started(settings=settings) as running:
        run_async(lambda: _serve(running=running, role=role, address=address))
    click.echo("Usance has stopped.", err=True)


async def _serve(*, running: "Runtime", role: str, address: tuple[str, int]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The worker has connections of its own: what it does at once must not keep requests waiting.
    database, workers = running.open_to_serve(), running.open_to_serve()
    try:
        async with contextlib.AsyncExitStack() as stack:
            if role in {"all", "worker"}:
                from api.worker import working

                smtp = running.settings.smtp
                if smtp is None:
                    click.echo("USANCE_SMTP_URL is not set: mails are held, not sent.", err=True)
                await stack.enter_async_context(working(database=workers, clock=_now, smtp=smtp))
            await stack.enter_async_context(watch_server(running=running))
            if role in {"all", "api"}:
                await _listen(running=running, database=database, address=address, stop=stop)
            else:
                from api.collector import keep_what_was_started

                keep_what_was_started()
                click.echo("Usance works; it serves no requests.", err=True)
                await stop.wait()
    finally:
        await workers.close()
        await database.close()


async def _listen(
    *, running: "Runtime", database: Any, address: tuple[str, int], stop: asyncio.Event
) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    from api.app import create_app
    from api.collector import keep_what_was_started
    from metering.ingest import COMMIT_SECONDS

    host, port = address
    _refuse_taken(host=host, port=port)
    seconds = running.settings.wait_seconds or COMMIT_SECONDS
    application = create_app(database=database, clock=_now, commit_seconds=seconds)
    keep_what_was_started()
    server = Server(
        application,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        backlog=1_024,
        backpressure=_connections(),
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1_000),
    )
    serving = asyncio.ensure_future(server.serve())
    stopping = asyncio.ensure_future(stop.wait())
    click.echo(f"Usance listens on http://{host}:{port} (documentation at /docs)", err=True)
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        server.stop()
        seconds = running.settings.drain_timeout_seconds
        done, _ = await asyncio.wait({serving}, timeout=seconds)
        if not done:
            click.echo(f"Requests were still under way after {seconds} s.", err=True)
            serving.cancel()
            return
    await serving


def _connections() -> int:
    """As many as are wanted and as open files allow, some of those kept for the rest."""
    try:
        import resource
    except ImportError:  # this system counts its files in another way
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(64, soft - 256)
    return CONNECTIONS


def _refuse_taken(*, host: str, port: int) -> None:
    """Say in words what the server would only log."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            refuse(f"cannot listen on {host}:{port}: {error.strerror}")


@contextlib.asynccontextmanager
async def watch_server(*, running: "Runtime") -> AsyncIterator[None]:
    """Start the embedded server again whenever it has gone, for the length of the block."""
    from engine.postgres import ExternalDatabase

    if isinstance(running.server, ExternalDatabase):
        yield
        return
    watching = asyncio.get_running_loop().create_task(_watch(running=running))
    try:
        yield
    finally:
        watching.cancel()


async def _watch(*, running: "Runtime") -> None:
    # Starting the server ties its life to this thread, so this is no work for another one.
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            running.server.ensure_running()
        except Exception as error:  # noqa: BLE001 the next look may find it well again
            click.echo(f"The database is not there: {error}", err=True)
            sys.stderr.flush()


def _now() -> datetime:
    return datetime.now(UTC)
