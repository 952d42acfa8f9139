"""Whether the process lives, whether it can work."""

from typing import Any, Literal

import msgspec
from litestar import Request, get

from engine.db import Database
from engine.errors import BillingError, ErrorKind


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The one thing there is to say."""

    status: Literal["ok"] = "ok"


@get(
    "/healthz", operation_id="getHealth", summary="Liveness", tags=["Health"], opt={"public": True}
)
async def get_health() -> Health:
    """Answer as long as the process runs; the database is not asked."""
    return Health()


@get(
    "/readyz",
    operation_id="getReadiness",
    summary="Readiness",
    tags=["Health"],
    opt={"public": True},
)
async def get_readiness(request: Request[Any, Any, Any]) -> Health:
    """Answer 200 when the database answers, else 503."""
    database: Database = request.app.state.database
    try:
        async with database.transaction(seller=None):
            return Health()
    except Exception as error:
        detail = "the database does not answer"
        raise BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE) from error
