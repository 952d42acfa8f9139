"""What the database says when a caller, and not the code, is the reason."""

import re
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from engine.errors import BillingError, ErrorKind, FieldError

_KEY_CONSTRAINT: Final = re.compile(r"_seller_key(_version)?_key\Z")
_BUSY: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.TooManyConnectionsError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    PoolTimeoutError,
    ConnectionError,
    TimeoutError,
)


def _origin(error: BaseException) -> BaseException:
    """The driver's own error under the wrappers around it."""
    found = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    while isinstance(found.__cause__, asyncpg.PostgresError | asyncpg.InterfaceError):
        found = found.__cause__
    return found


def anticipated(error: BaseException) -> BillingError | None:
    """The failure that a caller can act on, or None when `error` is our own mistake.

    `key_taken`: another object of the seller has that key. `unavailable`: the database is away,
    overloaded or refused to wait longer; the same request may be sent again.
    """
    found = _origin(error)
    if isinstance(found, asyncpg.UniqueViolationError):
        constraint = str(getattr(found, "constraint_name", ""))
        if _KEY_CONSTRAINT.search(constraint) is None:
            return None
        detail = "another object of yours has this key"
        field = FieldError(pointer="/key", code="key_taken", detail=detail)
        return BillingError("key_taken", detail, kind=ErrorKind.CONFLICT, errors=(field,))
    if isinstance(found, _BUSY):
        detail = "the database does not answer in time; send the same request again"
        return BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE)
    return None
