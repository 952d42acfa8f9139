"""`/v1/credit_notes`: credit by hand, and its void."""

from datetime import datetime

from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from invoicing.credit_notes import CreditNoteDraft, CreditNoteVoid
from invoicing.document_store import list_credit_notes
from invoicing.issue_credit_note import issue_credit_note
from invoicing.model import CreditNote
from invoicing.void_credit_note import void_credit_note
from plans.api_keys import Scope
from plans.model import Seller


@post(
    "/v1/credit_notes",
    operation_id="createCreditNote",
    summary="Credit lines of an invoice",
    tags=["Credit notes"],
    opt={"scope": Scope.BILLING},
)
async def create_credit_note(
    *,
    data: JSONBody[CreditNoteDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> CreditNote:
    """Give back of lines of an invoice, with their tax; no billing run charges it again.

    `amount` is less discount and before a tax that is added. It reduces what is open of the
    invoice; the rest is customer balance, or with `settle: refund` money as far as payments paid
    the invoice. The audit log keeps who and why.
    """
    made = await issue_credit_note(
        connection=connection,
        seller=seller,
        draft=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return (await list_credit_notes(connection=connection, limit=1, reference=made))[0]


@post(
    "/v1/credit_notes/{reference:str}/void",
    operation_id="voidCreditNote",
    summary="Void a credit note",
    tags=["Credit notes"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_void_credit_note(
    *,
    reference: FromPath[str],
    data: JSONBody[CreditNoteVoid],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> CreditNote:
    """Take a note by hand back: its entry is mirrored today, what it reduced is open again.

    Refused when the balance that it gave was used, or its refund paid out.
    """
    voided = await void_credit_note(
        connection=connection,
        seller=seller,
        reference=reference,
        draft=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )
    return (await list_credit_notes(connection=connection, limit=1, reference=voided))[0]


ROUTES = (create_credit_note, post_void_credit_note)
