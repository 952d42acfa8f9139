"""API keys: what they may do, how they read, and the hash that is kept of them."""

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from plans.model import Mode
from plans.shape import Body, Name, Record

START_LENGTH: Final = 13
"""How much of a secret is kept readable: the prefix and four characters."""

EventsPerSecond = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class Scope(StrEnum):
    """What a key may do; `admin` may do everything."""

    INGEST = "ingest"
    READ = "read"
    BILLING = "billing"
    ADMIN = "admin"


class ApiKeyDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/api_keys`."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=4)]
    expires_at: datetime | None = None
    events_per_second: EventsPerSecond | None = None


class ApiKeyPatch(Body, frozen=True, kw_only=True):
    """`PATCH /v1/api_keys/{key_id}`: only what is named changes; null ends the limit."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    events_per_second: EventsPerSecond | None | msgspec.UnsetType = msgspec.UNSET


class ApiKey(Record, frozen=True, kw_only=True):
    """A key without its secret; `start` is how the secret begins.

    `events_per_second` is what it may send to one process in the long run; None is no limit.
    """

    id: str
    name: str
    start: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    events_per_second: int | None


class IssuedApiKey(ApiKey, frozen=True, kw_only=True):
    """A key as it is answered when it is made, the only time with its secret."""

    secret: str | None


class FoundKey(msgspec.Struct, frozen=True, kw_only=True):
    """What the look-up by hash knows before the seller is named."""

    seller: int
    seller_id: str
    mode: Mode
    key_id: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    events_per_second: int | None


def secret_text(*, mode: Mode, random_text: str) -> str:
    """The secret a caller sends: `usk_live_…` or `usk_test_…`."""
    return f"usk_{mode.value}_{random_text}"


def secret_digest(secret: str) -> bytes:
    """SHA-256: a secret of 256 random bits needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()
