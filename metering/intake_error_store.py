"""SQL of messages that were refused."""

import base64
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.intake_errors import IntakeError, IntakeErrorBody, IntakeStatus, Refused, storable

_COLUMNS: Final = """
id, status, stream, sequence, received_at, refused_at, code, detail, rejected, content_type,
  content_encoding
"""
# Only what waits may still change: a message that comes again says the same of itself.
_SAVE: Final = text(f"""
INSERT INTO intake_errors ({_COLUMNS}, body)
VALUES (:id, :status, :stream, :sequence, :received_at, :now, :code, :detail, :rejected,
  :content_type, :content_encoding, :body)
ON CONFLICT (seller, id) DO UPDATE SET status = excluded.status, refused_at = excluded.refused_at,
  code = excluded.code, detail = excluded.detail, rejected = excluded.rejected
WHERE intake_errors.status = 'waiting'
""")
_STORED: Final = text("""
UPDATE intake_errors SET status = 'stored'
WHERE seller = current_seller() AND id = :id AND status = 'waiting'
""")
_PAGE: Final = text(f"""
SELECT {_COLUMNS} FROM intake_errors WHERE seller = current_seller()
  AND (CAST(:status AS text) IS NULL OR status = :status)
  AND (CAST(:after AS text) IS NULL OR id > :after) ORDER BY id LIMIT :limit
""")
_FIND: Final = text(f"""
SELECT {_COLUMNS}, body FROM intake_errors WHERE seller = current_seller() AND id = :id
""")


async def save_refused(*, connection: AsyncConnection, refused: Refused, now: datetime) -> None:
    """Keep what was refused of a message; once kept it stays, but for one that only waited."""
    fields = {name: getattr(refused, name) for name in refused.__struct_fields__}
    for name in ("detail", "content_type", "content_encoding"):
        fields[name] = storable(fields[name])
    fields["rejected"] = msgspec.json.encode(refused.rejected)
    await connection.execute(_SAVE, {**fields, "now": now})


async def mark_stored(*, connection: AsyncConnection, intake_error: str) -> None:
    """A message that waited is stored now; nothing happens where none waited."""
    await connection.execute(_STORED, {"id": intake_error})


async def list_intake_errors(
    *, connection: AsyncConnection, limit: int, after: str | None, status: IntakeStatus | None
) -> list[IntakeError]:
    """Up to `limit` refused messages after the id `after`: the first received first."""
    values = {"limit": limit, "after": after, "status": status}
    rows = await connection.execute(_PAGE, values)
    return [msgspec.convert(_fields(row), IntakeError) for row in rows.mappings()]


async def find_intake_error(
    *, connection: AsyncConnection, intake_error: str
) -> IntakeErrorBody | None:
    """One refused message with its body, or None."""
    row = (await connection.execute(_FIND, {"id": intake_error})).mappings().one_or_none()
    if row is None:
        return None
    body = bytes(row["body"])
    try:
        shown = {"body": body.decode(), "body_form": "text"}
    except UnicodeDecodeError:
        shown = {"body": base64.b64encode(body).decode(), "body_form": "base64"}
    return msgspec.convert(_fields(row) | shown, IntakeErrorBody)


def _fields(row: RowMapping) -> dict[str, Any]:
    return dict(row) | {"rejected": msgspec.json.decode(row["rejected"])}
