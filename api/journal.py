"""`/v1/journal_entries` and `/v1/accounts`."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from engine.journal import Side
from engine.money import format_amount
from invoicing.journal_store import account_balances, list_entries
from invoicing.model import AccountAnswer, JournalEntryAnswer
from plans.api_keys import Scope

SourceFilter = Annotated[
    str | None, QueryParameter(description="Only the entries of this document (id).")
]


@get(
    "/v1/journal_entries",
    operation_id="listJournalEntries",
    summary="List journal entries",
    tags=["Journal"],
    opt={"scope": Scope.READ},
)
async def get_journal_entries(
    connection: NamedDependency[AsyncConnection],
    page: NamedDependency[PageRequest],
    source: SourceFilter = None,
) -> Page[JournalEntryAnswer]:
    """Entries with their postings; debits equal credits in each."""
    found = await list_entries(
        connection=connection, limit=page.fetched, after=page.after, source=source
    )
    return page.page(found, ids=[entry.id for entry in found])


@get(
    "/v1/journal_entries/{entry:str}",
    operation_id="getJournalEntry",
    summary="Read a journal entry",
    tags=["Journal"],
    opt={"scope": Scope.READ},
)
async def get_journal_entry(
    entry: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> JournalEntryAnswer:
    """One entry with its postings."""
    found = await list_entries(connection=connection, limit=1, reference=entry)
    if not found:
        raise not_found(noun="journal entry", reference=entry)
    return found[0]


@get(
    "/v1/accounts",
    operation_id="listAccounts",
    summary="Accounts and their balances",
    tags=["Journal"],
    opt={"scope": Scope.READ},
)
async def get_accounts(
    connection: NamedDependency[AsyncConnection], page: NamedDependency[PageRequest]
) -> Page[AccountAnswer]:
    """The chart of accounts; balances by currency, positive on the account's normal side."""
    accounts: dict[str, AccountAnswer] = {}
    for row in await account_balances(connection=connection):
        account = accounts.setdefault(
            row.code,
            AccountAnswer(code=row.code, type=row.type, normal_side=row.normal_side, balances={}),
        )
        if row.currency is not None:
            sign = 1 if row.normal_side == Side.DEBIT else -1
            account.balances[row.currency] = format_amount(
                sign * row.amount_minor, currency=row.currency
            )
    after = page.after or ""
    found = [account for account in accounts.values() if account.code > after][: page.fetched]
    return page.page(found, ids=[account.code for account in found])


ROUTES = (get_journal_entries, get_journal_entry, get_accounts)
