"""Acts by hand: who did what to which object, when and why. Pure."""

from datetime import datetime

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One act. `actor` is the id of the API key, `object` the id of what it was done to."""

    id: str
    at: datetime
    actor: str
    action: str
    object: str
    reason: str | None
    detail: dict[str, str] = msgspec.field(default_factory=dict)
