"""The embedded PostgreSQL: started when nobody runs it, joined when somebody does.

The server is our child and dies with us, whatever ends us. Several processes may share it: the
first one owns it, the others borrow it, and a borrower whose owner has gone starts it again with
`ensure_running`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from pathlib import Path

import msgspec

from engine.postgres_address import SUPERUSER, answered_version, role_dsn, socket_dsn
from engine.postgres_binaries import (
    Binaries,
    choose_binaries,
    reachable_binaries,
    supports_lz4,
)
from engine.postgres_cluster import (
    PidFile,
    check_data_directory,
    clear_after_crash,
    create_cluster,
    data_major,
    postmaster_lives,
    read_pid_file,
)
from engine.postgres_configuration import memory_available, server_settings
from engine.postgres_files import (
    CLEAN_ENVIRONMENT,
    Place,
    PostgresError,
    die_with_parent,
    make_socket_directory,
    prepare_place,
    role_password,
    server_account,
    socket_directory,
    start_lock,
)
from engine.settings import Settings

__all__ = [
    "ExternalDatabase",
    "PostgresError",
    "RunningServer",
    "Server",
    "dsn_for",
    "resolve",
    "role_dsn",
    "role_password",
    "start_or_join",
]

POLL_SECONDS = 0.02
DEADLINE_SECONDS = 60.0
ANSWER_SECONDS = 30.0
SHARED_MEMORY_RETRY_SECONDS = 30.0
STOP_SECONDS = 20.0
LAST_WORDS_SECONDS = 5.0
# After a crash the write-ahead log is replayed first: giving up early would only start over.
RECOVERY_PATIENCE = 20


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answered: where it is and who started it."""

    admin_dsn: str
    """Superuser, database `postgres`, over the Unix socket, with the password."""
    socket_dir: Path
    port: int
    bin_dir: Path
    """Holds `psql`, `pg_dump` and the other tools of the same version."""
    version: str
    owned: bool
    """Started by this process, and stopped by it."""


class ExternalDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """A database somebody else runs: nothing is started and nothing is stopped."""

    admin_dsn: str

    def ensure_running(self) -> None:
        """Nothing to do: the pool reconnects when the database is back."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to find, create and start the server of one home."""

    home: Path
    deadline_seconds: float = DEADLINE_SECONDS
    search_path: str = ""
    bin_dir: Path | None = None
    throw_away: bool = False
    overrides: Mapping[str, str] = {}


