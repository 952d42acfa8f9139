"""Real servers in homes of their own, killed in every way that happened to somebody."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from engine.postgres import (
    ExternalDatabase,
    PostgresError,
    RunningServer,
    dsn_for,
    resolve,
    role_dsn,
    role_password,
    start_or_join,
)
from engine.postgres_binaries import PREFERRED_PACKAGE, choose_binaries, find_binaries
from engine.postgres_cluster import postmaster_lives, read_pid_file
from engine.postgres_doctor import doctor_report
from engine.settings import Settings

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="death signals and /proc are Linux's"),
    pytest.mark.timeout(60),
]
PROJECT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another account")

# Another process that shares a home: one line out for each line in, and the end at end of input.
SHARER = """
import asyncio, asyncpg, concurrent.futures.thread, json, os, sys
from pathlib import Path
from engine.postgres import start_or_join
import encodings.ascii, encodings.idna  # what the interpreter would load too late
home, uid = Path(sys.argv[1]), int(sys.argv[2])
if uid != os.geteuid():
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
with start_or_join(home=home, throw_away=True) as running:
    while True:
        server = running.server
        print(json.dumps([server.owned, str(server.bin_dir), server.admin_dsn]), flush=True)
        if not sys.stdin.readline():
            break
        running.ensure_running()
