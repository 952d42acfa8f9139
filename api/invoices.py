"""`/v1/invoices` and `/v1/credit_notes`, as JSON and as PDF."""

from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import BillingError, ErrorKind, not_found
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.explain_line import LineExplanation, explain_line
from invoicing.issue_invoice import issue_invoice
from invoicing.model import CreditNote, CreditNoteStatus, Invoice, InvoiceStatus, VoidDraft
from invoicing.one_off import OneOffDraft
from invoicing.print_document import print_document, write_einvoice
from invoicing.show_drafts import show_drafts
from invoicing.void_invoice import void_invoice
from plans.api_keys import Scope
from plans.model import Seller

PDF: Final = ".pdf"
XML: Final = ".xml"
_FORMS: Final = MappingProxyType(
    {PDF: (print_document, "application/pdf"), XML: (write_einvoice, "application/xml")}
)
CustomerFilter = Annotated[
    str | None, QueryParameter(description="Only those of this customer (key or id).")
]


@get(
    "/v1/invoices",
    operation_id="listInvoices",
    summary="List invoices",
    tags=["Invoices"],
    opt={"scope": Scope.READ},
)
async def get_invoices(
    *,
    connection: NamedDependency[AsyncConnection],
    page: NamedDependency[PageRequest],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    customer: CustomerFilter = None,
    status: FromQuery[InvoiceStatus | None] = None,
) -> Page[Invoice]:
    """Invoices with their lines, in the order of issue; drafts come last."""
    found = await list_invoices(
        connection=connection,
        limit=page.fetched,
        after=page.after,
        customer=customer,
        status=status,
    )
    if len(found) < page.fetched and status in {None, InvoiceStatus.DRAFT}:
        drafts = await show_drafts(
            connection=connection,
            seller=seller,
            now=now,
            kind="inv",
            limit=page.fetched - len(found),
            after=page.after,
            customer=customer,
        )
        found += [draft for draft in drafts if isinstance(draft, Invoice)]
    return page.page(found, ids=[invoice.id for invoice in found])


@post(
    "/v1/invoices",
    operation_id="createInvoice",
    summary="Issue an invoice written by hand",
    tags=["Invoices"],
    opt={"scope": Scope.BILLING},
)
async def create_invoice(
    data: JSONBody[OneOffDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> Invoice:
    """Lines of your own, taxed, numbered and posted at once; no billing run touches them."""
    made = await issue_invoice(connection=connection, seller=seller, draft=data, now=now)
    return (await list_invoices(connection=connection, limit=1, reference=made))[0]


@get(
    "/v1/invoices/{reference:str}",
    operation_id="getInvoice",
    summary="Read an invoice",
    tags=["Invoices"],
    opt={"scope": Scope.READ},
)
async def get_invoice(
    reference: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> Response[Invoice | bytes]:
    """One invoice by id or number; with `.pdf` behind it the document itself, with `.xml` its UBL.

    The XML keeps EN 16931; what that cannot say of the document is an `einvoice_…` error.
    """
    wanted = reference.removesuffix(PDF).removesuffix(XML)
    found = await list_invoices(connection=connection, limit=1, reference=wanted)
    if not found:
        drafts = await show_drafts(
            connection=connection, seller=seller, now=now, kind="inv", limit=1, reference=wanted
        )
        found = [draft for draft in drafts if isinstance(draft, Invoice)]
    if not found:
        raise not_found(noun="invoice", reference=wanted)
    return await _answer(connection, found[0], seller, form=reference.removeprefix(wanted))


@get(
    "/v1/invoices/lines/{line:str}/explain",
    operation_id="explainLine",
    summary="Why a line is what it is",
    tags=["Invoices"],
    opt={"scope": Scope.READ},
)
async def get_line_explanation(
    line: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
) -> LineExplanation:
    """From the events behind it, through the price version and every step, to the journal."""
    return await explain_line(connection=connection, seller=seller, line=line)


@post(
    "/v1/invoices/{reference:str}/void",
    operation_id="voidInvoice",
    summary="Void an invoice",
    tags=["Invoices"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_void_invoice(
    reference: FromPath[str],
    data: JSONBody[VoidDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> Invoice:
    """Take an open invoice back: its entry is mirrored today and what it charged is billed anew.

    The next document of the customer, or the next billing run, posts it again. What a balance or
    a credit note had paid becomes customer balance. An invoice that is paid stays.
    """
    del data
    voided = await void_invoice(connection=connection, seller=seller, reference=reference, now=now)
    return (await list_invoices(connection=connection, limit=1, reference=voided))[0]


@get(
    "/v1/credit_notes",
    operation_id="listCreditNotes",
    summary="List credit notes",
    tags=["Credit notes"],
    opt={"scope": Scope.READ},
)
async def get_credit_notes(
    *,
    connection: NamedDependency[AsyncConnection],
    page: NamedDependency[PageRequest],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    customer: CustomerFilter = None,
    status: FromQuery[CreditNoteStatus | None] = None,
) -> Page[CreditNote]:
    """Credit notes with their lines, in the order of issue; drafts come last."""
    found = await list_credit_notes(
        connection=connection,
        limit=page.fetched,
        after=page.after,
        customer=customer,
        status=status,
    )
    if len(found) < page.fetched and status in {None, CreditNoteStatus.DRAFT}:
        drafts = await show_drafts(
            connection=connection,
            seller=seller,
            now=now,
            kind="cn",
            limit=page.fetched - len(found),
            after=page.after,
            customer=customer,
        )
        found += [draft for draft in drafts if isinstance(draft, CreditNote)]
    return page.page(found, ids=[note.id for note in found])


@get(
    "/v1/credit_notes/{reference:str}",
    operation_id="getCreditNote",
    summary="Read a credit note",
    tags=["Credit notes"],
    opt={"scope": Scope.READ},
)
async def get_credit_note(
    reference: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> Response[CreditNote | bytes]:
    """One credit note by id or number; with `.pdf` behind it the document, with `.xml` its UBL."""
    wanted = reference.removesuffix(PDF).removesuffix(XML)
    found = await list_credit_notes(connection=connection, limit=1, reference=wanted)
    if not found:
        drafts = await show_drafts(
            connection=connection, seller=seller, now=now, kind="cn", limit=1, reference=wanted
        )
        found = [draft for draft in drafts if isinstance(draft, CreditNote)]
    if not found:
        raise not_found(noun="credit note", reference=wanted)
    return await _answer(connection, found[0], seller, form=reference.removeprefix(wanted))


async def _answer(
    connection: AsyncConnection, document: Invoice | CreditNote, seller: Seller, *, form: str
) -> Response[Any]:
    if not form:
        return Response(document)
    if document.number is None:
        message = "a draft is not issued: there is no paper of it yet"
        raise BillingError("not_issued", message, kind=ErrorKind.CONFLICT)
    if form not in _FORMS:
        raise not_found(noun="document", reference=f"{document.number}{form}")
    write, media_type = _FORMS[form]
    content = await write(connection=connection, document=document, timezone=seller.timezone)
    return Response(
        content,
        media_type=media_type,
        headers={"content-disposition": f'inline; filename="{document.number}{form}"'},
    )


ROUTES = (
    get_invoices,
    create_invoice,
    get_invoice,
    get_line_explanation,
    post_void_invoice,
    get_credit_notes,
    get_credit_note,
)
