"""One frozen struct from the environment. Pure: a composition root hands the variables in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

import msgspec

from engine.errors import BillingError
from engine.mail_address import SmtpServer, read_smtp

LogLevel = Literal["debug", "info", "warning", "error"]
ROOT_HOME = Path("/var/lib/usance")
_EVENTS_DATABASE = re.compile(r"/[a-z_][a-z0-9_]*")
SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
NATS_SCHEMES = ("nats", "tls")
STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SUBJECT_PREFIX = re.compile(r"[a-z0-9_-]{1,32}(\.[a-z0-9_-]{1,32}){0,3}")


class SettingError(BillingError):
    """An environment variable that cannot be used; the sentence names it."""

    def __init__(self, *, variable: str, detail: str) -> None:
        """Keep the variable's name for whoever prints the error."""
        super().__init__("invalid_setting", f"{variable} {detail}")
        self.variable = variable


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the environment decides."""

    home: Path
    database_url: str | None = None
    """`postgresql://…`; None starts the embedded server under `home`."""
    clickhouse_url: str | None = None
    """`https://…`; where events lie. None keeps them in the database."""
    postgres_bin: Path | None = None
    """The `bin` of one PostgreSQL to use for the embedded server, instead of the usual search."""
    search_path: str = ""
    """The `PATH` in which an installed server is looked for."""
    host: str = "127.0.0.1"
    port: int = 8400
    log_level: LogLevel = "info"
    pool_max_size: int = 12
    statement_timeout_seconds: int = 30
    wait_seconds: int = 0
    """How long a request waits for the database before it is answered 503; 0: each its time."""
    drain_timeout_seconds: int = 20
    nats_urls: tuple[str, ...] = ()
    """Nodes of one NATS cluster; empty where nothing comes through JetStream."""
    nats_credentials: Path | None = None
    """A file of NATS credentials (`.creds`)."""
    nats_stream: str = "USAGE_EVENTS"
    nats_prefix: str = "usance"
    """Events of a seller come on `<prefix>.<seller id>.events`."""
    private_addresses: bool = False
    """Whether a tax provider that a seller names may lie in a private network, or without TLS."""
    smtp: SmtpServer | None = None
    """Where mails are handed over; without it they are held."""

    def __repr__(self) -> str:
        """All fields, with the password in the database's address left out."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["nats_urls"] = tuple(without_password(dsn=each) for each in self.nats_urls)
        for name in ("database_url", "clickhouse_url"):
            if shown[name] is not None:
                shown[name] = without_password(dsn=shown[name])
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def without_password(*, dsn: str) -> str:
    """The address as it may be shown in a log: the password replaced by `***`."""
    parts = urlsplit(dsn)
    credentials, at, hosts = parts.netloc.rpartition("@")
    if not at or ":" not in credentials:
        return dsn
    return urlunsplit(parts._replace(netloc=f"{credentials.partition(':')[0]}:***@{hosts}"))


def load_settings(*, environ: Mapping[str, str], is_root: bool, user_data: Path) -> Settings:
    """Settings from the variables in `environ`; an empty variable counts as unset.

    `user_data` is the directory for users' data when `XDG_DATA_HOME` names none (usually
    `~/.local/share`). Root's home is `/var/lib/usance`: the database server never runs as root,
    and no other account can look into root's own directory.

    Raises SettingError naming the variable that cannot be used.
    """
    return Settings(
        home=_home(environ=environ, is_root=is_root, user_data=user_data),
        database_url=_database_url(environ=environ),
        clickhouse_url=_clickhouse_url(environ=environ),
        postgres_bin=_absolute_path(environ=environ, variable="USANCE_POSTGRES_BIN"),
        search_path=environ.get("PATH", ""),
        host=environ.get("USANCE_HOST") or "127.0.0.1",
        port=_integer(environ=environ, variable="USANCE_PORT", default=8400, most=65_535),
        log_level=_log_level(environ=environ),
        pool_max_size=_integer(environ=environ, variable="USANCE_POOL_MAX_SIZE", default=12),
        statement_timeout_seconds=_integer(
            environ=environ, variable="USANCE_STATEMENT_TIMEOUT_SECONDS", default=30
        ),
        wait_seconds=_integer(
            environ=environ, variable="USANCE_WAIT_SECONDS", default=0, least=0, most=600
        ),
        drain_timeout_seconds=_integer(
            environ=environ, variable="USANCE_DRAIN_TIMEOUT_SECONDS", default=20
        ),
        nats_urls=_nats_urls(environ=environ),
        nats_credentials=_absolute_path(environ=environ, variable="USANCE_NATS_CREDENTIALS"),
        nats_stream=_name(
            environ=environ,
            variable="USANCE_NATS_STREAM",
            default="USAGE_EVENTS",
            form=STREAM_NAME,
        ),
        nats_prefix=_name(
            environ=environ, variable="USANCE_NATS_PREFIX", default="usance", form=SUBJECT_PREFIX
        ),
        private_addresses=bool(
            _integer(
                environ=environ,
                variable="USANCE_PRIVATE_ADDRESSES",
                default=0,
                least=0,
                most=1,
            )
        ),
        smtp=_smtp(environ=environ),
    )


