"""SQL for the answers kept under an Idempotency-Key."""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

KEPT_FOR: Final = timedelta(days=30)
# Whoever comes second waits here until the first has committed or failed.
_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(current_seller()::text || ' ' || :key, 4207))"
)
_FIND: Final = text("""
SELECT request_hash, status, media_type, body, object FROM idempotency_keys
WHERE seller = current_seller() AND key = :key AND created_at > :since
""")
_SAVE: Final = text("""
INSERT INTO idempotency_keys (key, request_hash, status, media_type, body, created_at)
VALUES (:key, :request_hash, :status, :media_type, :body, :now)
ON CONFLICT (seller, key) DO UPDATE SET request_hash = excluded.request_hash,
  status = excluded.status, media_type = excluded.media_type, body = excluded.body,
  created_at = excluded.created_at
""")
_CLAIM: Final = text("""
INSERT INTO idempotency_keys (key, request_hash, created_at) VALUES (:key, :request_hash, :now)
ON CONFLICT (seller, key) DO UPDATE SET request_hash = excluded.request_hash, object = NULL,
  status = NULL, media_type = NULL, body = NULL, created_at = excluded.created_at
""")
_NOTE: Final = text("""
UPDATE idempotency_keys SET object = :object WHERE seller = current_seller() AND key = :key
""")
_DROP: Final = text("""
DELETE FROM idempotency_keys
WHERE seller = current_seller() AND key = :key AND status IS NULL AND object IS NULL
""")
_FORGET: Final = text(
    "DELETE FROM idempotency_keys WHERE seller = current_seller() AND created_at <= :since"
)


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered, and will be again."""

    status: int
    media_type: str
    body: bytes


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key: of which request, its answer if there was one, and what it began."""

    request_hash: bytes
    answer: StoredAnswer | None
    object: str | None


async def find_answer(*, connection: AsyncConnection, key: str, now: datetime) -> Kept | None:
    """What is kept under `key`; None for a new or forgotten key.

    Until the transaction ends nobody else passes here with the same key. `now` is wall time.
    """
    await connection.execute(_LOCK, {"key": key})
    parameters = {"key": key, "since": now - KEPT_FOR}
    row = (await connection.execute(_FIND, parameters)).mappings().one_or_none()
    if row is None:
        return None
    answer = None
    if row["status"] is not None:
        answer = StoredAnswer(
            status=int(row["status"]), media_type=str(row["media_type"]), body=bytes(row["body"])
        )
    return Kept(request_hash=bytes(row["request_hash"]), answer=answer, object=row["object"])


async def claim_key(
    *, connection: AsyncConnection, key: str, request_hash: bytes, now: datetime
) -> None:
    """Write the key down before the work begins."""
    await connection.execute(_CLAIM, {"key": key, "request_hash": request_hash, "now": now})


async def note_begun(*, connection: AsyncConnection, key: str, begun: str) -> None:
    """Write down what the request has begun (an id), in the transaction that begins it."""
    await connection.execute(_NOTE, {"key": key, "object": begun})


async def drop_claim(*, connection: AsyncConnection, key: str) -> None:
    """Forget a key under which nothing was begun."""
    await connection.execute(_DROP, {"key": key})


async def save_answer(
    *,
    connection: AsyncConnection,
    key: str,
    request_hash: bytes,
    answer: StoredAnswer,
    now: datetime,
) -> None:
    """Keep an answer in the transaction of the work that it is the answer to."""
    await connection.execute(
        _SAVE,
        {"key": key, "request_hash": request_hash, "now": now, **msgspec.structs.asdict(answer)},
    )


async def forget_answers(*, connection: AsyncConnection, now: datetime) -> int:
    """Drop the seller's answers that are older than 30 days; give how many there were."""
    found = await connection.execute(_FORGET, {"since": now - KEPT_FOR})
    return int(found.rowcount)
