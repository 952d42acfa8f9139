"""`/v1/emails` and `/v1/email_templates`: what customers are told, and in which words."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import invalid_field, not_found
from invoicing.ask_email import ask_email, note_bounce, note_report
from invoicing.delivery_report import read_report
from invoicing.email_store import find_email, list_emails
from invoicing.email_template_store import delete_template, find_template, save_template
from invoicing.emails import BounceDraft, Email, EmailStatus, SendDraft
from invoicing.mail_templates import (
    Template,
    TemplateDraft,
    candidates,
    our_template,
    template_errors,
)
from invoicing.write_email import write_email
from plans.api_keys import Scope
from plans.catalog import refuse_invalid
from plans.letterhead import locale_errors
from plans.mailing import EmailKind
from plans.model import Seller

EML: Final = ".eml"
MESSAGE: Final = "message/rfc822"
SHOWN_AS: Final = "preview@usance.invalid"
"""The sender of a mail that is only shown: the worker knows the real one."""
_LOCALE_LENGTH: Final = 35
OfDocument = Annotated[str | None, QueryParameter(description="Only those about this id.")]


@get(
    "/v1/emails",
    operation_id="listEmails",
    summary="List e-mails",
    description=(
        "Every mail to a customer, in the order in which they were written down, with what became"
        " of it for each recipient. `held` ones are not sent by themselves; `reason` says why."
    ),
    tags=["E-mails"],
    opt={"scope": Scope.READ},
)
async def get_emails(
    *,
    connection: NamedDependency[AsyncConnection],
    page: NamedDependency[PageRequest],
    customer: FromQuery[str | None] = None,
    kind: FromQuery[EmailKind | None] = None,
    status: FromQuery[EmailStatus | None] = None,
    document: OfDocument = None,
) -> Page[Email]:
    """Mails, the oldest first."""
    found = await list_emails(
        connection=connection,
        limit=page.fetched,
        after=page.after,
        customer=customer,
        kind=None if kind is None else kind.value,
        status=status,
        document=document,
    )
    return page.page(found, ids=[email.id for email in found])


@get(
    "/v1/emails/{email:str}",
    operation_id="getEmail",
    summary="Read an e-mail",
    tags=["E-mails"],
    opt={"scope": Scope.READ},
)
async def get_email(
    email: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> Response[Email | bytes]:
    """One mail; with `.eml` behind it the message itself, as it would be written now."""
    wanted = email.removesuffix(EML)
    found = await find_email(connection=connection, email=wanted)
    if found is None:
        raise not_found(noun="e-mail", reference=wanted)
    if wanted == email:
        return Response(found.email)
    written = await write_email(
        connection=connection, queued=found, sender=SHOWN_AS, only_shown=True
    )
    headers = {"content-disposition": f'attachment; filename="{wanted}{EML}"'}
    return Response(written.content, media_type=MESSAGE, headers=headers)


def _send(path: str, kind: EmailKind, name: str) -> Any:
    noun = kind.value.replace("_", " ")

    @post(
        f"/v1/{path}/{{reference:str}}/send",
        operation_id=f"send{name}",
        summary=f"Send the {noun} by e-mail",
        description=(
            "Queues a mail to the customer's addresses, or to those in `to` instead; an address"
            " that is named is tried again even if a mail came back from it."
        ),
        tags=["E-mails"],
        opt={"scope": Scope.BILLING},
    )
    async def send(
        reference: FromPath[str],
        data: JSONBody[SendDraft],
        connection: NamedDependency[AsyncConnection],
        seller: NamedDependency[Seller],
        now: NamedDependency[datetime],
    ) -> Email:
        made = await ask_email(
            connection=connection,
            seller=seller,
            kind=kind,
            reference=reference,
            draft=data,
            now=now,
        )
        return await _read(connection, made)

    return send


send_invoice = _send("invoices", EmailKind.INVOICE, "Invoice")
send_credit_note = _send("credit_notes", EmailKind.CREDIT_NOTE, "CreditNote")
send_receipt = _send("payments", EmailKind.RECEIPT, "Receipt")


@post(
    "/v1/emails/{email:str}/bounce",
    operation_id="bounceEmail",
    summary="Record that a mail came back",
    description=(
        "The mail is `bounced` for the address, and no further mail goes there: see"
        " `bounced_emails` of the customer."
    ),
    tags=["E-mails"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_bounce(
    email: FromPath[str],
    data: JSONBody[BounceDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Email:
    """One address of the mail does not exist."""
    return await note_bounce(connection=connection, email=email, draft=data, now=now)


@post(
    "/v1/email_bounces",
    operation_id="reportBounce",
    summary="Record a delivery status notification",
    description=(
        "The body is a mail server's report (RFC 3464) as it came, `message/rfc822`. The mail is"
        " found by its Message-ID; reports of delays and of success change nothing."
    ),
    tags=["E-mails"],
    status_code=200,
    opt={"scope": Scope.BILLING, "problems": [404, 409, 415, 422]},
)
async def post_report(
    request: Request[Any, Any, Any],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Email:
    """What a mail server says of a mail that it could not deliver."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != MESSAGE:
        raise HTTPException(detail=f"send {MESSAGE}, not {media_type[:80]}", status_code=415)
    report = read_report(await request.body())
    return await note_report(connection=connection, report=report, now=now)


