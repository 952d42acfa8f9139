"""Verb: tell what a billing run would post."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.money import format_amount, parse_amount
from invoicing.derive import late_usage
from invoicing.model import ParkedAccount
from invoicing.post import Posted
from invoicing.rehearsal import RehearsedDocument, RehearsedTotal, RunRehearsal
from invoicing.rehearse import RUN
from invoicing.run_report_store import PostedDocument, list_posted
from invoicing.store import BilledName, customer_names
from invoicing.try_customers import Trials
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
    rehearsing = _Rehearsing(as_of=as_of)
    trials = Trials(
        database=database,
        seller_number=seller,
        seller=found,
        as_of=as_of,
        pending=True,
        late=late,
        look=rehearsing.look,
        keep=rehearsing.keep,
        park=rehearsing.park,
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
        await trials.take(names)


class _Rehearsing:
    """What one rehearsal came to so far."""

    def __init__(self, *, as_of: datetime) -> None:
        self.as_of = as_of
        self.documents = self.lines = 0
        self.totals: dict[str, list[int]] = {}
        self.first: list[RehearsedDocument] = []
        self.parked: list[ParkedAccount] = []

    async def look(
        self, connection: AsyncConnection, names: Sequence[BilledName]
    ) -> list[PostedDocument]:
        """The documents on trial."""
        del names
        return await list_posted(connection=connection, run=RUN, limit=MOST)

    async def keep(
        self, names: Sequence[BilledName], documents: list[PostedDocument], posted: Posted
    ) -> None:
        """Count them."""
        del names
        self.documents += posted.documents
        self.lines += posted.lines
        for document in documents:
            self._count(document)

    async def park(self, name: BilledName, code: str, detail: str) -> None:
        """Note who could not be billed."""
        self.parked.append(
            ParkedAccount(customer=name.key, billed_at=self.as_of, code=code, detail=detail[:500])
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
