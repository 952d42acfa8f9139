"""Usage in: the events a seller sends, what is answered, and the quantities measured of them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from plans.model import Meter
from plans.shape import Body, Key, Record

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
EventText = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]

OLDEST_DAYS: Final = 35
AHEAD_SECONDS: Final = 300
EMPTY_DATA: Final = msgspec.Raw(b"{}")


class EventIn(msgspec.Struct, gc=False, kw_only=True):
    """One usage event in the shape of a CloudEvent; attributes we do not name are let pass.

    `data` is kept as the bytes that came, so that what was sent can be shown for ever.
    """

    id: EventText
    source: Annotated[str, msgspec.Meta(max_length=255)] = ""
    type: EventText
    subject: EventText
    time: Instant | None = None
    data: msgspec.Raw = EMPTY_DATA
    backfill: EventText | msgspec.UnsetType = msgspec.UNSET


class StoredEvent(msgspec.Struct, gc=False, kw_only=True):
    """One event of a stored batch; its place in the list is its ordinal."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: msgspec.Raw


class RejectionCode(StrEnum):
    """Why one event was refused while its neighbours were taken."""

    CONFLICT = "conflict"
    TOO_OLD = "too_old"
    TOO_FAR_AHEAD = "too_far_ahead"
    REQUIRED = "required"
    INVALID = "invalid"
    BACKFILL_NOT_OPEN = "backfill_not_open"


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A refused event: `index` is its place in the body."""

    index: int
    id: str | None
    code: RejectionCode
    detail: str


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `POST /v1/events`, given after the commit; `accepted` counts new events."""

    accepted: int
    duplicates: int
    rejected: tuple[Rejection, ...] = ()


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """n lines to be measured: what `meter` counted of `customer` in [start, end) microseconds.

    Meters and customers are given by their numbers; instants are microseconds since 1970 UTC. A
    meter that ignores late usage leaves out what was received from `closes_micros` on.

    A level is built from changes since `since_micros` (the start unless told; always from the
    first one where it carries over), and its level × time is divided by `whole_micros`, the length
    of the whole billing period (that of the window unless told).
    """

    meter: NDArray[np.int32]
    customer: NDArray[np.int64]
    start_micros: NDArray[np.int64]
    end_micros: NDArray[np.int64]
    closes_micros: NDArray[np.int64] | None = None
    since_micros: NDArray[np.int64] | None = None
    whole_micros: NDArray[np.int64] | None = None

    def of(self, *, rows: NDArray[np.intp], customer: NDArray[np.int64]) -> "Windows":
        """What is asked of each of these rows, for as many other customers."""
        optional = (self.closes_micros, self.since_micros, self.whole_micros)
        closes, since, whole = (None if each is None else each[rows] for each in optional)
        return Windows(
            meter=self.meter[rows],
            customer=customer,
            start_micros=self.start_micros[rows],
            end_micros=self.end_micros[rows],
            closes_micros=closes,
            since_micros=since,
            whole_micros=whole,
        )


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The quantities of n lines, in their order: mantissa × 10^-digits, exact.

    `mantissa` is int64, or Python ints (dtype object) where one of them needs more. A line
    without events is zero.
    """

    mantissa: NDArray[np.int64] | NDArray[np.object_]
    digits: int


class GroupedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Quantities of lines kept apart: a row for every (line, combination) that has events.

    Row r is of line[r], for the values dimensions[dimension[r]] of the names asked for that line:
    mantissa[r] × 10^-digits, exact, int64 or Python ints. Rows are sorted by line, then by values.
    """

    line: NDArray[np.int64]
    dimension: NDArray[np.int64]
    dimensions: tuple[tuple[str, ...], ...]
    mantissa: NDArray[np.int64] | NDArray[np.object_]
    digits: int


class EventUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The values of single events: a row for every (line, combination) that has events.

    Rows are those of `GroupedUsage`. Row r has the values mantissa[offsets[r] : offsets[r + 1]],
    in the order of time; of the same instant, in the order in which they were stored.
    """

    line: NDArray[np.int64]
    dimension: NDArray[np.int64]
    dimensions: tuple[tuple[str, ...], ...]
    offsets: NDArray[np.int64]
    mantissa: NDArray[np.int64] | NDArray[np.object_]
    digits: int


class UsageWindow(StrEnum):
    """How `GET /v1/usage` cuts time."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, rename={"start_at": "from"}):
    """The quantity of one window; first and last may be partial, nothing is floored at zero.

    `group` has the values of the dimensions asked for.
    """

    start_at: datetime
    end_at: datetime = msgspec.field(name="to")
    group: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    quantity: str


class UsageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /v1/usage`."""

    data: tuple[UsageRow, ...]


EventStatus = Literal["measured", "unmatched", "ignored", "voided"]
EventReason = Literal[
    "no_meter",
    "unknown_customer",
    "no_subscription",
    "bad_value",
    "amended",
    "late_usage",
    "backfill_open",
    "backfill_reversed",
]


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event with what became of it."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: msgspec.Raw
    status: EventStatus
    reason: EventReason | None


class BackfillDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/backfills`."""

    key: Key


class BackfillStep(Body, frozen=True, kw_only=True):
    """`POST /v1/backfills/{id}/close` and `/reverse`: there is nothing to say."""


class Backfill(Record, frozen=True, kw_only=True):
    """Usage from outside the window; `status` is open, closed (it counts) or reversed."""

    id: str
    key: str
    status: Literal["open", "closed", "reversed"]
    events: int
    created_at: datetime
    closed_at: datetime | None
    reversed_at: datetime | None


class EventVoidDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/events/{id}/void`: there is nothing to say."""


class EventAmendDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/events/{id}/amend`: what is named takes the place of what was sent."""

    type: EventText | None = None
    subject: EventText | None = None
    time: datetime | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which stored events are asked for: a customer's (number), a meter's, in [start, end)."""

    status: EventStatus | None = None
    customer: int | None = None
    meter: Meter | None = None
    start: datetime | None = None
    end: datetime | None = None

    def holds(self, at: datetime) -> bool:
        """Whether the instant is in the window asked for."""
        after = self.start is None or self.start <= at
        return after and (self.end is None or at < self.end)


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of stored events, oldest batch first."""

    data: tuple[EventRow, ...]
    next_cursor: str | None
