"""Who asks: API keys, their scopes, and the principal that a request acts as."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, cast

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from engine.db import Database
from engine.errors import BillingError, ErrorKind
from plans.api_keys import FoundKey, Scope, secret_digest
from plans.model import Mode
from plans.seller_store import find_api_key

_BEARER: Final = re.compile(r"Bearer +(usk_(live|test)_[A-Za-z0-9_-]{43})\Z", re.IGNORECASE)
_CACHED_KEYS: Final = 10_000
INGEST_KEY_AGE: Final = timedelta(seconds=1)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The seller a key speaks for, and what the key may do."""

    seller: int
    seller_id: str
    mode: Mode
    scopes: frozenset[Scope]
    key_id: str
    events_per_second: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope; `admin` has them all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def _refused(code: str, detail: str) -> BillingError:
    return BillingError(code, detail, kind=ErrorKind.UNAUTHENTICATED)


class Authenticator:
    """Looks keys up by the hash of their secret; remembers them no longer than it is told to."""

    def __init__(self, *, database: Database, clock: Callable[[], datetime]) -> None:
        """`clock` gives wall time: keys do not live by a test seller's clock."""
        self._database = database
        self._clock = clock
        self._seen: dict[bytes, tuple[FoundKey, datetime]] = {}

    async def authenticate(
        self,
        *,
        authorization: str | None,
        scope: Scope,
        max_age: timedelta = timedelta(0),
    ) -> Principal:
        """The principal of an `Authorization` header.

        A look-up may be as old as `max_age`, zero by default: a revoked key is refused at once.
        Errors: `missing_key`, `invalid_key`, `revoked_key`, `expired_key` (401) and
        `missing_scope` (403).
        """
        if not authorization:
            raise _refused("missing_key", "send `Authorization: Bearer usk_…`")
        match = _BEARER.match(authorization)
        if match is None:
            raise _refused("invalid_key", "this is no API key")
        now = self._clock()
        found = await self._find(secret=match[1], now=now, max_age=max_age)
        if found is None or found.mode != match[2]:
            raise _refused("invalid_key", "this is no API key")
        if found.revoked_at is not None:
            raise _refused("revoked_key", "this API key was revoked")
        if found.expires_at is not None and found.expires_at <= now:
            raise _refused("expired_key", "this API key has expired")
        principal = Principal(
            seller=found.seller,
            seller_id=found.seller_id,
            mode=found.mode,
            scopes=frozenset(found.scopes),
            key_id=found.key_id,
            events_per_second=found.events_per_second,
        )
        if not principal.may(scope):
            detail = f"this API key lacks the scope {scope.value!r}"
            raise BillingError("missing_scope", detail, kind=ErrorKind.FORBIDDEN)
        return principal

    async def _find(self, *, secret: str, now: datetime, max_age: timedelta) -> FoundKey | None:
        digest = secret_digest(secret)
        if max_age > timedelta(0):
            seen = self._seen.get(digest)
            if seen is not None and timedelta(0) <= now - seen[1] < max_age:
                return seen[0]
        async with self._database.transaction(seller=None) as connection:
            found = await find_api_key(connection=connection, digest=digest)
        if found is not None and max_age > timedelta(0):
            if len(self._seen) >= _CACHED_KEYS:
                self._seen.clear()
            self._seen[digest] = (found, now)
        return found


def declared_scope(handler: BaseRouteHandler) -> Scope | None:
    """The scope that a route asks for in `opt={"scope": …}`; None for a public one."""
    return None if handler.opt.get("public") else Scope(handler.opt["scope"])


async def require_key(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """The guard of every route: leaves the principal in the request's state."""
    if connection.scope.get("method") == "OPTIONS" and "scope" not in handler.opt:
        return
    scope = declared_scope(handler)
    if scope is None:
        return
    authenticator = cast("Authenticator", connection.app.state.authenticator)
    connection.state.principal = await authenticator.authenticate(
        authorization=connection.headers.get("authorization"),
        scope=scope,
        max_age=INGEST_KEY_AGE if scope is Scope.INGEST else timedelta(0),
    )
