"""Requests that work for long: what their key tells meanwhile, and how not to wait for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from api.background_runs import BackgroundRuns
from engine.db import APP_ROLE, exclusive, open_database
from invoicing.sweep_usage import billing_lock
from tests.api.world import START, World, make_seller
from tests.processes import SECONDS

pytestmark = pytest.mark.anyio
KEY = {"idempotency-key": "march"}
RUN = {"as_of": START.isoformat()}


async def subscribe(world: World) -> None:
    body = {"key": "s1", "customer": "acme", "plan": "pro", "starts_at": "2026-03-01T00:00:00Z"}
    answer = await world.send("POST", "/v1/subscriptions", json=body)
    assert answer.status_code == 201, answer.text


async def until(superuser: Any, condition: str) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if await superuser.fetchval(f"SELECT EXISTS ({condition})"):
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def busy(world: World) -> AsyncIterator[None]:
    """Another process is at a run of ours."""
    name = billing_lock(world.ours.number)
    async with exclusive(database=world.database, name=name, wait_seconds=60) as alone:
        assert alone
        yield


async def background(world: World) -> None:
    runs = BackgroundRuns(database=world.database, clock=world.clock)
    await runs.look()
    await runs.wait()


async def test_a_repetition_is_told_that_the_first_one_is_still_at_it(
    world: World, superuser: Any
) -> None:
    await subscribe(world)
    async with busy(world):
        first = asyncio.ensure_future(world.send("POST", "/v1/billing_runs", json=RUN, headers=KEY))
        await until(superuser, "SELECT FROM idempotency_keys WHERE status IS NULL")
        again = await world.send("POST", "/v1/billing_runs", json=RUN, headers=KEY)
        assert (again.status_code, again.json()["code"]) == (409, "idempotency_in_progress")
        # Nobody holds a transaction open that a time-out could end.
        await until(
            superuser,
            "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype = 'advisory' AND NOT l.granted AND a.query LIKE '%advisory%'",
        )
        assert not await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database()"
        )
    done = await first
    assert (done.status_code, done.json()["documents"]) == (201, 1)
    again = await world.send("POST", "/v1/billing_runs", json=RUN, headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == done.content
    other = await world.send(
        "POST", "/v1/billing_runs", json=RUN | {"customers": ["acme"]}, headers=KEY
    )
    assert other.json()["code"] == "idempotency_mismatch"


async def test_a_request_that_broke_off_is_gone_on_with_under_its_key(
    world: World, superuser: Any
) -> None:
    await subscribe(world)
    held = superuser.transaction()
    await held.start()
    await superuser.execute("LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE")
    first = asyncio.ensure_future(world.send("POST", "/v1/billing_runs", json=RUN, headers=KEY))
    await until(superuser, "SELECT FROM idempotency_keys WHERE object IS NOT NULL")
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    await held.rollback()
    begun = await superuser.fetchval("SELECT object FROM idempotency_keys")
    other = await world.send(
        "POST", "/v1/billing_runs", json=RUN | {"customers": ["acme"]}, headers=KEY
    )
    assert other.json()["code"] == "idempotency_mismatch"
    again = await world.send("POST", "/v1/billing_runs", json=RUN, headers=KEY)
    assert again.status_code == 201, again.text
    told = again.json()
    assert (told["id"], told["status"], told["documents"]) == (begun, "finished", 1)
    assert "idempotency-replayed" not in again.headers
    assert len((await world.send("GET", "/v1/billing_runs")).json()["data"]) == 1


async def test_a_long_request_that_is_refused_keeps_nothing(world: World, superuser: Any) -> None:
    ahead = {"as_of": (START + timedelta(days=1)).isoformat()}
    refused = await world.send("POST", "/v1/billing_runs", json=ahead, headers=KEY)
    assert refused.status_code == 422
    assert await superuser.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    good = await world.send("POST", "/v1/billing_runs", json=RUN, headers=KEY)
    assert good.status_code == 201


async def test_a_clock_moves_once_under_its_key(world: World) -> None:
    await subscribe(world)
    to = {"to": (START + timedelta(days=1)).isoformat()}
    moved = await world.send("POST", "/v1/test_clock/advance", json=to, headers=KEY)
    again = await world.send("POST", "/v1/test_clock/advance", json=to, headers=KEY)
    assert (moved.status_code, moved.json()["documents"]) == (200, 1)
    assert again.content == moved.content
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_run_that_nobody_waits_for_is_done_by_a_worker(world: World) -> None:
    await subscribe(world)
    body = RUN | {"wait": False}
    asked = await world.send("POST", "/v1/billing_runs", json=body, headers=KEY)
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    run = asked.json()["id"]
    again = await world.send("POST", "/v1/billing_runs", json=body, headers=KEY)
    assert (again.status_code, again.content) == (202, asked.content)
    metrics = await world.send("GET", "/metrics", key="")
    labels = f'{{seller="{world.ours.id}",status="queued"}}'
    assert f"usance_billing_run_runs{labels} 1.0" in metrics.text
    async with busy(world):
        await background(world)
    told = (await world.send("GET", f"/v1/billing_runs/{run}")).json()
    assert told["documents"] == 0
    await background(world)
    told = (await world.send("GET", f"/v1/billing_runs/{run}")).json()
    assert (told["status"], told["documents"]) == ("finished", 1)
    assert (await world.send("POST", "/v1/billing_runs", json=RUN)).json()["documents"] == 0


async def turn_approval(world: World, *, on: bool) -> None:
    changed = await world.send("PATCH", "/v1/seller", json={"run_approval": on})
    assert changed.status_code == 200


@pytest.mark.parametrize(("approve", "on"), [(None, 1), (None, 0), (False, 1), (True, 0)])
async def test_a_queued_run_asks_for_approval_as_the_seller_has_it_when_it_begins(
    world: World, approve: bool | None, on: int
) -> None:
    await subscribe(world)
    status = "awaiting_approval" if approve or (on and approve is None) else "finished"
    await turn_approval(world, on=not on)
    body = RUN | {"wait": False} | ({} if approve is None else {"approve": approve})
    run = (await world.send("POST", "/v1/billing_runs", json=body)).json()["id"]
    await turn_approval(world, on=bool(on))
    async with busy(world):
        await background(world)
    await background(world)
    told = (await world.send("GET", f"/v1/billing_runs/{run}")).json()
    assert (told["status"], told["documents"]) == (status, int(status == "finished"))


async def test_a_queued_run_may_be_cancelled_and_is_not_dry(world: World) -> None:
    await subscribe(world)
    bad = await world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False, "dry_run": True})
    assert bad.json()["errors"][0]["code"] == "not_with_dry_run"
    asked = await world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False})
    run = asked.json()["id"]
    paused = await world.send("POST", f"/v1/billing_runs/{run}/pause", json={})
    assert paused.json()["code"] == "run_not_running"
    ended = await world.send("POST", f"/v1/billing_runs/{run}/cancel", json={})
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    await background(world)
    assert (await world.send("GET", "/v1/invoices")).json()["data"] == []


async def test_steps_need_not_be_waited_for_either(world: World) -> None:
    await subscribe(world)
    body = RUN | {"wait": False, "approve": True}
    run = (await world.send("POST", "/v1/billing_runs", json=body)).json()["id"]
    await background(world)
    told = (await world.send("GET", f"/v1/billing_runs/{run}")).json()
    assert told["status"] == "awaiting_approval"
    held = await world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False})
    assert (held.status_code, held.json()["code"]) == (409, "billing_on_hold")
    step = {"reason": "seen", "wait": False}
    path = f"/v1/billing_runs/{run}/approve"
    asked = await world.send("POST", path, json=step, headers=KEY)
    assert (asked.status_code, asked.json()["status"]) == (202, "running")
    again = await world.send("POST", path, json=step, headers=KEY)
    assert (again.status_code, again.content) == (202, asked.content)
    await background(world)
    told = (await world.send("GET", f"/v1/billing_runs/{run}")).json()
    assert (told["status"], told["documents"]) == ("finished", 1)


async def test_a_queued_run_comes_after_one_that_died_at_its_instant(
    world: World, superuser: Any
) -> None:
    await subscribe(world)
    died = (await world.send("POST", "/v1/billing_runs", json=RUN)).json()["id"]
    await superuser.execute("UPDATE billing_runs SET status = 'running', finished_at = NULL")
    asked = await world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False})
    run = asked.json()["id"]
    assert run != died
    await background(world)
    await background(world)
    found = (await world.send("GET", "/v1/billing_runs")).json()["data"]
    assert {each["id"]: each["status"] for each in found} == {run: "finished", died: "finished"}


RUNS = """
INSERT INTO billing_runs (seller, id, as_of, customers, background, status, started_at)
VALUES ($1, $2, $3, $4, true, $5, $3)
"""
STATUSES = "SELECT id, status FROM billing_runs ORDER BY id"


async def test_sellers_whose_runs_have_to_wait_hold_no_other_seller_up(
    world: World, superuser: Any
) -> None:
    others = [await make_seller(world.database, name=f"Seller {n}") for n in range(2)]
    *held, free = (seller.number for seller in (world.ours, world.theirs, *others))
    for number in held:
        await superuser.execute(RUNS, number, f"run_held{number}", START, None, "paused")
        await superuser.execute(RUNS, number, f"run_later{number}", START, None, "queued")
    await superuser.execute(RUNS, free, "run_free", START, None, "queued")
    runs = BackgroundRuns(database=world.database, clock=world.clock)
    for _ in range(2):
        await runs.look()
        await runs.wait()
    found = {row["id"]: row["status"] for row in await superuser.fetch(STATUSES)}
    assert found.pop("run_free") == "finished"
    assert sorted(found.values()) == ["paused"] * 3 + ["queued"] * 3


async def test_a_run_that_has_to_wait_holds_no_other_of_its_seller_up(
    world: World, superuser: Any
) -> None:
    ours, acme = world.ours.number, [world.ours.ids["customer"]]
    made = await world.send("POST", "/v1/customers", json={"key": "beta", "name": "Beta"})
    await superuser.execute(RUNS, ours, "run_1", START, acme, "paused")
    await superuser.execute(RUNS, ours, "run_2", START, acme, "queued")
    await superuser.execute(RUNS, ours, "run_3", START, [made.json()["id"]], "queued")
    runs = BackgroundRuns(database=world.database, clock=world.clock)
    for _ in range(2):
        await runs.look()
        await runs.wait()
    found = {row["id"]: row["status"] for row in await superuser.fetch(STATUSES)}
    assert found == {"run_1": "paused", "run_2": "queued", "run_3": "finished"}
    assert (await world.send("POST", "/v1/billing_runs/run_1/cancel", json={})).is_success
    await runs.look()
    await runs.wait()
    assert await superuser.fetchval("SELECT status FROM billing_runs WHERE id = 'run_2'") == (
        "finished"
    )


async def test_a_run_that_fails_tells_so_and_rests(
    world: World, superuser: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await subscribe(world)
    runs = BackgroundRuns(database=world.database, clock=world.clock)
    asked = await world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False})
    assert asked.json()["failure"] is None
    path = f"/v1/billing_runs/{asked.json()['id']}"

    async def look() -> dict[str, Any]:
        await runs.look()
        await runs.wait()
        return (await world.send("GET", path)).json()

    await superuser.execute("REVOKE SELECT ON due_instants FROM usance_app")
    failure = (await look())["failure"]
    assert (failure["code"], failure["times"]) == ("impossible", 1)
    assert "permission denied for table due_instants" in failure["detail"]
    rest = "SELECT extract(epoch FROM tried_again_at - failed_at)::int FROM billing_runs"
    rests = [await superuser.fetchval(rest)]
    await superuser.execute("UPDATE billing_runs SET tried_again_at = 'infinity'")
    assert (await look())["failure"]["times"] == 1
    for _ in range(9):
        await superuser.execute("UPDATE billing_runs SET tried_again_at = '2026-01-01'")
        assert (await look())["failure"]["detail"] == failure["detail"]
        rests.append(await superuser.fetchval(rest))
    assert rests == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1
    await superuser.execute("GRANT SELECT ON due_instants TO usance_app")
    await superuser.execute("UPDATE billing_runs SET tried_again_at = '2026-01-01'")
    told = await look()
    assert (told["status"], told["documents"], told["failure"]) == ("finished", 1, None)


async def test_a_worker_that_is_stopped_as_it_begins_with_a_run_ends(
    world: World, superuser: Any
) -> None:
    await superuser.execute(RUNS, world.ours.number, "run_1", START, None, "queued")
    runs = BackgroundRuns(database=world.database, clock=world.clock)
    async with asyncio.timeout(SECONDS):
        await runs.look()
        await runs.stop()
    await runs.look()
    await runs.wait()
    assert await superuser.fetchval("SELECT status FROM billing_runs") == "queued"


async def test_whoever_waits_for_a_run_longer_than_a_statement_may_take_is_told(
    world: World, database_url: str
) -> None:
    brisk = open_database(dsn=database_url, role=APP_ROLE, statement_timeout_seconds=1)
    try:
        async with (
            busy(world),
            exclusive(
                database=brisk, name=billing_lock(world.ours.number), wait_seconds=2
            ) as alone,
        ):
            assert not alone
    finally:
        await brisk.close()


async def test_more_keys_than_there_are_connections_keep_nobody_from_working(world: World) -> None:
    await subscribe(world)
    left = {f"many-{number}" for number in range(2 * world.database.size)}

    async def ask(key: str) -> None:
        answer = await world.send(
            "POST", "/v1/billing_runs", json=RUN, headers={"idempotency-key": key}
        )
        assert answer.status_code in {201, 409, 503}, answer.text
        if answer.status_code == 201:
            left.discard(key)

    async with asyncio.timeout(SECONDS):
        while left:
            before = len(left)
            await asyncio.gather(*map(ask, left))
            assert len(left) < before
    assert len((await world.send("GET", "/v1/invoices")).json()["data"]) == 1


async def test_more_runs_than_there_are_connections_leave_others_theirs(
    world: World, superuser: Any
) -> None:
    await subscribe(world)
    async with busy(world):
        asked = [
            asyncio.ensure_future(world.send("POST", "/v1/billing_runs", json=RUN))
            for _ in range(3 * world.database.size)
        ]
        await until(
            superuser,
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted HAVING count(*) = 2",
        )
        others = await asyncio.gather(
            *(world.send("GET", "/v1/customers") for _ in range(2 * world.database.size)),
            world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False}),
            world.send("POST", "/v1/billing_runs", json=RUN | {"wait": False}, headers=KEY),
        )
        assert {answer.status_code for answer in others} == {200, 202}
    for answer in await asyncio.gather(*asked):
        if answer.status_code != 201:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
    assert len((await world.send("GET", "/v1/invoices")).json()["data"]) <= 1
