"""`/v1/refunds`: money that goes back to customers."""

from datetime import datetime

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.pagination import Page, PageRequest
from engine.errors import not_found
from invoicing.refund import cancel_refund, confirm_refund, refund
from invoicing.refund_store import list_refunds
from invoicing.refunds import Refund, RefundDraft, RefundStatus, RefundStep
from plans.api_keys import Scope
from plans.model import Seller


@post(
    "/v1/refunds",
    operation_id="createRefund",
    summary="Decide a refund",
    tags=["Refunds"],
    opt={"scope": Scope.BILLING},
)
async def create_refund(
    *,
    data: JSONBody[RefundDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Refund:
    """Money of a payment, or of a customer's balance, that is owed back until it is confirmed.

    What a payment had paid is open again; a credit note with `settle: refund` makes a refund that
    leaves nothing open.
    """
    made = await refund(
        connection=connection,
        seller=seller,
        draft=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, made)


@get(
    "/v1/refunds",
    operation_id="listRefunds",
    summary="List refunds",
    tags=["Refunds"],
    opt={"scope": Scope.READ},
)
async def get_refunds(
    page: NamedDependency[PageRequest],
    connection: NamedDependency[AsyncConnection],
    customer: FromQuery[str | None] = None,
    status: FromQuery[RefundStatus | None] = None,
) -> Page[Refund]:
    """Refunds in the order in which they were decided."""
    found = await list_refunds(
        connection=connection,
        limit=page.fetched,
        after=page.after,
        customer=customer,
        status=status,
    )
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/refunds/{refund_id:str}",
    operation_id="getRefund",
    summary="Read a refund",
    tags=["Refunds"],
    opt={"scope": Scope.READ},
)
async def get_refund(
    refund_id: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> Refund:
    """One refund by its id."""
    return await _find(connection, refund_id)


@post(
    "/v1/refunds/{refund_id:str}/confirm",
    operation_id="confirmRefund",
    summary="Confirm that a refund was paid out",
    tags=["Refunds"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_confirm(
    *,
    refund_id: FromPath[str],
    data: JSONBody[RefundStep],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Refund:
    """The money is gone."""
    await confirm_refund(
        connection=connection,
        seller=seller,
        refund=refund_id,
        step=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, refund_id)


@post(
    "/v1/refunds/{refund_id:str}/cancel",
    operation_id="cancelRefund",
    summary="Cancel a refund that was not paid out",
    tags=["Refunds"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_cancel(
    *,
    refund_id: FromPath[str],
    data: JSONBody[RefundStep],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Refund:
    """The money does not go, or bounced: it is balance again, or pays what it had paid.

    What is not due any more of that waits as unapplied cash.
    """
    await cancel_refund(
        connection=connection,
        seller=seller,
        refund=refund_id,
        step=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, refund_id)


async def _find(connection: AsyncConnection, reference: str) -> Refund:
    found = await list_refunds(connection=connection, limit=1, reference=reference)
    if not found:
        raise not_found(noun="refund", reference=reference)
    return found[0]


ROUTES = (create_refund, get_refunds, get_refund, post_confirm, post_cancel)
