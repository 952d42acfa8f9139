"""What bodies and stored objects have in common: how strict they are, and the texts in them."""

from typing import Annotated

import msgspec

# What has the form of our own ids is no key: a path that takes either must find one object.
Key = Annotated[
    str,
    msgspec.Meta(pattern=r"^(?![a-z]{2,3}_[0-9a-z]{26}\Z)[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}\Z"),
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
ShortText = Annotated[str, msgspec.Meta(max_length=500)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=366)]
DaysText = Annotated[int, msgspec.Meta(ge=0, le=3650)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: unknown fields are an error."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A stored object as it is answered."""
