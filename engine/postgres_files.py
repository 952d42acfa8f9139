"""Where the embedded server lives, which account runs it, and the passwords kept beside it.

Only the data and the socket directory ever change owner, and no directory that existed before
is given other permissions: a home is the user's, not ours.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import pwd
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from engine.errors import BillingError, ErrorKind

PORT = 5432
# Room for the terminating NUL in sun_path is already taken off.
SOCKET_PATH_LIMIT_BYTES = 107 if sys.platform == "linux" else 103
ROLE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Nothing is inherited: PGDATA and friends would redirect the tools, and messages stay in English.
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
PR_SET_PDEATHSIG = 1


class PostgresError(BillingError):
    """The database server cannot be found, created, started or joined."""

    def __init__(self, code: str, detail: str) -> None:
        """Keep the stable code and one sentence that says what to do."""
        super().__init__(code, detail, kind=ErrorKind.UNAVAILABLE)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The operating-system account that runs the server."""

    name: str
    uid: int
    gid: int
    dropped: bool
    """True when we are root and the server runs as somebody else."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one embedded server under a home."""

    home: Path

    @property
    def root(self) -> Path:
        """The directory that holds everything below, owned by whoever runs us."""
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        """PGDATA, owned by the server's account, 0700."""
        return self.root / "data"

    @property
    def binaries(self) -> Path:
        """Copies of binaries that the server's account could not reach where they lie."""
        return self.root / "binaries"

    @property
    def start_log(self) -> Path:
        """What the server wrote before its own log files took over."""
        return self.root / "start.log"

    @property
    def lock(self) -> Path:
        """Held while a server is created or started, not while it runs."""
        return self.root / "lock"


def server_account() -> Account:
    """Our own account, or `nobody` for root, as which PostgreSQL refuses to run.

    Raises PostgresError when root has no `nobody` to change to.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(name=str(uid), uid=uid, gid=os.getegid(), dropped=False)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError(
            "postgres_account_missing",
            "PostgreSQL does not run as root and there is no account 'nobody' to run it: "
            "start Usance as another user, or set USANCE_DATABASE_URL.",
        ) from None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, dropped=True)


def die_with_parent(*, number: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before exec so that the kernel signals it when we are gone.

    It runs after the change of uid, which would clear the wish. None where only Linux could.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent_pid = os.getpid()

    def before_exec() -> None:
        if prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0 or os.getppid() != parent_pid:
            os._exit(127)

    return before_exec


def run_as(
    *, account: Account, arguments: list[str], timeout_seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a short command as the server's account, in `/`, with nothing inherited.

    Raises PermissionError when that account cannot reach the program.
    """
    return subprocess.run(
        arguments,
        cwd="/",
        env=CLEAN_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_seconds,
        preexec_fn=die_with_parent(number=signal.SIGKILL),
        user=account.uid if account.dropped else None,
        group=account.gid if account.dropped else None,
        extra_groups=[] if account.dropped else None,
    )


def prepare_place(*, place: Place, account: Account) -> None:
    """Make the home and our directory in it, and check that the server can walk to them.

    Raises PostgresError with one sentence when it cannot.
    """
    make_home(home=place.home)
    make_own_directory(path=place.root)
    if not account.dropped:
        return
    walk = run_as(account=account, arguments=["/bin/sh", "-c", 'cd "$1"', "sh", str(place.root)])
    if walk.returncode != 0:
        raise PostgresError(
            "postgres_home_unreachable",
            f"PostgreSQL runs as '{account.name}', which may not enter {place.home}: set "
            "USANCE_HOME to a directory it can walk to (by default /var/lib/usance), or set "
            "USANCE_DATABASE_URL.",
        )


def make_home(*, home: Path) -> None:
    """Create the home and its missing parents; leave those that exist as they are.

    Raises PostgresError when that is not possible.
    """
    missing = [path for path in (home, *home.parents) if not path.exists()]
    for path in reversed(missing):
        make_own_directory(path=path)
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        raise PostgresError(
            "home_not_writable",
            f"{home} is not a directory that may be written: set USANCE_HOME to another one.",
        )


def make_own_directory(*, path: Path) -> None:
    """Create one directory for the owner alone; for root others may pass through it."""
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        path.mkdir(mode=mode)  # open from the start: another process may walk through at once
        path.chmod(mode)  # ours, and whatever the umask says
    except FileExistsError:
        return
    except OSError as error:
        raise PostgresError(
            "home_not_writable",
            f"{path} cannot be created ({error.strerror}): set USANCE_HOME to another directory.",
        ) from error


def socket_directory(*, place: Place, account: Account) -> Path:
    """The directory of the socket: in the home, or a short private one when the path is long."""
    near = place.root / "run"
    if len(os.fsencode(near / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_LIMIT_BYTES:
        return near
    digest = hashlib.sha256(os.fsencode(place.home)).hexdigest()[:12]
    base = Path("/run") if account.dropped else Path(f"/run/user/{account.uid}")
    if not os.access(base, os.W_OK | os.X_OK):
        base = Path(tempfile.gettempdir())
    return base / f"usance-{account.uid}-{digest}"


def make_socket_directory(*, path: Path, account: Account) -> None:
    """Create the socket's directory, or check that the one there is the server's own.

    Raises PostgresError when somebody else's directory is in the way.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if account.dropped and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
        path.chmod(0o711)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o022:
        raise PostgresError(
            "postgres_socket_directory",
            f"{path} is not a directory of '{account.name}' alone: remove it or set USANCE_HOME.",
        )


@contextlib.contextmanager
def start_lock(*, place: Place, deadline_seconds: float) -> Generator[None]:
    """Hold the exclusive right to create and start the server; the kernel frees it on death.

    Raises PostgresError when another process keeps it beyond the deadline.
    """
    until = time.monotonic() + deadline_seconds
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise PostgresError(
                        "postgres_start_locked",
                        f"another process has been starting PostgreSQL in {place.root} for "
                        f"{deadline_seconds:.0f} seconds.",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def password_file(*, home: Path, role: str) -> Path:
    """Where the password of a database role is kept."""
    if ROLE_NAME.fullmatch(role) is None:
        raise PostgresError("invalid_role", f"{role!r} is not a name for a database role.")
    return home / "secrets" / role


def role_password(*, home: Path, role: str) -> str:
    """The password of a database role: 256 random bits, made at first use, in a 0600 file.

    Safe when several processes ask at once: they all get the first one's.
    """
    path = password_file(home=home, role=role)
    if not path.exists():
        make_home(home=home)
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        fresh = path.with_name(f".{role}.{secrets.token_hex(8)}")
        try:
            write_private(path=fresh, text=secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        sync_directory(path=path.parent)
    return path.read_text(encoding="ascii").strip()


def write_private(*, path: Path, text: str) -> None:
    """Write a new file that only its owner may read, and wait until it is on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync_directory(*, path: Path) -> None:
    """Make a rename or a link in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
