"""Verb: make an API key; its secret is known to nobody but the one who asked."""

import secrets
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import invalid_field
from engine.ids import new_id
from plans.api_keys import (
    START_LENGTH,
    ApiKey,
    ApiKeyDraft,
    IssuedApiKey,
    secret_digest,
    secret_text,
)
from plans.model import Mode
from plans.seller_store import insert_api_key


async def issue_key(
    *, connection: AsyncConnection, mode: Mode, draft: ApiKeyDraft, now: datetime
) -> IssuedApiKey:
    """Make a key of the transaction's seller; `now` is wall time, `mode` the seller's.

    The secret holds 256 random bits. Errors: `invalid_body` when it would have expired already.
    """
    if draft.expires_at is not None and draft.expires_at <= now:
        raise invalid_field(pointer="/expires_at", code="invalid", detail="this instant is past")
    secret = secret_text(mode=mode, random_text=secrets.token_urlsafe(32))
    key = ApiKey(
        id=new_id(prefix="key", now=now),
        name=draft.name,
        start=secret[:START_LENGTH],
        scopes=tuple(sorted(set(draft.scopes))),
        created_at=now,
        expires_at=draft.expires_at,
        revoked_at=None,
        events_per_second=draft.events_per_second,
    )
    await insert_api_key(connection=connection, key=key, digest=secret_digest(secret))
    return IssuedApiKey(**msgspec.structs.asdict(key), secret=secret)
