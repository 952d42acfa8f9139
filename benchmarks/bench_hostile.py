"""Hostile senders: what the others' p99 and the server's memory do meanwhile, in one run.

    python benchmarks/bench_hostile.py [--seconds 10] [--rounds 3] [--rate 20] [--hostile 2]

`usance serve` is a process of its own on a throw-away PostgreSQL, the attackers are another. An
honest client sends batches of 100 events at a steady rate, each counted from the instant at which
it should have gone. Calm and hostile stretches take turns; in a hostile one 300 slow sockets sit
there, and bodies of 11 MB (told and chunked), JSON nested 100,000 deep, gzip bombs of 500 MB and
3,300,000 empty events come at a steady rate of `--hostile` a second. Only the ratio of one run
means anything: attackers, server and clients share the machine, so it tells also what it costs to
make the attack. `--hostile 0` is the slow sockets alone.
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

from engine import migrate
from engine.db import open_database
from engine.postgres import start_or_join
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Mode

MEGABYTE: Final = 1_000_000
SOCKETS: Final = 300
BATCH: Final = 100
LAST_ANSWERS_SECONDS: Final = 20
SERVE: Final = [sys.executable, "-c", "from api.cli import main; main()", "serve"]


def bomb(size: int) -> bytes:
    """Compressed zeros, made without holding them."""
    packer = zlib.compressobj(wbits=31)
    block = bytes(MEGABYTE)
    return b"".join([*(packer.compress(block) for _ in range(size // MEGABYTE)), packer.flush()])


def head(key: str, *, length: int | None, headers: str = "") -> bytes:
    """The head of a request; without a length it comes in chunks."""
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = ("POST /v1/events HTTP/1.1", "host: x", f"authorization: Bearer {key}", size)
    return ("\r\n".join(lines) + f"\r\n{headers}\r\n").encode()


async def exchange(port: int, parts: list[bytes]) -> int:
    """Send in pieces on a connection of its own; the status of the answer, 0 for none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                for start in range(0, len(part), 65_536):
                    writer.write(part[start : start + 65_536])
                    await writer.drain()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line = await reader.readuntil(b"\r\n")
            return int(line.split()[1])
        return 0
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def hostile_requests(key: str) -> list[list[bytes]]:
    """Each kind of body, ready to be sent."""
    huge = b"[" + b" " * (11 * MEGABYTE)
    deep = b"[" * 100_000
    packed = "content-encoding: gzip\r\n"
    bombs = bomb(500 * MEGABYTE)
    many = gzip.compress(b"[" + b"{}," * 3_300_000, 1)
    return [
        [head(key, length=len(huge)), huge],
        [head(key, length=None), b"%x\r\n" % len(huge), huge, b"\r\n0\r\n\r\n"],
        [head(key, length=len(deep)), deep],
        [head(key, length=len(bombs), headers=packed), bombs],
        [head(key, length=len(many), headers=packed), many],
    ]


async def attack(port: int, key: str, rate: float, begun: Event, ended: Event) -> Counter[int]:
    """Slow sockets and hostile bodies until told to stop; how often each status came."""
    requests = hostile_requests(key)
    statuses: Counter[int] = Counter()

    async def send(number: int) -> None:
        statuses[await exchange(port, requests[number % len(requests)])] += 1

    async def sit(number: int) -> None:
        while not ended.is_set():
            part = head(key, length=100)
            part = part[:40] if number % 3 == 0 else part + b"["
            with contextlib.suppress(OSError):
                await exchange(port, [part])

    tasks = [asyncio.create_task(sit(number)) for number in range(SOCKETS)]
    sending: list[asyncio.Task[None]] = []
    await asyncio.sleep(1)
    begun.set()
    while not ended.is_set():
        await asyncio.sleep(1 / rate if rate else 0.1)
        if rate:
            sending.append(asyncio.create_task(send(len(sending))))
    if sending:
        await asyncio.wait(sending, timeout=LAST_ANSWERS_SECONDS)
    for task in (*tasks, *sending):
        task.cancel()
    await asyncio.gather(*tasks, *sending, return_exceptions=True)
    return statuses


def attackers_process(
    server: tuple[int, str], rate: float, signals: tuple[Event, Event], told: Any
) -> None:
    told.put(asyncio.run(attack(*server, rate, *signals)))


