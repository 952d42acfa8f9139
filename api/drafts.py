"""Drafts by hand, and `/v1/audit_log`."""

from datetime import datetime
from typing import Annotated

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.pagination import Page, PageRequest
from engine.audit_log import AuditEntry
from engine.audit_log_store import list_acts
from invoicing.drafts import DraftEdit, FinalizeDraft
from invoicing.finalize import edit_draft, finalize
from invoicing.model import CreditNote, Invoice
from plans.api_keys import Scope
from plans.model import Seller


@post(
    "/v1/invoices/{reference:str}/finalize",
    operation_id="finalizeInvoice",
    summary="Issue a draft now",
    tags=["Invoices"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_finalize(
    *,
    reference: FromPath[str],
    data: JSONBody[FinalizeDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Invoice | CreditNote:
    """Post everything the customer owes at the draft's instant before its grace ends.

    A draft below zero is a credit note and is issued as one, by either form of its id.
    """
    return await finalize(
        connection=connection,
        seller=seller,
        reference=reference,
        draft=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )


@post(
    "/v1/invoices/{reference:str}/lines",
    operation_id="editDraft",
    summary="Add a line to a draft",
    tags=["Invoices"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_draft_line(
    *,
    reference: FromPath[str],
    data: JSONBody[DraftEdit],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Invoice | CreditNote:
    """A line by hand, or what brings a line to another amount; the audit log keeps who and why."""
    return await edit_draft(
        connection=connection,
        seller=seller,
        reference=reference,
        edit=data,
        actor=principal.key_id,
        now=now,
        wall_now=wall_now,
    )


@get(
    "/v1/audit_log",
    operation_id="listAuditLog",
    summary="Acts by hand",
    tags=["Audit log"],
    opt={"scope": Scope.ADMIN},
)
async def get_audit_log(
    connection: NamedDependency[AsyncConnection],
    page: NamedDependency[PageRequest],
    object: Annotated[
        str | None, QueryParameter(description="Only what was done to the object of this id.")
    ] = None,
) -> Page[AuditEntry]:
    """Who did what, when and why, the oldest first."""
    found = await list_acts(
        connection=connection, limit=page.fetched, after=page.after, object=object
    )
    return page.page(found, ids=[entry.id for entry in found])


ROUTES = (post_finalize, post_draft_line, get_audit_log)
