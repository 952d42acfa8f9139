"""Processes that tests start: each ends with its block, and a failure shows what it printed."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 180
"""What a test waits for happens long before, but on a machine that stands still now and then."""
PROC = Path("/proc")


class Program:
    """A process whose output goes to files: no pipe is full, none is left open."""

    def __init__(
        self, arguments: Sequence[str], *, folder: Path, env: dict[str, str] | None, cwd: Path
    ) -> None:
        self._arguments = arguments
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd
            )
        self.pid = self._process.pid

    def out(self) -> str:
        """What it printed so far."""
        return self._out.read_text(errors="replace")

    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def told(self) -> str:
        """How it stands, with all that it printed."""
        status = self._process.poll()
        state = "still runs" if status is None else f"ended with {status}"
        named = " ".join(self._arguments)[:300]
        return f"{named}\n{state}; it printed:\n{self.out()}\n{self.err()}"

    def poll(self) -> int | None:
        return self._process.poll()

    def require_running(self) -> None:
        assert self._process.poll() is None, self.told()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = SECONDS) -> int:
        """How it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=seconds)
        raise AssertionError(self.told())

    def kill(self) -> int:
        """SIGKILL it, if it did not end before; how it ended."""
        self._process.kill()
        return self._process.wait()


@contextlib.contextmanager
def program(
    arguments: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[Program]:
    """The process, for the length of the block at most."""
    folder = Path(tempfile.mkdtemp(prefix="usance-program-"))
    made = Program(arguments, folder=folder, env=env, cwd=cwd)
    try:
        yield made
    except BaseException as error:
        error.add_note(made.told())
        raise
    finally:
        made.kill()
        shutil.rmtree(folder)


def python(script: str, *arguments: str) -> list[str]:
    """A command for `program`: this interpreter on a script."""
    return [sys.executable, "-c", script, *arguments]


def wait_until(condition, *, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses, and that no outgoing connection is given either."""
    ports: list[int] = []
    chance = random.SystemRandom()
    while len(ports) < count:
        port = chance.randrange(10_000, _first_outgoing_port())
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports += [] if port in ports else [port]
    return ports


def _first_outgoing_port() -> int:
    try:
        first = (PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    except OSError:
        return 32_768
    return max(20_000, int(first))


def processes_in(folder: Path) -> list[int]:
    """The processes that work in a directory, or below it."""
    found: list[int] = []
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.joinpath("cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return found


def end_all_in(folder: Path) -> None:
    """Wait for the servers below a directory, which end by themselves after who started them."""
    until = time.monotonic() + SECONDS
    while left := processes_in(folder):
        if time.monotonic() > until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
