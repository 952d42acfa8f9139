"""Verb: post for some customers on trial, look at what came of it, and set aside who fails."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from invoicing.ask_taxes import TaxDesk
from invoicing.blame import is_of_an_account, reason_of
from invoicing.post import Posted
from invoicing.rehearse import (
    StaleDerivationError,
    keeps_changing,
    mark_late,
    on_trial,
    post_on_trial,
)
from invoicing.store import BilledName
from invoicing.tax_provider import TaxUnknownError
from plans.model import Seller

Seen = TypeVar("Seen")


class Trials(Generic[Seen]):
    """What billing would post as of an instant, for one group of customers after the other.

    `look` is asked while the documents are there, `keep` gets the customers, what was seen and
    counted once they are gone, `park` a customer that fails, its code and the reason. `late` is
    new usage by customer number.
    """

    def __init__(
        self,
        *,
        database: Database,
        seller_number: int,
        seller: Seller,
        as_of: datetime,
        pending: bool,
        late: Mapping[int, int],
        look: Callable[[AsyncConnection, Sequence[BilledName]], Awaitable[Seen]],
        keep: Callable[[Sequence[BilledName], Seen, Posted], Awaitable[None]],
        park: Callable[[BilledName, str, str], Awaitable[None]],
    ) -> None:
        self.database = database
        self.seller_number = seller_number
        self.seller = seller
        self.as_of = as_of
        self.pending = pending
        self.late = late
        self.look, self.keep, self.park = look, keep, park
        self.taxes = TaxDesk(database=database, seller=seller_number)

    async def take(self, names: Sequence[BilledName], attempt: int = 0) -> None:
        """Try some customers; halve what fails until one is parked."""
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
                    pending=self.pending,
                )
                seen = await self.look(connection, names)
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
        await self.keep(names, seen, posted)

    async def _halve(self, names: Sequence[BilledName], error: Exception) -> None:
        if len(names) > 1:
            middle = len(names) // 2
            await self.take(names[:middle])
            await self.take(names[middle:])
            return
        code, detail = reason_of(error)
        await self.park(names[0], code, detail)
