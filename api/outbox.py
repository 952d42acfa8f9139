"""`/v1/outbox`: what happened, in an order that stays."""

from typing import Annotated, Final

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.bodies import malformed
from api.pagination import PageRequest, encode_cursor
from engine.errors import FieldError
from invoicing.outbox import OutboxEvent
from invoicing.outbox_store import find_position, list_outbox
from plans.api_keys import Scope

Types = Annotated[
    str | None,
    QueryParameter(
        name="type", max_length=500, description="Only events of these types, between commas."
    ),
]
_BEGIN: Final = 0


class OutboxPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of events.

    `next_cursor` is null when there is nothing more by now. `cursor` is where to go on: it stays
    good, and what is told later comes behind it.
    """

    data: tuple[OutboxEvent, ...]
    next_cursor: str | None
    cursor: str | None


@get(
    "/v1/outbox",
    operation_id="listOutbox",
    summary="List what happened",
    description=(
        "Every event of the seller in the order of their commits. Keep `cursor` of the last page"
        " and ask again with it for what came since: nothing is skipped, whatever commits late."
    ),
    tags=["Outbox"],
    opt={"scope": Scope.READ},
)
async def get_outbox(
    page: NamedDependency[PageRequest],
    connection: NamedDependency[AsyncConnection],
    types: Types = None,
) -> OutboxPage:
    """The events behind the cursor, from the first one without."""
    after = _BEGIN
    if page.after is not None:
        position = await find_position(connection=connection, event=page.after)
        if position is None:
            error = malformed("invalid_cursor", "this is no cursor of ours")
            field = FieldError(pointer="/cursor", code="invalid_cursor", detail=error.detail)
            error.errors = (field,)
            raise error
        after = position
    found = await list_outbox(
        connection=connection,
        limit=page.fetched,
        after=after,
        types=None if types is None else types.split(","),
    )
    shown = tuple(found[: page.limit])
    last = shown[-1].id if shown else page.after
    cursor = None if last is None else encode_cursor(last)
    more = len(found) > page.limit
    return OutboxPage(data=shown, next_cursor=cursor if more else None, cursor=cursor)


ROUTES = (get_outbox,)
