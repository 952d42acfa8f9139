"""`/v1/intake_errors`: messages of a stream of which something was refused."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from metering.intake_error_store import find_intake_error, list_intake_errors
from metering.intake_errors import IntakeError, IntakeErrorBody, IntakeStatus
from plans.api_keys import Scope

StatusFilter = Annotated[
    IntakeStatus | None,
    QueryParameter(description="Only those: `refused`, `waiting` or `stored`."),
]


@get(
    "/v1/intake_errors",
    operation_id="listIntakeErrors",
    summary="List refused messages",
    description=(
        "Messages that came through NATS JetStream and were refused as a whole or in part, the"
        " first received first. `rejected` has the events at fault as `POST /v1/events` answers"
        " them. One that is `waiting` could not be stored so far and is tried again. The message"
        " itself is told by `GET /v1/intake_errors/{id}`; put right, it can be sent again: what"
        " was stored of it is a duplicate then."
    ),
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_intake_errors(
    page: NamedDependency[PageRequest],
    connection: NamedDependency[AsyncConnection],
    status: StatusFilter = None,
) -> Page[IntakeError]:
    """Refused messages, the first received first."""
    found = await list_intake_errors(
        connection=connection, limit=page.fetched, after=page.after, status=status
    )
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/intake_errors/{intake_error:str}",
    operation_id="getIntakeError",
    summary="Read a refused message",
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_intake_error(
    intake_error: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> IntakeErrorBody:
    """One refused message with its body as it came."""
    found = await find_intake_error(connection=connection, intake_error=intake_error)
    if found is None:
        raise not_found(noun="intake error", reference=intake_error)
    return found


ROUTES = (get_intake_errors, get_intake_error)
