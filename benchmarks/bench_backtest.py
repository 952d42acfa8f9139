"""Another price list over a year of usage, against the billing code going charge by charge.

A seller with N subscriptions of a base fee and four usage prices is billed for twelve months. The
backtest then derives that year with the present prices and with others; the audit's `rederive`,
told to derive it once and charge by charge, is what it is compared with. Only the ratio means
anything elsewhere.

    python benchmarks/bench_backtest.py --subscriptions 20000 --events 4000000
"""

import argparse
import asyncio
import functools
import multiprocessing
import resource
import time
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import uvloop
from bench_billing_run import scratch
from billing_world import (
    load_events,
    load_subscriptions,
    plan_draft,
    publish_world,
    read_plans,
)

from engine.db import AUDITOR_ROLE, open_database
from invoicing.backtest import open_backtest
from invoicing.rederive import rederive
from invoicing.run_billing import run_billing
from invoicing.simulation import Simulation, SimulationDraft
from metering.fold_usage import fold_usage
from plans.model import Aggregation, MeterDraft, PlanDraft
from plans.prices import Kind, PackagePrice, PerUnitPrice
from plans.seller_store import load_seller

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)
METERS = (
    MeterDraft(key="calls", event_type="call", aggregation=Aggregation.COUNT),
    MeterDraft(key="tokens", event_type="chat", aggregation=Aggregation.SUM, value="tokens"),
    MeterDraft(key="chats", event_type="chat", aggregation=Aggregation.COUNT),
    MeterDraft(key="peak", event_type="call", aggregation=Aggregation.MAX, value="tokens"),
)
MORE = (
    PackagePrice(
        key="chats", kind=Kind.USAGE, meter="chats", unit_amount="0.5", package_size="100"
    ),
    PerUnitPrice(key="peak", kind=Kind.USAGE, meter="peak", unit_amount="0.0001"),
)
CHARGES = 60
"""Of a subscription in the year."""

ONE_BY_ONE = 1_000_000_000
"""So many subscriptions would have to share their terms to be derived together."""


def year_plan(number: int) -> PlanDraft:
    draft = plan_draft(number)
    return msgspec.structs.replace(draft, prices=(*draft.prices, *MORE))


def price_lists() -> list[dict[str, Any]]:
    """Every plan: a base fee ten higher, calls at half the price, tokens in two tiers."""
    tiers = [{"up_to": "5000", "unit_amount": "0.011"}, {"unit_amount": "0.004"}]
    return [
        {
            "plan": f"plan{number}",
            "overrides": {
                "base": {"flat_amount": f"{29 + number}.90"},
                "calls": {"unit_amount": f"0.0{60 + number}"},
                "tokens": {"tiers": tiers},
            },
        }
        for number in range(20)
    ]


async def build(*, dsn: str, subscriptions: int, events: int, anchors: int, folded: bool) -> int:
    database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=900)
    raw = await asyncpg.connect(dsn)
    try:
        made = await publish_world(database, drafts=METERS, plan=year_plan)
        world = await read_plans(raw, made)
        await load_subscriptions(raw, world, count=subscriptions, anchors=anchors)
        sizes = {"subscriptions": subscriptions, "events": events, "anchors": anchors}
        await load_events(raw, world, **sizes, days=365)
        if folded:
            await fold_usage(database=database, seller=world.seller)
        await raw.execute("ANALYZE")
        await run_billing(database=database, seller=world.seller, as_of=NOW, now=NOW)
        await raw.execute("VACUUM ANALYZE")
    finally:
        await raw.close()
        await database.close()
    return world.seller


async def _backtest(dsn: str, seller: int) -> tuple[float, float, float, Simulation]:
    """(seconds, MiB at the peak, MiB before, answer), as the auditor."""
    database = open_database(dsn=dsn, role=AUDITOR_ROLE, statement_timeout_seconds=900)
    body = {"from": "2026-01-01", "to": "2027-01-29", "price_lists": price_lists()}
    draft = msgspec.convert(body, SimulationDraft)
    before, begin = peak_mebibytes(), time.perf_counter()
    try:
        async with database.transaction(seller=seller, snapshot=True) as connection:
            opened = await open_backtest(connection=connection, seller=seller, draft=draft, now=NOW)
            async for _ in opened.effects():
                pass
    finally:
        await database.close()
    return time.perf_counter() - begin, peak_mebibytes(), before, opened.answer()


async def _one_by_one(dsn: str, seller: int) -> tuple[float, int]:
    database = open_database(dsn=dsn, role=AUDITOR_ROLE, statement_timeout_seconds=900)
    begin = time.perf_counter()
    try:
        async with database.transaction(seller=seller, snapshot=True) as connection:
            home = await load_seller(connection=connection)
            found = await rederive(connection=connection, seller=home, few=ONE_BY_ONE)
    finally:
        await database.close()
    assert found.mismatches == ()
    return time.perf_counter() - begin, found.charges


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _call(work: Any, arguments: dict[str, Any], answers: Any) -> None:
    answers.put(asyncio.run(work(**arguments)))


def apart(work: Any, **arguments: Any) -> Any:
    """Run in a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_call, args=(work, arguments, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("a part of the benchmark failed")
    return answers.get()


async def run_benchmark(arguments: argparse.Namespace) -> None:
    async with scratch(arguments.dsn) as dsn:
        names = ("subscriptions", "events", "anchors")
        sizes = {name: getattr(arguments, name) for name in names}
        begin = time.perf_counter()
        folded = not arguments.unfolded
        seller = await asyncio.to_thread(
            functools.partial(apart, build, dsn=dsn, folded=folded, **sizes)
        )
        taken = time.perf_counter() - begin
        print(
            f"{sizes['subscriptions']} subscriptions of 5 prices on {sizes['anchors']} anchor"
            f" days, {sizes['events']} events in a year, loaded and billed in {taken:.0f} s"
        )
        call = functools.partial(apart, _backtest, dsn=dsn, seller=seller)
        seconds, peak, before, answer = await asyncio.to_thread(call)
        (total,) = answer.totals
        assert total.charges == CHARGES * sizes["subscriptions"], total.charges
        assert total.waiting == "0.00", total.waiting
        call = functools.partial(apart, _one_by_one, dsn=dsn, seller=seller)
        slow, charges = await asyncio.to_thread(call)
    print(f"present {total.present}, simulated {total.simulated}, {total.percent} %")
    print(f"  backtest, two price lists  {seconds:>7.2f} s {total.charges / seconds:>12,.0f}/s")
    print(f"  one by one, one price list {slow:>7.2f} s {charges / slow:>12,.0f}/s")
    ratio = 2 * slow / charges * total.charges / seconds
    million = seconds * 1_000_000 / total.charges
    print(f"one by one / backtest, of the same charges {ratio:>6.1f}   (target at least 5)")
    print(f"a million charges of two price lists       {million:>6.1f} s (target at most 60)")
    print(f"peak memory {peak:>6.0f} MiB, {before:.0f} before          (target at most 512)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--anchors", type=int, default=28, help="start days, 1 to 28")
    parser.add_argument("--unfolded", action="store_true", help="usage as it came in")
    parser.add_argument("--dsn", help="a superuser's address; default: a server of its own")
    uvloop.run(run_benchmark(parser.parse_args()))


if __name__ == "__main__":
    main()
