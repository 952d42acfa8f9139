"""Events in, as they come: latency at a steady rate, beside a billing run, and what overload does.

    python benchmarks/bench_ingest_load.py [--seconds 30] [--rate 5000] [--size 100]
        [--billing] [--subscriptions 20000] [--events 1000000] [--overload 10] [--reads 100]

Bodies leave at instants that were fixed beforehand, whatever became of those before (an open loop),
and latency counts from that instant. The generator is a process of its own; where it was late
itself (p99 of its lag over 5 ms) the run is void and says so. PostgreSQL is a throw-away cluster of
the embedded kind unless `--dsn` names a superuser's address; fsync and synchronous_commit are on.

1. A steady rate for `--seconds`. Target: p99 at most 50 ms, no error.
2. Beside it an event now and then whose usage is read until it shows. Target: p99 at most 2 s.
3. `--billing`: the same rate while a billing run works, as long as that takes (or `--seconds`).
   Target: p99 at most 150 ms.
4. `--overload`: three times of what a closed loop got through, for so many seconds. Targets: only
   429 and 503 with Retry-After beside 200, acknowledged = stored (what is counted in the table), at
   least 0.7 of the capacity goes through, and p99 at the steady rate is back within 10 s. Void
   where the generator could not offer 2.5 times.
"""

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import msgspec
import uvloop
from billing_world import SECOND_RUN, build_world
from ingest_client import (
    TUNED,
    Connection,
    Refused,
    bodies,
    load,
    percentiles,
    prepare_database,
    served,
)

from engine.db import open_database
from engine.postgres import start_or_join
from invoicing.run_billing import run_billing

STEADY_MS, BILLING_MS, VISIBLE_MS, LAG_MS = 50.0, 150.0, 2_000.0, 5.0
GOODPUT, OVERLOAD, LEAST_OFFERED = 0.7, 3, 2.5
RECOVERY_SECONDS = 10
WARM_SECONDS = 2.0
CONNECTIONS = 1_500
PREPARED = 3_000_000
"""Events whose bodies are made beforehand; those of longer runs one by one as they leave."""


class Outcome(msgspec.Struct):
    """What came of an open loop: (due, seconds from then) of each answer, and what was told."""

    answered: list[tuple[float, float]]
    lags: list[float]
    told: Counter[str]
    accepted: int = 0
    unknown: int = 0
    seconds: float = 0.0