class RunningServer:
    """A server in use by this process, as its owner or as a borrower. Not thread-safe."""

    def __init__(self, *, launch: Launch) -> None:
        """Remember how to start; nothing runs before `ensure_running`."""
        self._launch = launch
        self._place = Place(home=launch.home.resolve())
        self._account = server_account()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The server as it was when last found running."""
        assert self._server is not None
        return self._server

    @property
    def admin_dsn(self) -> str:
        """The superuser's address; it stays the same when the server is started again."""
        return self.server.admin_dsn

    def ensure_running(self) -> None:
        """Return at once when the server answers; else start it, or join who does.

        Call it from the main thread: the kernel ties the server's life to the thread that
        started it. Takes some 10 ms when all is well, so a process may call it every second.
        Raises PostgresError when there is no server to be had.
        """
        self._server = self._look() or self._start_under_lock()

    def stop(self) -> None:
        """Stop the server if this process started it: fast, in order, at the worst by force."""
        child = self._child
        if child is None or os.getpid() != self._owner_pid:
            return
        for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 5.0)):
            if child.poll() is None:
                child.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=seconds)
        if child.poll() is None:
            child.kill()
            child.wait()
        self._child = None

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _look(self) -> Server | None:
        """The server that runs and answers now, if any."""
        self._reap()
        note = read_pid_file(data=self._place.data)
        if note is None or note.status != "ready":
            return None
        if not postmaster_lives(pid=note.pid, data=self._place.data):
            return None
        return self._ask(note=note)

    def _ask(self, *, note: PidFile) -> Server | None:
        """Connect as our user; None when the server does not take connections now."""
        dsn = socket_dsn(
            socket_dir=Path(note.socket_dir),
            port=note.port,
            password=role_password(home=self._place.home, role=SUPERUSER),
        )
        version = answered_version(dsn=dsn, timeout_seconds=ANSWER_SECONDS)
        if version is None:
            return None
        return Server(
            admin_dsn=dsn,
            socket_dir=Path(note.socket_dir),
            port=note.port,
            bin_dir=_running_bin_dir(data=self._place.data),
            version=version,
            owned=self._child is not None and self._child.pid == note.pid,
        )

    def _start_under_lock(self) -> Server:
        patience = self._launch.deadline_seconds * RECOVERY_PATIENCE
        prepare_place(place=self._place, account=self._account)
        with start_lock(place=self._place, deadline_seconds=patience):
            check_data_directory(place=self._place, account=self._account)
            return self._wait_for_other() or self._start()

    def _wait_for_other(self) -> Server | None:
        """Join a server that is there, even one that still starts; None when there is none."""
        until = time.monotonic() + self._launch.deadline_seconds * RECOVERY_PATIENCE
        ready_until = time.monotonic() + self._launch.deadline_seconds
        data = self._place.data
        while True:
            server = self._look()
            if server is not None:
                return server
            note = read_pid_file(data=data)
            if note is None or not postmaster_lives(pid=note.pid, data=data):
                return None
            if time.monotonic() > (ready_until if note.status == "ready" else until):
                raise PostgresError(
                    "postgres_not_answering",
                    f"PostgreSQL runs in {data} (pid {note.pid}, {note.status or 'starting'}) "
                    "and does not answer.",
                )
            time.sleep(POLL_SECONDS)

    def _start(self) -> Server:
        launch, place, account = self._launch, self._place, self._account
        major = data_major(data=place.data)
        found = choose_binaries(
            search_path=launch.search_path, bin_dir=launch.bin_dir, wanted_major=major
        )
        binaries = reachable_binaries(binaries=found, place=place, account=account)
        if major is None:
            create_cluster(
                place=place, binaries=binaries, account=account, throw_away=launch.throw_away
            )
        crashed = read_pid_file(data=place.data) is not None
        if crashed:
            self.stop()  # reaps our own child: by now it is dead, or dying
            sockets = socket_directory(place=place, account=account)
            clear_after_crash(data=place.data, sockets=sockets, account=account)
        started_at = time.monotonic()
        patience = launch.deadline_seconds * (RECOVERY_PATIENCE if crashed else 1)
        while True:
            self._spawn(binaries=binaries)
            try:
                return self._wait_until_ready(until=started_at + patience, binaries=binaries)
            except PostgresError as error:
                waited = time.monotonic() - started_at
                in_use = "pre-existing shared memory block" in error.detail
                if not in_use or waited > SHARED_MEMORY_RETRY_SECONDS:
                    raise
                time.sleep(0.1)

    def _spawn(self, *, binaries: Binaries) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise PostgresError(
                "postgres_wrong_thread",
                "PostgreSQL must be started from the main thread: it would be stopped as soon "
                "as the thread that started it ends.",
            )
        account, place = self._account, self._place
        sockets = socket_directory(place=place, account=account)
        make_socket_directory(path=sockets, account=account)
        settings = {
            **server_settings(
                memory_bytes=memory_available(),
                lz4=supports_lz4(binaries=binaries),
                private_socket=not account.dropped,
            ),
            **self._launch.overrides,
        }
        arguments = [str(binaries.bin_dir / "postgres"), "-D", str(place.data), "-k", str(sockets)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        with place.start_log.open("wb") as log:
            self._child = subprocess.Popen(
                arguments,
                cwd="/",
                env=CLEAN_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for us; we stop the server
                preexec_fn=die_with_parent(number=signal.SIGINT),  # noqa: PLW1509 only a system call
                user=account.uid if account.dropped else None,
                group=account.gid if account.dropped else None,
                extra_groups=[] if account.dropped else None,
            )

    def _wait_until_ready(self, *, until: float, binaries: Binaries) -> Server:
        child = self._child
        assert child is not None
        while True:
            if child.poll() is not None:
                self._child = None
                said = last_words(place=self._place, pid=child.pid)
                raise PostgresError(
                    "postgres_start_failed",
                    f"PostgreSQL {binaries.version} in {self._place.data} ended with status "
                    f"{child.returncode}: {said}",
                )
            note = read_pid_file(data=self._place.data)
            if note is not None and note.pid == child.pid and note.status == "ready":
                server = self._ask(note=note)
                if server is not None:
                    return server
            if time.monotonic() > until:
                self.stop()
                raise PostgresError(
                    "postgres_start_slow",
                    f"PostgreSQL {binaries.version} in {self._place.data} was not ready in time: "
                    f"{log_tail(place=self._place)}",
                )
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def start_or_join(
    *,
    home: Path,
    deadline_seconds: float = DEADLINE_SECONDS,
    search_path: str = "",
    bin_dir: Path | None = None,
    throw_away: bool = False,
    overrides: Mapping[str, str] | None = None,
) -> Generator[RunningServer]:
    """Run the server of `home`, or share the one that runs; the starter stops it at the end.

    `bin_dir` chooses one PostgreSQL, else `search_path` (a `PATH`) is part of the search.
    `throw_away` creates a cluster without waiting for the disk and `overrides` replaces server
    settings: both are for tests. Must be called from the main thread. Raises PostgresError.
    """
    if sys.platform == "win32":
        raise PostgresError(
            "postgres_platform",
            "the embedded PostgreSQL runs on Linux and macOS: set USANCE_DATABASE_URL.",
        )
    launch = Launch(
        home=home,
        deadline_seconds=deadline_seconds,
        search_path=search_path,
        bin_dir=bin_dir,
        throw_away=throw_away,
        overrides=overrides or {},
    )
    running = RunningServer(launch=launch)
    try:
        running.ensure_running()
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def resolve(
    *, settings: Settings, deadline_seconds: float = DEADLINE_SECONDS
) -> Generator[RunningServer | ExternalDatabase]:
    """The database to use: the one `USANCE_DATABASE_URL` names, else the embedded server's.

    Both kinds have `admin_dsn` and `ensure_running()`. Raises PostgresError.
    """
    if settings.database_url is not None:
        yield ExternalDatabase(admin_dsn=settings.database_url)
        return
    with start_or_join(
        home=settings.home,
        deadline_seconds=deadline_seconds,
        search_path=settings.search_path,
        bin_dir=settings.postgres_bin,
    ) as running:
        yield running


def dsn_for(*, server: Server, user: str, password: str, database: str) -> str:
    """The address of one database of an embedded server for one role."""
    return role_dsn(admin_dsn=server.admin_dsn, user=user, password=password, database=database)


def _running_bin_dir(*, data: Path) -> Path:
    """Where the running server's program lies: it keeps its own command line in a file."""
    command = (data / "postmaster.opts").read_text(encoding="utf-8").partition(' "')[0]
    return Path(command.strip()).parent


def log_tail(*, place: Place, lines: int = 12) -> str:
    """The last lines the server wrote, on one line, newest file last."""
    said: list[str] = []
    files = sorted((place.data / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in (*files[-1:], place.start_log):
        with contextlib.suppress(OSError):
            said += path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return " | ".join(line.strip() for line in said if line.strip())


def last_words(*, place: Place, pid: int) -> str:
    """The log's tail once the collector, which outlives the server, has written all of it."""
    until = time.monotonic() + LAST_WORDS_SECONDS
    ended = f"[{pid}] LOG:  database system is shut down"
    while True:
        tail = log_tail(place=place)
        early = "FATAL" in place.start_log.read_text(encoding="utf-8", errors="replace")
        if early or ended in tail or time.monotonic() > until:
            return tail
        time.sleep(POLL_SECONDS)
