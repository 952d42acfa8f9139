"""`/v1/invoices/{id}/write_off`: what nobody expects to be paid any more."""

from datetime import datetime

from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from invoicing.document_store import list_invoices
from invoicing.losses import WriteOffDraft
from invoicing.model import Invoice
from invoicing.write_off import write_off
from plans.api_keys import Scope
from plans.model import Seller


@post(
    "/v1/invoices/{reference:str}/write_off",
    operation_id="writeOffInvoice",
    summary="Write off an invoice",
    tags=["Invoices"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_write_off(
    *,
    reference: FromPath[str],
    data: JSONBody[WriteOffDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Invoice:
    """Give up what is due of an open invoice: it is uncollectible, and can still be paid.

    What was earned of it is a loss with its tax, what was not will not be earned; no run bills it
    again. The audit log keeps who and why.
    """
    written = await write_off(
        connection=connection,
        seller=seller,
        reference=reference,
        draft=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return (await list_invoices(connection=connection, limit=1, reference=written))[0]


ROUTES = (post_write_off,)