async def honest(port: int, key: str, *, seconds: float, rate: float) -> list[float]:
    """Seconds from when each batch should have gone to its answer, which must be 200."""
    taken: list[float] = []
    begun = time.perf_counter()

    async def send(due: float) -> None:
        events = [
            {"id": os.urandom(12).hex(), "type": "call", "subject": "acme", "data": {"tokens": 1}}
            for _ in range(BATCH)
        ]
        body = json.dumps(events).encode()
        status = await exchange(port, [head(key, length=len(body)), body])
        if status != 200:
            message = f"an honest sender was answered {status}"
            raise SystemExit(message)
        taken.append(time.perf_counter() - due)

    tasks: list[asyncio.Task[None]] = []
    for number in range(int(seconds * rate)):
        due = begun + number / rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(send(due)))
    await asyncio.gather(*tasks)
    return sorted(taken)


def memory_of(pid: int, name: str) -> float:
    """A figure of the process in MB: VmRSS now, VmHWM the most it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (one for one in lines if one.startswith(name))
    return int(line.split()[1]) * 1024 / MEGABYTE


def at(taken: list[float], share: float) -> float:
    return taken[min(int(len(taken) * share), len(taken) - 1)] * 1000


def stretches(port: int, key: str, server: int, options: argparse.Namespace) -> None:
    """Calm and hostile in turn; print both, and what they are to one another."""
    context = multiprocessing.get_context("spawn")
    asyncio.run(honest(port, key, seconds=3, rate=options.rate))
    calm: list[float] = []
    hostile: list[float] = []
    statuses: Counter[int] = Counter()
    before = memory_of(server, "VmRSS")
    for _ in range(options.rounds):
        calm += asyncio.run(honest(port, key, seconds=options.seconds, rate=options.rate))
        begun, ended, told = context.Event(), context.Event(), context.Queue()
        arguments = ((port, key), options.hostile, (begun, ended), told)
        attackers = context.Process(target=attackers_process, args=arguments)
        attackers.start()
        try:
            if not begun.wait(timeout=120):
                raise SystemExit("the attackers did not begin")
            hostile += asyncio.run(honest(port, key, seconds=options.seconds, rate=options.rate))
        finally:
            ended.set()
        statuses += told.get(timeout=60)
        attackers.join()
    calm.sort()
    hostile.sort()
    for name, taken in (("calm", calm), ("hostile", hostile)):
        print(
            f"{name:8} {len(taken)} batches of {BATCH}: p50 {at(taken, 0.5):.0f} ms,"
            f" p99 {at(taken, 0.99):.0f} ms, most {at(taken, 1):.0f} ms"
        )
    ratio = at(hostile, 0.99) / at(calm, 0.99)
    print(f"others' p99, hostile to calm: {ratio:.2f} (target 1, which shared cores cannot give)")
    after, most = memory_of(server, "VmRSS"), memory_of(server, "VmHWM")
    print(f"memory of the server: {before:.0f} MB before, {after:.0f} after, {most:.0f} at most")
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(f"answers to the hostile: {answers or 'none'}")


async def prepare(admin_dsn: str, dsn: str) -> str:
    """A migrated database with one live seller; its key."""
    await migrate.ensure_roles(dsn=admin_dsn, passwords={})
    await migrate.ensure_database(dsn=admin_dsn, name="hostile")
    await migrate.upgrade(dsn=dsn)
    database = open_database(dsn=dsn, role="usance_app")
    draft = SellerDraft(legal_name="Nordwind", currency="EUR", mode=Mode.LIVE)
    try:
        made = await create_seller(database=database, draft=draft, now=datetime.now(UTC))
    finally:
        await database.close()
    assert made.secret is not None
    return made.secret


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0, help="honest batches a second")
    parser.add_argument("--hostile", type=float, default=2.0, help="hostile bodies a second")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("this system does not tell the memory of a process")
    with (
        tempfile.TemporaryDirectory(prefix="usance-hostile-") as folder,
        contextlib.ExitStack() as stack,
    ):
        Path(folder).chmod(0o711)
        home = Path(folder) / "home"
        running = stack.enter_context(start_or_join(home=home, throw_away=True))
        admin = running.server.admin_dsn
        dsn = admin.replace("/postgres?", "/hostile?")
        key = asyncio.run(prepare(admin, dsn))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {"USANCE_DATABASE_URL": dsn, "USANCE_HOME": str(home)}
        server = subprocess.Popen(
            [*SERVE, "--port", str(port)], env=environment, stderr=subprocess.DEVNULL
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        stretches(port, key, server.pid, options)


if __name__ == "__main__":
    main()
