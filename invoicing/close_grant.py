"""Verbs: end a grant and enter in the books what becomes of what is left of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind
from engine.ids import DerivedIds, derived_body
from engine.journal import CONTRACT_BALANCE, CUSTOMER_BALANCE, PREPAID_CREDITS, Posting
from engine.money import round_ratio
from engine.period import local_date
from invoicing.credit_store import (
    end_grant,
    is_paid_out,
    overdrawn_by_void,
    reserve,
    write_move,
)
from invoicing.credits import Key
from invoicing.entry_store import write_entry
from invoicing.store import add_balances
from plans.credit_grant_store import StoredGrant, grants_bought_by
from plans.credit_grants import CreditKind
from plans.model import Seller

_ORDINALS: Final = {"expired": 1, "voided": 2, "rolled_over": 3}


async def enter_granted(
    *, connection: AsyncConnection, seller: Seller, grant: StoredGrant, now: datetime
) -> None:
    """What of bought credit no invoice paid for is owed all the same: debit the grant's contract.

    That is the discount of a purchase, or the whole of credit without one. Given credit enters
    nothing.
    """
    difference = grant.amount_minor - (grant.purchase_minor or 0)
    if grant.kind is CreditKind.PREPAID and difference:
        ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, grant.id, "granted")))
        amounts = {CONTRACT_BALANCE: difference, PREPAID_CREDITS: -difference}
        await _enter(
            connection=connection,
            seller=seller,
            grant=grant,
            ids=ids,
            kind="granted",
            source=grant.id,
            amounts=amounts,
            now=now,
        )


async def close_grant(
    *,
    connection: AsyncConnection,
    seller: Seller,
    grant: StoredGrant,
    at: datetime,
    ended_by: str,
    reserved: Mapping[Key, int],
    rolled_minor: int = 0,
    balance_minor: int = 0,
) -> None:
    """End the grant at `at`: keep what is reserved, roll over and pay out, and drop the rest.

    The posting lock must be held. What is paid out becomes customer balance.
    """
    rest = grant.left_minor - sum(reserved.values()) - rolled_minor
    ids = DerivedIds(body=derived_body(at=at, parts=(seller.id, grant.id, "ended")))
    await end_grant(connection=connection, grant=grant.id, ended_at=at, ended_by=ended_by)
    await reserve(connection=connection, grant=grant.id, amounts=reserved)
    for kind, amount in ((ended_by, rest), ("rolled_over", rolled_minor)):
        if amount:
            await write_move(
                connection=connection,
                move=ids.find("cmv", _ORDINALS[kind]),
                grant=grant.id,
                kind=kind,
                amount_minor=amount,
                moved_at=at,
            )
    if grant.kind is CreditKind.PREPAID and rest:
        amounts = {PREPAID_CREDITS: rest, CUSTOMER_BALANCE: -balance_minor}
        amounts[CONTRACT_BALANCE] = balance_minor - rest
        source = ids.find("cmv", _ORDINALS[ended_by])
        await _enter(
            connection=connection,
            seller=seller,
            grant=grant,
            ids=ids,
            kind=f"credit_{ended_by}",
            source=source,
            amounts=amounts,
            now=at,
        )
        paid = {(grant.customer, grant.currency): balance_minor}
        await add_balances(connection=connection, changes=paid)


async def expire_surplus(
    *,
    connection: AsyncConnection,
    seller: Seller,
    grant: StoredGrant,
    surplus_minor: int,
    at: datetime,
) -> None:
    """What came back to a grant after its end, or was reserved and is not used, expires."""
    parts = (seller.id, grant.id, "surplus", at.isoformat())
    ids = DerivedIds(body=derived_body(at=at, parts=parts))
    move = ids.find("cmv", 1)
    await write_move(
        connection=connection,
        move=move,
        grant=grant.id,
        kind="expired",
        amount_minor=surplus_minor,
        moved_at=at,
    )
    if grant.kind is CreditKind.PREPAID:
        amounts = {PREPAID_CREDITS: surplus_minor, CONTRACT_BALANCE: -surplus_minor}
        await _enter(
            connection=connection,
            seller=seller,
            grant=grant,
            ids=ids,
            kind="credit_expired",
            source=move,
            amounts=amounts,
            now=at,
        )


async def take_given_back(
    *, connection: AsyncConnection, seller: Seller, invoice: str, now: datetime
) -> None:
    """Promotional credit that a void invoice (id) had given back was not given back after all.

    Of a grant that ended it had expired: that is undone, until the charge is billed again. Error:
    `credit_used` where something else was paid with it since.
    """
    overdrawn = await overdrawn_by_void(connection=connection, invoice=invoice)
    for grant, key, has_ended, missing_minor in overdrawn:
        if not has_ended:
            detail = f"credit of {key!r} that it gave back was used since: void first what used it"
            raise BillingError("credit_used", detail, kind=ErrorKind.CONFLICT)
        ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, grant, "regained", invoice)))
        await write_move(
            connection=connection,
            move=ids.find("cmv", 1),
            grant=grant,
            kind="expired",
            amount_minor=-missing_minor,
            moved_at=now,
        )


async def void_bought(
    *, connection: AsyncConnection, seller: Seller, invoice: str, now: datetime
) -> None:
    """Void the grants that a void invoice (id) sold: what is left of them was never bought.

    The mirror of the invoice's issue takes its amount out of the prepaid credits; what was granted
    beyond it goes, and what was used of it stays owed, on the grant's contract. So does what is
    reserved of one that ended, and what had expired of it was nothing to keep. Error:
    `credit_settled` where what was left of it is customer balance by now.
    """
    for grant in await grants_bought_by(connection=connection, invoice=invoice):
        left = 0 if grant.ended_at is not None else grant.left_minor
        if grant.ended_at is None:
            await end_grant(connection=connection, grant=grant.id, ended_at=now, ended_by="voided")
        elif await is_paid_out(connection=connection, grant=grant.id):
            detail = f"what was left of {grant.key!r} became balance: that pays the invoice"
            raise BillingError("credit_settled", detail, kind=ErrorKind.CONFLICT)
        ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, grant.id, "unsold")))
        if left:
            await write_move(
                connection=connection,
                move=ids.find("cmv", _ORDINALS["voided"]),
                grant=grant.id,
                kind="voided",
                amount_minor=left,
                moved_at=now,
            )
        beyond = left - (grant.purchase_minor or 0)
        if beyond and grant.kind is CreditKind.PREPAID:
            amounts = {PREPAID_CREDITS: beyond, CONTRACT_BALANCE: -beyond}
            await _enter(
                connection=connection,
                seller=seller,
                grant=grant,
                ids=ids,
                kind="credit_voided",
                source=grant.id,
                amounts=amounts,
                now=now,
            )


def paid_share(*, grant: StoredGrant, amount_minor: int, seller: Seller) -> int:
    """What was paid for so much of a grant: less than its face value where it was sold for less."""
    if grant.purchase_minor is None or grant.purchase_minor >= grant.amount_minor:
        return amount_minor
    return round_ratio(
        amount_minor * grant.purchase_minor, grant.amount_minor, rounding=seller.rounding
    )


async def _enter(
    *,
    connection: AsyncConnection,
    seller: Seller,
    grant: StoredGrant,
    ids: DerivedIds,
    kind: str,
    source: str,
    amounts: Mapping[str, int],
    now: datetime,
) -> None:
    await write_entry(
        connection=connection,
        entry=ids.find("je"),
        kind=kind,
        source=source,
        entry_on=local_date(at=now, timezone=seller.timezone),
        now=now,
        currency=grant.currency,
        postings=[
            Posting(
                account=account,
                amount_minor=amount,
                customer=grant.customer,
                document=grant.id,
                contract="" if account == CUSTOMER_BALANCE else grant.id,
            )
            for account, amount in amounts.items()
            if amount
        ],
    )
