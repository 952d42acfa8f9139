"""`/v1/invoices/preview`."""

from datetime import datetime
from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from api.auth import Principal
from api.business_time import business_now
from api.idempotency import OWN_TRANSACTIONS
from engine.db import Database
from invoicing.preview import preview
from invoicing.rehearsal import Preview, PreviewDraft
from plans.api_keys import Scope


@post(
    "/v1/invoices/preview",
    operation_id="previewInvoices",
    summary="Preview upcoming documents",
    tags=["Invoices"],
    status_code=200,
    opt={"scope": Scope.READ, OWN_TRANSACTIONS: True},
)
async def preview_invoices(
    data: JSONBody[PreviewDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Preview:
    """What a customer is billed next, as agreed or with a change, an end or a subscription more.

    It is what would be posted with the usage known by now; nothing is posted. Ids and numbers are
    empty.
    """
    database: Database = request.app.state.database
    return await preview(
        database=database,
        seller=principal.seller,
        draft=data,
        now=await business_now(database=database, seller=principal.seller, wall_now=wall_now),
        wall_now=wall_now,
    )


ROUTES = (preview_invoices,)
