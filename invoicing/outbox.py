"""What the outside world hears of, as it is answered. Pure."""

from datetime import datetime
from typing import Any

from plans.shape import Record


class OutboxEvent(Record, frozen=True, kw_only=True):
    """Something that happened to `object` (an id), for the `version`th time.

    `data` names what it is about by the caller's own keys.
    """

    id: str
    type: str
    object: str
    version: int
    occurred_at: datetime
    data: dict[str, Any]
