"""`/v1/customers/{customer}/statement`: a customer's account, as JSON and as PDF."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from api.auth import Principal
from api.exports import From, To
from engine.db import Database
from engine.errors import invalid_field
from invoicing.print_account import print_statement
from invoicing.state_account import state_account
from invoicing.statements import Statement
from plans.api_keys import Scope
from plans.seller_store import load_seller

PDF: Final = "application/pdf"
Currency = Annotated[str | None, QueryParameter(description="Only the account in this currency.")]


@get(
    "/v1/customers/{customer:str}/statement",
    operation_id="getStatement",
    summary="A customer's statement of account",
    description=(
        "By currency the opening balance, every journal entry that moved what the customer owes"
        " with the balance after it, and the closing balance, on the days [from, to) of the"
        " seller's calendar; credit and money that no invoice has used stand apart. The closing"
        " balances of all customers are `accounts_receivable`."
    ),
    tags=["Customers"],
    opt={"scope": Scope.READ, "problems": [422]},
)
async def get_statement(
    *,
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    customer: FromPath[str],
    start: From = None,
    end: To = None,
    currency: Currency = None,
) -> Statement:
    """The account on the days [from, to)."""
    database: Database = request.app.state.database
    async with database.transaction(seller=principal.seller, snapshot=True) as connection:
        return await state_account(
            connection=connection,
            seller=await load_seller(connection=connection),
            customer=customer,
            start=start,
            end=end,
            currency=currency,
            now=now,
        )


@get(
    "/v1/customers/{customer:str}/statement.pdf",
    operation_id="printStatement",
    summary="A customer's statement of account as PDF",
    description="One currency on paper: name it when the account has several.",
    tags=["Customers"],
    media_type=PDF,
    opt={"scope": Scope.READ, "problems": [422]},
)
async def get_statement_pdf(
    *,
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    customer: FromPath[str],
    start: From = None,
    end: To = None,
    currency: Currency = None,
) -> Response[bytes]:
    """The same as the customer may be sent it."""
    database: Database = request.app.state.database
    async with database.transaction(seller=principal.seller, snapshot=True) as connection:
        seller = await load_seller(connection=connection)
        statement = await state_account(
            connection=connection,
            seller=seller,
            customer=customer,
            start=start,
            end=end,
            currency=currency,
            now=now,
        )
        account, *others = statement.accounts
        if others:
            held = ", ".join(each.currency for each in statement.accounts)
            detail = f"the account is in {held}: a sheet has one currency"
            raise invalid_field(pointer="/currency", code="required", detail=detail)
        content = await print_statement(
            connection=connection, statement=statement, account=account, seller=seller
        )
    name = f"statement-{account.currency}-{statement.end_on}.pdf"
    headers = {"content-disposition": f'inline; filename="{name}"'}
    return Response(content, media_type=PDF, headers=headers)


ROUTES = (get_statement, get_statement_pdf)