def _home(*, environ: Mapping[str, str], is_root: bool, user_data: Path) -> Path:
    chosen = _absolute_path(environ=environ, variable="USANCE_HOME")
    if chosen is not None:
        return chosen
    if is_root:
        return ROOT_HOME
    # The XDG rules say that a relative value is to be ignored.
    given = Path(environ.get("XDG_DATA_HOME", ""))
    return (given if given.is_absolute() else user_data) / "usance"


def _absolute_path(*, environ: Mapping[str, str], variable: str) -> Path | None:
    text = environ.get(variable)
    if not text:
        return None
    path = Path(text)
    if not path.is_absolute():
        raise SettingError(variable=variable, detail=f"must be an absolute path, not {text!r}")
    return path


def _database_url(*, environ: Mapping[str, str]) -> str | None:
    variable = "USANCE_DATABASE_URL"
    text = environ.get(variable)
    if not text:
        return None
    # The value holds a password: no message repeats it.
    wanted = "must look like postgresql://user:password@host:5432/database"
    try:
        parts: SplitResult = urlsplit(text)
        several_hosts = "," in parts.netloc
        port_is_readable = several_hosts or parts.port is None or parts.port > 0
    except ValueError as error:
        raise SettingError(variable=variable, detail=wanted) from error
    if parts.scheme not in SCHEMES or not port_is_readable:
        raise SettingError(variable=variable, detail=wanted)
    if len(parts.path) < len("/d"):
        raise SettingError(variable=variable, detail="names no database after the host")
    # One spelling inside: asyncpg, libpq's tools and SQLAlchemy's URL start from it. It is put
    # together by hand because urlunsplit drops the empty host of a Unix socket's address.
    return f"postgresql://{text.partition('://')[2]}"


def _nats_urls(*, environ: Mapping[str, str]) -> tuple[str, ...]:
    variable = "USANCE_NATS_URL"
    given = [each.strip() for each in (environ.get(variable) or "").split(",") if each.strip()]
    for each in given:
        # The value may hold a password: no message repeats it.
        try:
            parts = urlsplit(each)
            usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            parts, usable = None, False
        if parts is None or parts.scheme not in NATS_SCHEMES or not usable:
            raise SettingError(
                variable=variable, detail="must look like nats://one:4222,nats://two:4222"
            )
    return tuple(given)


def _name(*, environ: Mapping[str, str], variable: str, default: str, form: re.Pattern[str]) -> str:
    text = environ.get(variable) or default
    if form.fullmatch(text) is None:
        raise SettingError(variable=variable, detail=f"cannot be {text!r}")
    return text


def _clickhouse_url(*, environ: Mapping[str, str]) -> str | None:
    variable = "USANCE_CLICKHOUSE_URL"
    text = environ.get(variable)
    if not text:
        return None
    wanted = "must look like https://user:password@host:8443/database"
    try:
        parts = urlsplit(text)
        named = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise SettingError(variable=variable, detail=wanted) from error
    if not named or _EVENTS_DATABASE.fullmatch(parts.path) is None:
        raise SettingError(variable=variable, detail=wanted)
    return text


def _smtp(*, environ: Mapping[str, str]) -> SmtpServer | None:
    variable = "USANCE_SMTP_URL"
    url = environ.get(variable)
    if not url:
        return None
    found = read_smtp(
        url=url,
        sender=environ.get("USANCE_SMTP_FROM") or None,
        ca_file=environ.get("USANCE_SMTP_CA_FILE") or None,
    )
    if isinstance(found, str):
        raise SettingError(variable=variable, detail=found)
    return found


def _integer(
    *,
    environ: Mapping[str, str],
    variable: str,
    default: int,
    least: int = 1,
    most: int = 2**31 - 1,
) -> int:
    text = environ.get(variable)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise SettingError(
            variable=variable, detail=f"must be a whole number from {least} to {most}, not {text!r}"
        )
    return int(text)


def _log_level(*, environ: Mapping[str, str]) -> LogLevel:
    text = (environ.get("USANCE_LOG_LEVEL") or "info").lower()
    levels = get_args(LogLevel)
    if text not in levels:
        raise SettingError(
            variable="USANCE_LOG_LEVEL", detail=f"must be one of {', '.join(levels)}, not {text!r}"
        )
    return cast("LogLevel", text)
