"""Billing runs at the command line and in the metrics."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.background_runs import BackgroundRuns
from engine.db import APP_ROLE, PATIENT, open_database
from tests.api.command_line import USANCE, create_seller, environment, usance
from tests.api.world import START, World
from tests.faults import billing_kills as kills
from tests.processes import program, wait_until

BRAKE = """
CREATE TABLE brake AS SELECT true;
CREATE FUNCTION brake() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  WHILE EXISTS (SELECT FROM brake) LOOP PERFORM pg_sleep(0.02); END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER zz_brake AFTER INSERT ON invoices FOR EACH STATEMENT EXECUTE FUNCTION brake();
"""
WAITING = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_run_is_approved_at_the_command_line(database_url: str, tmp_path: Path) -> None:
    asyncio.run(kills.fill_books(database_url, 5))
    place = {"database_url": database_url, "home": tmp_path}
    proposed = usance("run", "--as-of", "2026-03-15", "--approve", **place)
    assert proposed.returncode == 0, proposed.stderr
    assert "awaiting approval" in proposed.stdout
    run = next(word for word in proposed.stdout.split() if word.startswith("run_"))
    told = usance("runs", "report", run, **place)
    assert told.returncode == 0, told.stderr
    assert "Biggest changes" in told.stdout and "EUR" in told.stdout
    sheet = tmp_path / "report.csv"
    assert usance("runs", "report", run, "--csv", str(sheet), **place).returncode == 0
    lines = sheet.read_text().splitlines()
    assert lines[0].startswith("customer,currency,invoices,")
    assert len(lines) == 6
    held = usance("run", "--as-of", "2026-03-15", **place)
    assert (held.returncode, run in held.stderr) == (2, True)
    done = usance("runs", "approve", run, "--reason", "looks right", **place)
    assert done.returncode == 0, done.stderr
    assert "documents with" in done.stdout
    listed = usance("runs", **place)
    assert run in listed.stdout and "finished" in listed.stdout
    again = usance("runs", "approve", run, **place)
    assert again.returncode == 2
    assert "is finished" in again.stderr


def test_a_run_is_left_to_a_worker_at_the_command_line(database_url: str, tmp_path: Path) -> None:
    asyncio.run(kills.fill_books(database_url, 3))
    place = {"database_url": database_url, "home": tmp_path}
    refused = usance("run", "--no-wait", "--dry-run", **place)
    assert refused.returncode == 2
    queued = usance("run", "--as-of", "2026-03-15", "--no-wait", **place)
    assert queued.returncode == 0, queued.stderr
    run = next(word for word in queued.stdout.split() if word.startswith("run_"))
    assert f"usance runs show {run}" in queued.stdout
    listed = usance("runs", **place)
    assert run in listed.stdout and "queued" in listed.stdout

    async def work() -> None:
        database = open_database(dsn=database_url, role=APP_ROLE, waiting=PATIENT)
        runs = BackgroundRuns(database=database, clock=lambda: START)
        await runs.look()
        await runs.wait()
        await database.close()

    asyncio.run(work())
    shown = usance("runs", "show", run, **place)
    assert shown.returncode == 0, shown.stderr
    assert "queued" not in shown.stdout and "0 documents" not in shown.stdout
    assert "finished" in usance("runs", **place).stdout


def test_an_interrupted_run_is_paused_and_says_how_to_go_on(
    database_url: str, tmp_path: Path
) -> None:
    asyncio.run(kills.fill_books(database_url, 60))
    before = kills.count_rows(database_url)

    def count(table: str) -> int:
        return kills.count_rows(database_url, table)

    async def execute(sql: str) -> None:
        raw = await asyncpg.connect(database_url, timeout=60)
        await raw.execute(sql)
        await raw.close()

    asyncio.run(execute(BRAKE))
    place = {"database_url": database_url, "home": tmp_path}
    variables = environment(**place) | {"USANCE_STATEMENT_TIMEOUT_SECONDS": "600"}
    with program([*USANCE, "run", "--as-of", "2026-03-15"], env=variables) as process:

        def runs() -> bool:
            process.require_running()
            return count("billing_runs WHERE status = 'running'") > 0

        wait_until(runs)
        process.send_signal(signal.SIGINT)
        # A chunk under way is posted first: whoever pauses waits for it.
        wait_until(lambda: count(WAITING) or count("billing_runs WHERE status = 'paused'"))
        asyncio.run(execute("DELETE FROM brake"))
        assert (process.wait(), process.err()) == (1, "")
        said = process.out()
    assert "is paused" in said and "usance runs resume run_" in said
    run = next(word for word in said.split() if word.startswith("run_"))
    resumed = usance("runs", "resume", run, **place)
    assert resumed.returncode == 0, resumed.stderr
    assert kills.count_rows(database_url) > before


def test_there_may_be_no_run_yet(database_url: str, tmp_path: Path) -> None:
    create_seller(database_url=database_url, home=tmp_path)
    listed = usance("runs", database_url=database_url, home=tmp_path)
    assert (listed.returncode, listed.stdout) == (0, "There is no billing run yet.\n")


on_a_loop = pytest.mark.anyio


async def metrics(world: World) -> dict[str, Any]:
    answer = await world.send("GET", "/metrics", key="")
    return dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")


@on_a_loop
async def test_metrics_tell_how_far_runs_are(billed_world: World, superuser: Any) -> None:
    told = await metrics(billed_world)
    labels = f'{{seller="{billed_world.ours.id}",status="paused"}}'
    assert told[f"usance_billing_run_runs{labels}"] == "1.0"
    assert told[f"usance_billing_run_documents{labels}"] == "0.0"
    since = float(told[f"usance_billing_run_progress_timestamp_seconds{labels}"])
    assert since == START.timestamp()
    assert f"usance_billing_run_customers_per_second{labels}" not in told
    await superuser.execute(
        "UPDATE billing_runs SET status = 'running', customers_done = 30, customers_total = 100,"
        " worked_micros = 20000000 WHERE status = 'paused'"
    )
    told = await metrics(billed_world)
    labels = labels.replace("paused", "running")
    assert told[f"usance_billing_run_customers_per_second{labels}"] == "1.5"
    assert float(told[f"usance_billing_run_seconds_left{labels}"]) == pytest.approx(70 / 1.5)
    await superuser.execute("UPDATE billing_runs SET customers_total = NULL")
    assert f"usance_billing_run_seconds_left{labels}" not in await metrics(billed_world)


@on_a_loop
async def test_a_run_is_not_dry_and_approved_at_once(world: World) -> None:
    body = {"as_of": START.isoformat(), "approve": True, "dry_run": True}
    answer = await world.send("POST", "/v1/billing_runs", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/approve"
