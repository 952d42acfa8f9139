"""What came through a stream and was refused: kept as it came, since nobody waits for an answer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from engine.ids import derived_body, derived_id, unix_micros
from metering.model import Rejection
from plans.shape import Record

ITEMS_REFUSED: Final = "items_refused"
"""The code of a message that is whole, some of whose events were refused."""
NOT_STORED_YET: Final = "not_stored_yet"
_LONGEST: Final = 300

IntakeStatus = Literal["refused", "waiting", "stored"]


class IntakeError(Record, frozen=True, kw_only=True):
    """A message with whatever was refused of it.

    `refused` is final. `waiting`: it could not be stored so far and is tried again; `stored`: it
    was, later. `rejected` has the events at fault by their place in the body; of a message that is
    refused as a whole `code` and `detail` tell why. `received_at` is when the stream took it.
    """

    id: str
    status: IntakeStatus
    stream: str
    sequence: int
    received_at: datetime
    refused_at: datetime
    code: str
    detail: str
    rejected: tuple[Rejection, ...]
    content_type: str
    content_encoding: str


class IntakeErrorBody(IntakeError, frozen=True, kw_only=True):  # noqa: N818 - a row, never raised
    """The same with the message as it came: text, or base64 where the bytes are no UTF-8."""

    body: str
    body_form: Literal["text", "base64"]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be kept of one message."""

    id: str
    status: IntakeStatus
    stream: str
    sequence: int
    received_at: datetime
    code: str
    detail: str
    rejected: Sequence[Rejection]
    content_type: str
    content_encoding: str
    body: bytes


def intake_error_id(*, stream: str, sequence: int, received_at: datetime) -> str:
    """The id of a message's row: the same whenever it is delivered, another in a stream made anew.

    A stream that was deleted and made again begins at sequence 1, at another instant.
    """
    body = derived_body(at=received_at, parts=[stream, sequence, unix_micros(received_at)])
    return derived_id(prefix="ine", body=body)


def storable(text: str) -> str:
    """Text from outside as the database can hold it, cut to a length that is still read."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return clean[:_LONGEST]
