"""The data directory: made in one step, and read for signs of a server that uses it.

A pid alone proves nothing: it may be a zombie's, or by now belong to another program. A server
is recognised by its working directory, which PostgreSQL sets to the data directory.
"""

import os
import secrets
import shutil
import signal
import time
from pathlib import Path

import msgspec

from engine.postgres_address import SUPERUSER
from engine.postgres_binaries import Binaries
from engine.postgres_files import (
    PORT,
    Account,
    Place,
    PostgresError,
    role_password,
    run_as,
    sync_directory,
    write_private,
)

PROC = Path("/proc")
FIRST_BUILTIN_LOCALE_MAJOR = 17
ORPHANS_ASKED_SECONDS = 2.5
ORPHANS_DEADLINE_SECONDS = 30.0


class PidFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `postmaster.pid` says; lines that are not written yet are empty or 0."""

    pid: int
    port: int
    socket_dir: str
    status: str
    """`starting`, `ready`, `standby` or `stopping`."""


def read_pid_file(*, data: Path) -> PidFile | None:
    """The notes a server keeps in its data directory, None when there are none to read."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    lines += [""] * 8
    if not lines[0].strip().isdigit():
        return None
    return PidFile(
        pid=int(lines[0]),
        port=int(lines[3]) if lines[3].strip().isdigit() else 0,
        socket_dir=lines[4].strip(),
        status=lines[7].strip(),
    )


def data_major(*, data: Path) -> int | None:
    """The major version that wrote the data directory, None when there is no cluster yet."""
    try:
        text = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else 0


def check_data_directory(*, place: Place, account: Account) -> None:
    """Refuse a data directory that the server's account could not open anyway, in words.

    Raises PostgresError for another owner and for a directory that holds no cluster.
    """
    if not place.data.exists():
        return
    owner = place.data.stat().st_uid
    if owner != account.uid:
        raise PostgresError(
            "postgres_data_owner",
            f"{place.data} belongs to uid {owner} and the server would run as uid {account.uid}: "
            "start Usance as the user who created it, or choose another USANCE_HOME.",
        )
    if data_major(data=place.data) is None:
        raise PostgresError(
            "postgres_data_unknown",
            f"{place.data} is there but holds no PostgreSQL cluster: move it away, or choose "
            "another USANCE_HOME.",
        )


def create_cluster(*, place: Place, binaries: Binaries, account: Account, throw_away: bool) -> None:
    """Run initdb in a sibling directory and rename it, so that a killed one leaves nothing.

    The caller holds the start lock. Raises PostgresError with what initdb said.
    """
    for leftover in place.root.glob("data.new-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    fresh = place.root / f"data.new-{secrets.token_hex(6)}"
    handed_over = fresh.with_name(f"{fresh.name}.password")
    fresh.mkdir(mode=0o700)
    try:
        write_private(path=handed_over, text=role_password(home=place.home, role=SUPERUSER))
        if account.dropped:
            for path in (fresh, handed_over):
                os.chown(path, account.uid, account.gid)
        made = run_as(
            account=account,
            arguments=_initdb(binaries, data=fresh, password=handed_over, throw_away=throw_away),
            timeout_seconds=300,
        )
        if made.returncode != 0:
            said = " ".join((made.stderr or made.stdout).split())[-600:]
            raise PostgresError("postgres_create_failed", f"initdb could not finish: {said}")
        fresh.rename(place.data)
        if not throw_away:
            sync_directory(path=place.root)
    finally:
        handed_over.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)


def _initdb(binaries: Binaries, *, data: Path, password: Path, throw_away: bool) -> list[str]:
    # The builtin provider sorts by code point on every machine, so an upgrade of the C library
    # cannot silently corrupt indexes.
    locale = (
        ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if binaries.major >= FIRST_BUILTIN_LOCALE_MAJOR
        else ["--locale=C.UTF-8"]
    )
    return [
        str(binaries.bin_dir / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={password}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--data-checksums",
        *locale,
        *(["--no-sync"] if throw_away else []),
    ]


def postmaster_lives(*, pid: int, data: Path) -> bool:
    """Whether this pid is a live server of this data directory, as far as can be seen."""
    if not PROC.joinpath("self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    if _command(pid) != "postgres":
        return False
    try:
        return PROC.joinpath(str(pid), "cwd").readlink() == data
    except PermissionError:
        # Containers often withhold the right to look; the command line is open to all.
        written = PROC.joinpath(str(pid), "cmdline").read_bytes().split(b"\0")
        return os.fsencode(data) in written
    except OSError:
        return False


def clear_after_crash(*, data: Path, sockets: Path, account: Account) -> None:
    """After a crash: end what the dead server left running, then drop its lock files.

    PostgreSQL itself copes with a pid that is free. It refuses to start when the pid is alive, be
    it a zombie or a stranger with a reused number, so the files are removed then, but only once
    no process uses the data directory any more. The socket's directory serves this data
    directory alone. Raises PostgresError when that cannot be reached.
    """
    started_at = time.monotonic()
    while users := _users_of(data, account=account):
        waited = time.monotonic() - started_at
        for pid, proven in users.items():
            if proven:
                _signal(pid, signal.SIGQUIT if waited < ORPHANS_ASKED_SECONDS else signal.SIGKILL)
        if waited > ORPHANS_DEADLINE_SECONDS:
            raise PostgresError(
                "postgres_orphans",
                f"processes of a PostgreSQL that died may still use {data} (pid "
                f"{', '.join(map(str, users))}): end them and start again.",
            )
        time.sleep(0.02)
    note = read_pid_file(data=data)
    if note is not None and PROC.joinpath(str(note.pid)).exists():
        for path in (sockets / f".s.PGSQL.{PORT}.lock", data / "postmaster.pid"):
            path.unlink(missing_ok=True)


def _users_of(data: Path, *, account: Account) -> dict[int, bool]:
    """Live processes of PostgreSQL by pid: True for this directory's, False when unsure."""
    users: dict[int, bool] = {}
    for entry in PROC.glob("[0-9]*"):
        pid = int(entry.name)
        if _command(pid) != "postgres":
            continue
        try:
            if entry.joinpath("cwd").readlink() == data:
                users[pid] = True
        except PermissionError:
            if _may_be_ours(entry, data=data, account=account):
                users[pid] = False
        except OSError:
            continue
    return users


def _may_be_ours(entry: Path, *, data: Path, account: Account) -> bool:
    """For a process whose directory may not be seen: its owner, and its server's command line."""
    try:
        if entry.stat().st_uid != account.uid:
            return False
        written = entry.joinpath("cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"-D" not in written or os.fsencode(data) in written


def _command(pid: int) -> str | None:
    """The program's name of a live process, None for a zombie or a pid that is free."""
    try:
        text = PROC.joinpath(str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    return None if rest.split()[0] in {"Z", "X"} else name


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