"""


class Sharer:
    """A second process on the same home."""

    def __init__(self, home, *, uid=None, first_path=PROJECT):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHARER, str(home), str(os.geteuid() if uid is None else uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": f"{first_path}:{PROJECT}"},
        )

    def told(self):
        owned, bin_dir, admin_dsn = json.loads(self.process.stdout.readline())
        return owned, Path(bin_dir), admin_dsn

    def ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.told()

    def leave(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait(timeout=30)
        self.process.stdout.close()
        return status


@pytest.fixture
def sharers():
    started = []

    def start(home, **how):
        started.append(Sharer(home, **how))
        return started[-1]

    yield start
    for one in started:
        one.leave()


@pytest.fixture
def home():
    """pytest's own directories are closed to the server's account, so this one is not there."""
    parent = Path(tempfile.mkdtemp(prefix="usance-"))
    parent.chmod(0o711)
    yield parent / "home"
    shutil.rmtree(parent)


@pytest.fixture(params=["packaged", "installed"])
def bin_dir(request):
    found = find_binaries(search_path=os.environ["PATH"], bin_dir=None)
    wanted = {one.source == "installed": one for one in reversed(list(found))}
    if (request.param == "installed") not in wanted:
        pytest.skip(f"NOT TESTED: no {request.param} PostgreSQL on this machine")
    return wanted[request.param == "installed"].bin_dir


def query(dsn, sql):
    async def fetch():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def data_of(home):
    return home / "postgres" / "data"


def pid_of(home):
    return read_pid_file(data=data_of(home)).pid


def is_alive(home, pid):
    return postmaster_lives(pid=pid, data=data_of(home))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_cold_and_warm_start(home, bin_dir):
    with start_or_join(home=home, bin_dir=bin_dir) as running:
        server = running.server
        assert server.owned and server.bin_dir == bin_dir
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


def test_addresses_for_roles_work_for_every_client(home):
    with start_or_join(home=home, throw_away=True) as running:
        password = role_password(home=home, role="usance_app")
        query(running.admin_dsn, f"CREATE ROLE usance_app LOGIN PASSWORD '{password}'")
        query(running.admin_dsn, 'CREATE DATABASE "a b/c"')
        dsn = dsn_for(server=running.server, user="usance_app", password=password, database="a b/c")
        wanted = [("usance_app", "a b/c")]
        who = "SELECT current_user::text, current_database()::text"
        assert query(dsn, who) == wanted

        async def by_sqlalchemy():
            engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:", 1))
            async with engine.connect() as connection:
                rows = [tuple(row) for row in await connection.execute(text(who))]
            await engine.dispose()
            return rows

        assert asyncio.run(by_sqlalchemy()) == wanted
        psql = subprocess.run(
            [running.server.bin_dir / "psql", dsn, "-XAtF,", "-c", who],
            capture_output=True,
            text=True,
        )
        assert psql.stdout == "usance_app,a b/c\n"
        with pytest.raises(asyncpg.InvalidPasswordError):
            query(role_dsn(admin_dsn=dsn, user="usance_app", password="wrong"), who)


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
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        for file in notes:
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        with start_or_join(home=home, throw_away=True) as running:
            assert query(running.admin_dsn, "SELECT 1") == [(1,)]
    finally:
        stranger.kill()
        stranger.wait()


def test_four_processes_at_once_make_one_server(home, sharers):
    told = [one.told() for one in [sharers(home) for _ in range(4)]]
    assert sorted(owned for owned, _, _ in told) == [False, False, False, True]
    assert len({admin_dsn for _, _, admin_dsn in told}) == 1


def test_a_long_home_has_its_socket_elsewhere(home):
    long_home = home / ("d" * 60) / ("e" * 60)
    with start_or_join(home=long_home, throw_away=True) as running:
        sockets = running.server.socket_dir
        assert not sockets.is_relative_to(home)
        assert query(running.admin_dsn, "SELECT 1") == [(1,)]
        assert mode_of(sockets) & 0o022 == 0
        with start_or_join(home=long_home) as joined:
            assert joined.admin_dsn == running.admin_dsn
    sockets.rmdir()


def test_another_major_version_is_refused_in_words(home):
    with start_or_join(home=home, throw_away=True) as running:
        version = running.server.version
    written = data_of(home) / "PG_VERSION"
    written.write_text("9\n")
    with pytest.raises(PostgresError) as caught, start_or_join(home=home):
        pass
    assert caught.value.code == "postgres_version_mismatch"
    assert "PostgreSQL 9" in caught.value.detail and version in caught.value.detail
    assert written.read_text() == "9\n"


def test_a_killed_initdb_leaves_nothing_half_made(home, sharers):
    started = sharers(home)
    wait_until(lambda: list(home.glob("postgres/data.new-*/PG_VERSION")))
    started.process.kill()
    started.process.wait()
    assert not data_of(home).exists()
    with start_or_join(home=home, throw_away=True) as running:
        assert query(running.admin_dsn, "SELECT 1") == [(1,)]
    assert not list(home.glob("postgres/data.new-*"))


def test_no_permission_of_the_users_directories_changes(home):
    modes = {home.parent: 0o751, home: 0o715, home / "theirs": 0o640}
    home.mkdir()
    (home / "theirs").write_text("untouched")
    for path, mode in modes.items():
        path.chmod(mode)
    owners = {path: path.stat().st_uid for path in modes}
    with start_or_join(home=home, throw_away=True):
        pass
    assert {path: mode_of(path) for path in modes} == modes
    assert {path: path.stat().st_uid for path in modes} == owners


@as_root
def test_a_closed_home_is_refused_and_stays_closed(home):
    home.parent.chmod(0o700)
    with pytest.raises(PostgresError) as caught, start_or_join(home=home):
        pass
    assert caught.value.code == "postgres_home_unreachable"
    assert "USANCE_HOME" in caught.value.detail
    assert mode_of(home.parent) == 0o700
    assert not data_of(home).exists()
    report = {one.name: one for one in doctor_report(settings=Settings(home=home))}
    assert report["home"].level == "fail"


@as_root
def test_binaries_behind_a_closed_directory_are_copied(home, sharers):
    found = list(find_binaries(search_path="", bin_dir=None))
    if not found or found[0].source != PREFERRED_PACKAGE:
        pytest.skip("NOT TESTED: the extra 'embedded' is not installed")
    package = found[0].bin_dir.parents[1]
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    for path in (package, package.with_name(f"{package.name}.libs")):
        if path.exists():
            shutil.copytree(path, closed / path.name)
    for _ in range(2):
        owner = sharers(home, first_path=closed)
        owned, bin_dir, admin_dsn = owner.told()
        assert owned and bin_dir.is_relative_to(home / "postgres" / "binaries")
        assert query(admin_dsn, "SELECT 1") == [(1,)]
        assert owner.leave() == 0
    assert mode_of(closed) == 0o700


@as_root
def test_an_ordinary_user_runs_the_server_as_himself(home, sharers):
    home.mkdir()
    home.chmod(0o700)
    os.chown(home, 65534, 65534)
    owner, guest = sharers(home, uid=65534), sharers(home, uid=65534)
    assert {owner.told()[0], guest.told()[0]} == {False, True}
    first = pid_of(home)
    assert data_of(home).stat().st_uid == 65534
    assert (home / "secrets" / "postgres").stat().st_uid == 65534
    assert mode_of(home / "postgres" / "run") == 0o700
    os.kill(first, signal.SIGKILL)
    told = owner.ask()
    assert query(told[2], "SELECT 1") == [(1,)]
    assert pid_of(home) != first


def test_a_server_that_cannot_start_says_why_at_once(home):
    with start_or_join(home=home, throw_away=True):
        pass
    began = time.monotonic()
    with (
        pytest.raises(PostgresError) as caught,
        start_or_join(home=home, overrides={"shared_buffers": "plenty"}),
    ):
        pass
    assert caught.value.code == "postgres_start_failed"
    assert "shared_buffers" in caught.value.detail
    assert time.monotonic() - began < 5


def test_lost_passwords_are_named_as_the_cause(home):
    with start_or_join(home=home, throw_away=True):
        pass
    (home / "secrets" / "postgres").write_text("0" * 64)
    with pytest.raises(PostgresError) as caught, start_or_join(home=home):
        pass
    assert caught.value.code == "postgres_password_refused"
    assert read_pid_file(data=data_of(home)) is None


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


def test_processes_agree_on_a_role_password(home):
    code = (
        "import sys; from pathlib import Path; from engine.postgres import role_password;"
        "print(role_password(home=Path(sys.argv[1]), role='usance_app'))"
    )
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        for _ in range(3)
    ]
    answers = {one.communicate(timeout=30)[0] for one in asked}
    assert answers == {role_password(home=home, role="usance_app") + "\n"}
    assert [path.name for path in (home / "secrets").iterdir()] == ["usance_app"]
    assert mode_of(home / "secrets" / "usance_app") == 0o600
    with pytest.raises(PostgresError):
        role_password(home=home, role="../escape")


def test_an_address_from_outside_starts_nothing(home):
    settings = Settings(home=home, database_url="postgresql://u:p@db.example/billing")
    with resolve(settings=settings) as database:
        assert isinstance(database, ExternalDatabase)
        database.ensure_running()
        assert database.admin_dsn == settings.database_url
    assert not home.exists()


def test_without_an_address_the_embedded_server_is_used(home):
    settings = Settings(home=home, search_path=os.environ["PATH"])
    with resolve(settings=settings) as database:
        assert isinstance(database, RunningServer)
        report = {one.name: one for one in doctor_report(settings=settings)}
        assert {one.level for one in report.values()} == {"ok"}, report
        assert report["server"].detail == f"pid {pid_of(home)}, ready"
        assert report["fsync"].detail == "on"
    data_of(home).chmod(0o755)
    (home / "secrets" / "postgres").chmod(0o644)
    (data_of(home) / "postmaster.pid").write_text(f"{os.getpid()}\n")
    report = {one.name: one for one in doctor_report(settings=settings)}
    levels = {name: report[name].level for name in ("data", "secrets", "server")}
    assert levels == {"data": "fail", "secrets": "warn", "server": "warn"}


def test_doctor_looks_and_changes_nothing(home):
    report = doctor_report(settings=Settings(home=home, search_path=os.environ["PATH"]))
    assert {one.level for one in report} == {"ok"}, report
    assert not home.exists()
    outside = Settings(home=home, database_url=f"postgresql://u:secret@/d?host={home}")
    report = doctor_report(settings=outside)
    assert report[-1].level == "fail"
    assert "secret" not in repr(report)


def test_no_postgresql_at_all_is_one_sentence(home):
    with pytest.raises(PostgresError) as caught:
        choose_binaries(search_path="", bin_dir=home, wanted_major=None)
    assert caught.value.code == "postgres_not_found"
    assert "embedded" in caught.value.detail and "USANCE_DATABASE_URL" in caught.value.detail
