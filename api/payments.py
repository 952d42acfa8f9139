"""`/v1/payments`: money that came in by hand or by bank."""

from datetime import datetime
from typing import Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.pagination import Page, PageRequest
from engine.errors import not_found
from invoicing.payment_store import list_payments
from invoicing.payments import AllocateDraft, Payment, PaymentDraft
from invoicing.print_account import print_receipt
from invoicing.receive_payment import allocate_payment, receive_payment
from invoicing.refunds import ReturnDraft
from invoicing.take_back import return_payment
from plans.api_keys import Scope
from plans.model import Seller

PDF: Final = ".pdf"


@post(
    "/v1/payments",
    operation_id="createPayment",
    summary="Record a payment",
    tags=["Payments"],
    opt={"scope": Scope.BILLING},
)
async def create_payment(
    data: JSONBody[PaymentDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Payment:
    """Money that came in: it pays the invoices named, or the oldest due first.

    What is left over becomes customer balance; what finds no invoice waits as unapplied cash.
    """
    made = await receive_payment(
        connection=connection, seller=seller, draft=data, now=now, wall_now=wall_now
    )
    return await _find(connection, made)


@get(
    "/v1/payments",
    operation_id="listPayments",
    summary="List payments",
    tags=["Payments"],
    opt={"scope": Scope.READ},
)
async def get_payments(
    page: NamedDependency[PageRequest],
    connection: NamedDependency[AsyncConnection],
    customer: FromQuery[str | None] = None,
) -> Page[Payment]:
    """Payments in the order in which they came."""
    found = await list_payments(
        connection=connection, limit=page.fetched, after=page.after, customer=customer
    )
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/payments/{payment:str}",
    operation_id="getPayment",
    summary="Read a payment",
    tags=["Payments"],
    opt={"scope": Scope.READ},
)
async def get_payment(
    payment: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
) -> Response[Payment | bytes]:
    """One payment by its id; with `.pdf` behind it the receipt."""
    wanted = payment.removesuffix(PDF)
    found = await _find(connection, wanted)
    if wanted == payment:
        return Response(found)
    content = await print_receipt(connection=connection, payment=found, seller=seller)
    return Response(
        content,
        media_type="application/pdf",
        headers={"content-disposition": f'inline; filename="{found.id}{PDF}"'},
    )


@post(
    "/v1/payments/{payment:str}/allocate",
    operation_id="allocatePayment",
    summary="Match unapplied money with invoices",
    tags=["Payments"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_allocate(
    payment: FromPath[str],
    data: JSONBody[AllocateDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> Payment:
    """What waits of the payment pays the invoices named, or the oldest due first."""
    await allocate_payment(
        connection=connection, seller=seller, payment=payment, draft=data, now=now
    )
    return await _find(connection, payment)


@post(
    "/v1/payments/{payment:str}/return",
    operation_id="returnPayment",
    summary="Record that a payment was returned",
    tags=["Payments"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_return(
    *,
    payment: FromPath[str],
    data: JSONBody[ReturnDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Payment:
    """The bank took the money back: the invoices that it paid are open again."""
    await return_payment(
        connection=connection,
        seller=seller,
        payment=payment,
        draft=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, payment)


async def _find(connection: AsyncConnection, reference: str) -> Payment:
    found = await list_payments(connection=connection, limit=1, reference=reference)
    if not found:
        raise not_found(noun="payment", reference=reference)
    return found[0]


ROUTES = (create_payment, get_payments, get_payment, post_allocate, post_return)
