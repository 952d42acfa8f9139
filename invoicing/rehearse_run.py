"""Verb: tell what a billing run would post."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from engine.db import Database
from engine.money import format_amount, parse_amount
from invoicing.ask_taxes import TaxDesk
from invoicing.blame import is_of_an_account, reason_of
from invoicing.derive import late_usage
from invoicing.model import ParkedAccount
from invoicing.rehearsal import RehearsedDocument, RehearsedTotal, RunRehearsal
from invoicing.rehearse import (
    RUN,
    StaleDerivationError,
    keeps_changing,
    mark_late,
    on_trial,
    post_on_trial,
)
from invoicing.run_report_store import PostedDocument, list_posted
from invoicing.store import BilledName, customer_names
from invoicing.tax_provider import TaxUnknownError
from plans.model import Seller
from plans.seller_store import load_seller

PORTION: Final = 200
"""Customers in one transaction: posting waits for so long."""

TOLD: Final = 40
MOST: Final = 1_000_000


async def rehearse_run(
    *,
    database: Database,
    seller: int,
    as_of: datetime,
    customers: Sequence[str] | None = None,
    portion: int = PORTION,
) -> RunRehearsal:
    """Everything that a run as of that instant would post for all customers, or those (ids)."""
    async with database.transaction(seller=seller, snapshot=True) as connection:
        found = await load_seller(connection=connection)
        late = await late_usage(connection=connection)
    rehearsing = _Rehearsing(
        database=database, seller_number=seller, seller=found, as_of=as_of, late=late
    )
    after: str | None = None
    while True:
        async with database.transaction(seller=seller, snapshot=True) as connection:
            names = await customer_names(
                connection=connection, after=after, limit=portion, customers=customers
            )
        if not names:
            return rehearsing.answer()
        after = names[-1].id
        await rehearsing.take(names)


class _Rehearsing:
    """One rehearsal in progress."""

    def __init__(
        self,
        *,
        database: Database,
        seller_number: int,
        seller: Seller,
        as_of: datetime,
        late: Mapping[int, int],
    ) -> None:
        self.database = database
        self.seller_number = seller_number
        self.seller = seller
        self.as_of = as_of
        self.late = late
        self.documents = self.lines = 0
        self.totals: dict[str, list[int]] = {}
        self.first: list[RehearsedDocument] = []
        self.parked: list[ParkedAccount] = []
        self.taxes = TaxDesk(database=database, seller=seller_number)

    async def take(self, names: Sequence[BilledName], attempt: int = 0) -> None:
        """Rehearse some customers; halve what fails until one is parked."""
        try:
            async with on_trial(database=self.database, seller=self.seller_number) as connection:
                numbers = {number for name in names for number in name.numbers}
                late = {key: at for key, at in self.late.items() if key in numbers}
                await mark_late(connection=connection, late=late)
                posted = await post_on_trial(
                    connection=connection,
                    seller=self.seller,
                    as_of=self.as_of,
                    due_by=self.as_of - self.seller.grace,
                    customers=[name.id for name in names],
                    pending=True,
                )
                documents = await list_posted(connection=connection, run=RUN, limit=MOST)
        except StaleDerivationError:
            keeps_changing(attempt)
            await self.take(names, attempt + 1)
            return
        except TaxUnknownError as unknown:
            failure = await self.taxes.ask(unknown, now=self.as_of)
            if failure is None:
                await self.take(names)
            else:
                await self._halve(names, failure)
            return
        except Exception as error:
            if not is_of_an_account(error):
                raise
            await self._halve(names, error)
            return
        self.documents += posted.documents
        self.lines += posted.lines
        for document in documents:
            self._count(document)

    async def _halve(self, names: Sequence[BilledName], error: Exception) -> None:
        if len(names) > 1:
            middle = len(names) // 2
            await self.take(names[:middle])
            await self.take(names[middle:])
            return
        code, detail = reason_of(error)
        self.parked.append(
            ParkedAccount(
                customer=names[0].key, billed_at=self.as_of, code=code, detail=detail[:500]
            )
        )

    def _count(self, document: PostedDocument) -> None:
        sums = self.totals.setdefault(document.currency, [0, 0])
        minor = parse_amount(document.total, currency=document.currency)
        sums[0 if document.kind == "invoice" else 1] += minor
        if len(self.first) < TOLD:
            self.first.append(
                RehearsedDocument(
                    kind=document.kind.replace(" ", "_"),
                    customer=document.customer,
                    currency=document.currency,
                    total=document.total,
                    amount_due=document.amount_due,
                )
            )

    def answer(self) -> RunRehearsal:
        """What it came to."""
        return RunRehearsal(
            as_of=self.as_of,
            documents=self.documents,
            lines=self.lines,
            totals=tuple(
                RehearsedTotal(
                    currency=currency,
                    invoices=format_amount(invoices, currency=currency),
                    credit_notes=format_amount(credit_notes, currency=currency),
                )
                for currency, (invoices, credit_notes) in sorted(self.totals.items())
            ),
            first=tuple(self.first),
            parked=tuple(self.parked),
        )