class Generator:
    """Sends bodies at their instants over as many connections as it takes."""

    def __init__(self, *, port: int, key: str, size: int, ids: str) -> None:
        self._port, self._key, self._size, self._ids = port, key, size, ids
        self._free: list[Connection] = []
        self._places = asyncio.Semaphore(CONNECTIONS)
        self.outcome = Outcome([], [], Counter())

    async def run(self, *, rate: float, seconds: float) -> Outcome:
        """`rate` events a second."""
        loop = asyncio.get_running_loop()
        interval, size = self._size / rate, self._size
        count = int(seconds / interval)
        made = bodies(count=count if count * size <= PREPARED else 0, size=size, ids=self._ids)
        began, under_way = loop.time() + 0.2, set[asyncio.Task[None]]()
        for number in range(count):
            body = made[number] if made else bodies(count=1, size=size, ids=self._ids)[0]
            due = began + number * interval
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.outcome.lags.append(max(0.0, loop.time() - due))
            task = loop.create_task(self._one(body, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        self.outcome.seconds = loop.time() - began
        if under_way:
            await asyncio.wait(under_way, timeout=60)
        return self.outcome

    async def _one(self, body: bytes, due: float) -> None:
        loop, outcome = asyncio.get_running_loop(), self.outcome
        async with self._places:
            try:
                connection = await self._connection()
                told = await connection.post(body)
            except Refused as refused:
                known = refused.status in {429, 503} and refused.tells_when and refused.known
                outcome.told[f"{refused.status}" if known else f"{refused} (no target)"] += 1
                outcome.unknown += self._size if refused.status == 503 else 0
                if refused.ends:
                    connection.close()
                    return
            except OSError as error:
                outcome.told[f"{type(error).__name__} (no target)"] += 1
                outcome.unknown += self._size
                return
            else:
                outcome.told["200"] += 1
                outcome.accepted += told
                outcome.answered.append((due, loop.time() - due))
            self._free.append(connection)

    async def _connection(self) -> Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closing:
                return connection
        connection = Connection(port=self._port, key=self._key)
        await connection.open()
        return connection


async def _generate(loads: list[tuple[float, float]], arguments: dict[str, Any]) -> list[Outcome]:
    return [await Generator(**arguments).run(rate=rate, seconds=seconds) for rate, seconds in loads]


def _generator(pipe: Any, loads: list[tuple[float, float]], arguments: dict[str, Any]) -> None:
    pipe.send(uvloop.run(_generate(loads, arguments)))


async def generate(loads: list[tuple[float, float]], **arguments: Any) -> list[Outcome]:
    """Open loops one after the other, (events a second, seconds) each, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_generator, args=(there, loads, arguments))
    process.start()
    outcomes = await asyncio.to_thread(here.recv)
    process.join()
    return outcomes


def tell(name: str, outcome: Outcome, *, target_ms: float | None) -> None:
    """Latencies and what was answered; says when the run is void."""
    taken = [seconds for _, seconds in outcome.answered]
    p50, p99 = percentiles(taken, 0.5, 0.99) if taken else (0.0, 0.0)
    (lag,) = percentiles(outcome.lags, 0.99)
    wrong = sum(count for told, count in outcome.told.items() if told != "200")
    print(
        f"{name:<28} p50 {p50:7.1f} ms  p99 {p99:7.1f} ms"
        f"  max {max(taken, default=0) * 1000:.0f} ms"
        f"  answers {dict(outcome.told)}  generator's lag p99 {lag:.1f} ms"
    )
    if target_ms is not None:
        verdict = "met" if p99 <= target_ms and not wrong else "missed"
        verdict = f"VOID: the generator was late ({lag:.1f} ms)" if lag > LAG_MS else verdict
        print(f"{'':<28} target p99 ≤ {target_ms:.0f} ms and no error: {verdict}")


class Reader:
    """Reads usage over one connection."""

    def __init__(self, *, port: int, key: str) -> None:
        self._port, self._key = port, key

    async def open(self) -> None:
        """Connect."""
        self._in, self._out = await asyncio.open_connection("127.0.0.1", self._port)

    async def total(self, *, customer: str, day: datetime) -> int:
        """The quantity of one customer's day and the next."""
        query = urlencode(
            {
                "customer": customer,
                "meter": "tokens",
                "from": day.isoformat(),
                "to": (day + timedelta(days=2)).isoformat(),
            }
        )
        self._out.write(
            f"GET /v1/usage?{query} HTTP/1.1\r\nHost: b\r\n"
            f"Authorization: Bearer {self._key}\r\n\r\n".encode()
        )
        head = (await self._in.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        answer = msgspec.json.decode(await self._in.readexactly(size))
        assert head.startswith(b"http/1.1 200"), answer
        return sum(int(row["quantity"]) for row in answer["data"])


async def watch_visibility(*, port: int, key: str, reads: int) -> None:
    """How long after its answer an event shows in the usage of its customer."""
    reader, connection = Reader(port=port, key=key), Connection(port=port, key=key)
    await reader.open()
    await connection.open()
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    before = await reader.total(customer="customer-0", day=day)
    delays: list[float] = []
    for _ in range(reads):
        (body,) = bodies(count=1, size=1, ids="time")
        event = msgspec.json.decode(body)
        event |= {"subject": "customer-0", "data": {"tokens": 1}}
        await connection.post(msgspec.json.encode(event))
        began = time.perf_counter()
        while await reader.total(customer="customer-0", day=day) <= before:
            pass
        before += 1
        delays.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)
    p50, p99 = percentiles(delays, 0.5, 0.99)
    print(
        f"{'answer → in GET /v1/usage':<28} p50 {p50:7.1f} ms  p99 {p99:7.1f} ms"
        f"  max {max(delays) * 1000:.0f} ms (the reading itself included)"
    )
    print(f"{'':<28} target p99 ≤ 2 s: {'met' if p99 <= VISIBLE_MS else 'missed'}")


def _bill(pipe: Any, dsn: str, seller: int) -> None:
    async def bill() -> int:
        database = open_database(dsn=dsn, role="usance_app")
        run = await run_billing(database=database, seller=seller, as_of=SECOND_RUN, now=SECOND_RUN)
        await database.close()
        return run.documents

    began = time.perf_counter()
    documents = uvloop.run(bill())
    pipe.send((documents, time.perf_counter() - began))


async def beside_billing(
    options: argparse.Namespace, dsn: str, biller: int, arguments: dict[str, Any]
) -> None:
    """The steady rate while a billing run of another seller works on the same server."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_bill, args=(there, dsn, biller))
    loading = asyncio.create_task(generate([(options.rate, options.seconds)], **arguments))
    await asyncio.sleep(WARM_SECONDS)
    process.start()
    documents, seconds = await asyncio.to_thread(here.recv)
    process.join()
    print(f"billing run beside it: {documents:,} documents in {seconds:.1f} s")
    (outcome,) = await loading
    first = min(due for due, _ in outcome.answered) + WARM_SECONDS
    outcome.answered = [each for each in outcome.answered if first <= each[0] <= first + seconds]
    tell("while it worked", outcome, target_ms=BILLING_MS)


async def overload(
    options: argparse.Namespace, raw: Any, seller: int, arguments: dict[str, Any]
) -> None:
    """Three times the capacity, then the steady rate again."""
    told = arguments | {"connections": 32, "seconds": 5.0}
    capacity, _, _, share = await load(told)
    print(f"capacity, a closed loop of 32: {capacity:,.0f} events/s (client {share:.2f} of a core)")
    count = "SELECT coalesce(sum(events), 0) FROM event_batches WHERE seller = $1"
    before = await raw.fetchval(count, seller)
    loads = [(OVERLOAD * capacity, options.overload), (options.rate, 2.0 * RECOVERY_SECONDS)]
    flood, after = await generate(loads, **arguments)
    stored = await raw.fetchval(count, seller) - before - after.accepted
    tell(f"overload, {OVERLOAD} ×", flood, target_ms=None)
    offered = len(flood.lags) * options.size / flood.seconds / capacity
    began = min(due for due, _ in flood.answered)
    until = max(due + seconds for due, seconds in flood.answered)
    goodput = flood.accepted / max(until - began, flood.seconds) / capacity
    verdict = "met" if goodput >= GOODPUT else "missed"
    if offered < LEAST_OFFERED:
        verdict = "VOID: too little was offered"
    wrong = sum(count for told, count in flood.told.items() if "no target" in told)
    exact = flood.accepted <= stored <= flood.accepted + flood.unknown
    print(
        f"{'':<28} offered {offered:.2f} × capacity; goodput {goodput:.2f} (target ≥ {GOODPUT}:"
        f" {verdict}); other answers: {wrong}"
    )
    print(
        f"{'':<28} acknowledged {flood.accepted:,}, stored {stored:,}, unknown {flood.unknown:,}:"
        f" {'equal' if stored == flood.accepted else 'within what is unknown' if exact else 'LOST'}"
    )
    tell("steady rate afterwards", after, target_ms=None)
    first = min(due for due, _ in after.answered)
    late = [due - first for due, seconds in after.answered if seconds * 1000 > STEADY_MS]
    allowed = len(after.answered) // 100
    back = sorted(late)[-allowed - 1] if len(late) > allowed else 0.0
    verdict = "met" if back <= RECOVERY_SECONDS else "missed"
    print(f"{'':<28} p99 ≤ {STEADY_MS:.0f} ms from {back:.1f} s on (target ≤ 10 s): {verdict}")


async def run(options: argparse.Namespace, admin: str) -> None:
    """All parts that were asked for."""
    name = f"bench_load_{os.getpid()}"
    dsn, key, seller, _ = await prepare_database(admin, name)
    biller = 0
    if options.billing:
        sizes = {"subscriptions": options.subscriptions, "events": options.events, "anchors": 28}
        biller = await build_world(dsn=dsn, **sizes)
    raw = await asyncpg.connect(admin)
    owner = await asyncpg.connect(dsn)
    async with served(dsn, "ingest_client:application", 20_000 + os.getpid() % 20_000) as port:
        arguments = {"port": port, "key": key, "size": options.size, "ids": options.ids}
        await generate([(options.rate, WARM_SECONDS)], **arguments)
        loading = asyncio.create_task(generate([(options.rate, options.seconds)], **arguments))
        if options.reads:
            await watch_visibility(port=port, key=key, reads=options.reads)
        (steady,) = await loading
        tell(f"{options.rate:,} events/s by {options.size}", steady, target_ms=STEADY_MS)
        if options.billing:
            await beside_billing(options, dsn, biller, arguments)
        if options.overload:
            await overload(options, owner, seller, arguments)
    await owner.close()
    await raw.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await raw.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=5_000, help="events a second")
    parser.add_argument("--size", type=int, default=100, help="events a body")
    parser.add_argument("--ids", choices=["time", "random"], default="time")
    parser.add_argument("--reads", type=int, default=100, help="events whose usage is awaited")
    parser.add_argument("--billing", action="store_true", help="a billing run beside it")
    parser.add_argument("--subscriptions", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=1_000_000, help="that are billed")
    parser.add_argument("--overload", type=float, default=10.0, help="seconds of it; 0: none")
    parser.add_argument("--dsn", help="a superuser's address; else a throw-away cluster")
    options = parser.parse_args()
    if options.dsn:
        asyncio.run(run(options, options.dsn))
        return
    with tempfile.TemporaryDirectory(prefix="usance-bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        with start_or_join(home=home, bin_dir=None, throw_away=True, overrides=TUNED) as running:
            asyncio.run(run(options, running.admin_dsn))


if __name__ == "__main__":
    main()