@get(
    "/v1/email_templates/{kind:str}/{locale:str}",
    operation_id="getEmailTemplate",
    summary="The words of a kind of mail",
    description="The seller's own where it has some, else ours; with the blanks that it may use.",
    tags=["E-mails"],
    opt={"scope": Scope.READ, "problems": [404, 422]},
)
async def get_template(
    kind: FromPath[str], locale: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> Template:
    """What a customer of that locale reads."""
    of, spoken = _kind(kind), _locale(locale)
    own = await find_template(connection=connection, kind=of, locales=candidates(spoken))
    return own or our_template(kind=of, locale=spoken)


@put(
    "/v1/email_templates/{kind:str}/{locale:str}",
    operation_id="putEmailTemplate",
    summary="Write the words of a kind of mail",
    description=(
        "Blanks are names in braces, such as `{number}`; any other name is refused. Values"
        " are text: they are escaped in `html`. Lines of `text` whose blanks have no value are"
        " left out."
    ),
    tags=["E-mails"],
    opt={"scope": Scope.ADMIN, "problems": [404, 422]},
)
async def put_template(
    kind: FromPath[str],
    locale: FromPath[str],
    data: JSONBody[TemplateDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Template:
    """For every mail that is sent from now on, waiting ones included."""
    of, spoken = _kind(kind), _locale(locale)
    refuse_invalid(template_errors(data, kind=of))
    await save_template(connection=connection, kind=of, locale=spoken, draft=data, now=now)
    saved = await find_template(connection=connection, kind=of, locales=(spoken,))
    assert saved is not None
    return saved


@delete(
    "/v1/email_templates/{kind:str}/{locale:str}",
    operation_id="deleteEmailTemplate",
    summary="Go back to our words",
    tags=["E-mails"],
    opt={"scope": Scope.ADMIN, "problems": [404, 422]},
)
async def remove_template(
    kind: FromPath[str], locale: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> None:
    """The seller's own words for that locale are forgotten."""
    of, spoken = _kind(kind), _locale(locale)
    if not await delete_template(connection=connection, kind=of, locale=spoken):
        raise not_found(noun="template", reference=f"{kind}/{locale}")


def _kind(text: str) -> EmailKind:
    if text not in set(EmailKind):
        raise not_found(noun="kind of mail", reference=text)
    return EmailKind(text)


def _locale(text: str) -> str:
    if len(text) > _LOCALE_LENGTH or "_" in text:
        detail = "a locale is written as in `pt-BR`"
        raise invalid_field(pointer="/locale", code="unknown_locale", detail=detail)
    refuse_invalid(locale_errors(text))
    return text.lower()


async def _read(connection: AsyncConnection, email: str) -> Email:
    found = await find_email(connection=connection, email=email)
    assert found is not None
    return found.email


ROUTES = (
    get_emails,
    get_email,
    send_invoice,
    send_credit_note,
    send_receipt,
    post_bounce,
    post_report,
    get_template,
    put_template,
    remove_template,
)
