"""SQL of the audit log: entries are added and read, never changed."""

from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry

_INSERT: Final = text("""
INSERT INTO audit_log (id, at, actor, action, object, reason, detail)
VALUES (:id, :at, :actor, :action, :object, :reason, CAST(CAST(:detail AS text) AS jsonb))
""")
_PAGE: Final = text("""
SELECT id, at, actor, action, object, reason, detail FROM audit_log
WHERE seller = current_seller() AND (CAST(:after AS text) IS NULL OR id > :after)
  AND (CAST(:object AS text) IS NULL OR object = :object) ORDER BY id LIMIT :limit
""")


async def record_act(*, connection: AsyncConnection, entry: AuditEntry) -> None:
    """Add an entry, with the act, in its transaction."""
    fields = msgspec.structs.asdict(entry)
    detail = msgspec.json.encode(entry.detail).decode()
    await connection.execute(_INSERT, {**fields, "detail": detail})


async def list_acts(
    *, connection: AsyncConnection, limit: int, after: str | None = None, object: str | None = None
) -> list[AuditEntry]:
    """Up to `limit` entries after the id `after`, of one object (id) or of all."""
    rows = await connection.execute(_PAGE, {"limit": limit, "after": after, "object": object})
    return [msgspec.convert(dict(row), AuditEntry) for row in rows.mappings()]
