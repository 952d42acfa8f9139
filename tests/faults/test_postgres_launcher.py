"""Real servers in homes of their own, killed in every way that happened to somebody."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import asyncpg
import pytest

from engine.postgres import PostgresError, start_or_join
from tests.faults.embedded_homes import data_of, is_alive, mode_of, pid_of, query
from tests.processes import SECONDS, program, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="death signals and /proc are Linux's"),
    pytest.mark.timeout(5 * SECONDS),
]


def test_cold_and_warm_start(home, bin_dir):
    with start_or_join(home=home, bin_dir=bin_dir) as running:
        server = running.server
        assert server.owned and server.bin_dir.samefile(bin_dir)
        query(running.admin_dsn, "CREATE TABLE kept AS SELECT 7 AS number")
        shown = query(
            running.admin_dsn,
            "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', "
            "'synchronous_commit', 'listen_addresses', 'data_checksums', 'max_connections')",
        )
        assert dict(shown) == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "max_connections": "60",
        }
        first_pid = pid_of(home)
    assert not is_alive(home, first_pid)
    assert mode_of(data_of(home)) == 0o700
    assert mode_of(home / "secrets" / "postgres") == 0o600
    with start_or_join(home=home, bin_dir=bin_dir) as running:
        assert query(running.admin_dsn, "SELECT number FROM kept") == [(7,)]


def test_extensions_that_migrations_need_are_there(home, bin_dir):
    with start_or_join(home=home, bin_dir=bin_dir, throw_away=True) as running:
        for name in ("btree_gist", "pg_trgm", "pg_stat_statements"):
            query(running.admin_dsn, f"CREATE EXTENSION {name}")
        assert len(query(running.admin_dsn, "SELECT FROM pg_extension")) == 4


def test_committed_rows_survive_sigkill_of_the_server(home, bin_dir):
    with start_or_join(home=home, bin_dir=bin_dir) as running:
        query(running.admin_dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
        os.kill(pid_of(home), signal.SIGKILL)
        running.ensure_running()
        assert running.server.owned
        assert query(running.admin_dsn, "SELECT count(*) FROM kept") == [(1000,)]


def test_a_busy_backend_of_a_killed_server_does_not_block_the_next(home):
    with start_or_join(home=home, throw_away=True) as running:

        async def kill_under_load():
            connection = await asyncpg.connect(running.admin_dsn)
            sql = "SELECT count(*) FROM generate_series(1, 20000) a, generate_series(1, 2000000) b"
            running_query = asyncio.ensure_future(connection.execute(sql))
            await asyncio.sleep(0.2)
            os.kill(pid_of(home), signal.SIGKILL)
            running.ensure_running()
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await running_query

        asyncio.run(kill_under_load())
        assert query(running.admin_dsn, "SELECT 1") == [(1,)]


def test_the_server_dies_with_its_owner(home, sharers):
    owner = sharers(home)
    assert owner.told()[0]
    pid = pid_of(home)
    owner.process.kill()
    wait_until(lambda: not is_alive(home, pid))
    with start_or_join(home=home) as running:
        assert running.server.owned


def test_a_second_process_joins_and_leaves_the_server_running(home, sharers):
    with start_or_join(home=home, throw_away=True) as running:
        guest = sharers(home)
        owned, _, admin_dsn = guest.told()
        assert not owned and admin_dsn == running.admin_dsn
        assert guest.leave() == 0
        assert query(running.admin_dsn, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("ending", ["leaves", "is killed"])
def test_a_borrower_starts_the_server_again_when_its_owner(home, sharers, ending):
    owner = sharers(home)
    assert owner.told()[0]
    with start_or_join(home=home) as running:
        assert not running.server.owned
        dsn = running.admin_dsn
        query(dsn, "CREATE TABLE kept AS SELECT 7 AS number")
        if ending == "leaves":
            assert owner.leave() == 0
        else:
            owner.process.kill()
            owner.process.wait()
        running.ensure_running()
        assert running.server.owned
        assert running.admin_dsn == dsn
        assert query(dsn, "SELECT number FROM kept") == [(7,)]


def test_a_zombie_of_a_frozen_owner_is_not_taken_for_a_server(home, sharers):
    owner = sharers(home)
    assert owner.told()[0]
    with start_or_join(home=home) as running:
        owner.process.send_signal(signal.SIGSTOP)
        pid = pid_of(home)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: " Z " in Path(f"/proc/{pid}/stat").read_text())
        running.ensure_running()
        assert running.server.owned
        assert query(running.admin_dsn, "SELECT 1") == [(1,)]


def test_a_reused_pid_in_the_pid_file_does_not_stop_a_start(home):
    with start_or_join(home=home, throw_away=True) as running:
        os.kill(pid_of(home), signal.SIGKILL)
        wait_until(lambda: running._child.poll() is not None)
    notes = [
        data_of(home) / "postmaster.pid",
        home / "postgres" / "run" / ".s.PGSQL.5432.lock",
    ]
    with program(["sleep", "infinity"]) as stranger:
        for file in notes:
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        with start_or_join(home=home, throw_away=True) as running:
            assert query(running.admin_dsn, "SELECT 1") == [(1,)]


def test_four_processes_at_once_make_one_server(home, sharers):
    told = [one.told() for one in [sharers(home) for _ in range(4)]]
    assert sorted(owned for owned, _, _ in told) == [False, False, False, True]
    assert len({admin_dsn for _, _, admin_dsn in told}) == 1


def killed_in_initdb(home, sharers):
    """Whether the process died before it was through with initdb."""
    started = sharers(home)
    begun = "postgres/data.new-*/PG_VERSION"
    wait_until(lambda: list(home.glob(begun)) or data_of(home).exists())
    started.process.kill()
    started.process.wait()
    return not data_of(home).exists()


def test_a_killed_initdb_leaves_nothing_half_made(home, sharers):
    homes = (home / str(number) for number in range(20))
    home = next(each for each in homes if killed_in_initdb(each, sharers))
    with start_or_join(home=home, throw_away=True) as running:
        assert query(running.admin_dsn, "SELECT 1") == [(1,)]
    assert not list(home.glob("postgres/data.new-*"))


def test_a_server_that_cannot_start_says_why_at_once(home):
    with start_or_join(home=home, throw_away=True):
        pass
    with (
        pytest.raises(PostgresError) as caught,
        start_or_join(home=home, overrides={"shared_buffers": "plenty"}),
    ):
        pass
    assert caught.value.code == "postgres_start_failed"
    assert "shared_buffers" in caught.value.detail


def test_only_the_main_thread_may_start_the_server(home):
    caught = []

    def start():
        with pytest.raises(PostgresError) as error, start_or_join(home=home, throw_away=True):
            pass
        caught.append(error.value.code)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert caught == ["postgres_wrong_thread"]
