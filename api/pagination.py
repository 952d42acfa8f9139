"""Cursor pages: `?limit=&cursor=` in, `{"data": […], "next_cursor": …}` out, in order of ids."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from api.bodies import malformed
from engine.errors import FieldError

T = TypeVar("T")
DEFAULT_LIMIT: Final = 50
_ID: Final = re.compile(r"([a-z]{2,4}_[0-9a-z]{26}(:[A-Z]{3})?|[a-z_]{4,40})\Z")

Limit = Annotated[
    int, QueryParameter(ge=1, le=200, description="How many objects a page holds at most.")
]
Cursor = Annotated[
    str | None, QueryParameter(description="`next_cursor` of the page before, as it was given.")
]


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A page of objects; `next_cursor` is null on the last one."""

    data: tuple[T, ...]
    next_cursor: str | None


class PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which page is asked for: at most `limit` objects whose ids come after `after`."""

    limit: int
    after: str | None

    @property
    def fetched(self) -> int:
        """One more than the page holds, to see whether there is a next one."""
        return self.limit + 1

    def page(self, found: Sequence[T], *, ids: Sequence[str]) -> Page[T]:
        """The page made of up to `fetched` objects found and their ids."""
        more = len(found) > self.limit
        return Page(
            data=tuple(found[: self.limit]),
            next_cursor=encode_cursor(ids[self.limit - 1]) if more else None,
        )


def encode_cursor(last_id: str) -> str:
    """Opaque text for the last id of a page."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The id in a cursor. Error: `invalid_cursor`."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        last_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (UnicodeError, binascii.Error, ValueError):
        last_id = ""
    if _ID.match(last_id) is None:
        error = malformed("invalid_cursor", "this is no cursor of ours")
        field = FieldError(pointer="/cursor", code="invalid_cursor", detail=error.detail)
        error.errors = (field,)
        raise error
    return last_id


async def provide_page(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> PageRequest:
    """The dependency `page`."""
    after = None if cursor is None else decode_cursor(cursor)
    return PageRequest(limit=limit, after=after)
