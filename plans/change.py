"""Verbs that change what runs: change, pause, resume, and undoing what is still to come."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, invalid_field, not_found
from engine.ids import new_id
from plans.agree import Asked, Life, agree, load_life
from plans.agreement import Agreement, ChangeDraft, PauseDraft
from plans.alteration import Alteration, altered
from plans.life import Act, ActKind
from plans.life_store import insert_own_prices, last_number, save_alterations, undo_act
from plans.model import Proration, Seller
from plans.subscription_store import lock_agreement
from plans.timeline import change_instant, turn_instant


async def change(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: ChangeDraft,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Put other terms in force from an instant on; give the subscription's id.

    What was billed beyond it becomes a difference on the customer's next document, or at once
    with `invoice_now`. Errors: `not_found`, `subscription_over`, `invalid_body`.
    """
    agreement = await _lock(connection, reference)
    named = (draft.plan, draft.plan_version, draft.quantities, draft.overrides)
    if not any(named):
        detail = "a change names a plan, quantities or overrides"
        raise invalid_field(pointer="", code="required", detail=detail)
    life = await load_life(connection=connection, agreement=agreement)
    last = await last_number(connection=connection, subscription=agreement.id)
    found = await alter(
        connection=connection,
        seller=seller,
        agreement=agreement,
        life=life,
        draft=draft,
        number=last + 1,
        now=now,
        wall_now=wall_now,
    )
    await insert_own_prices(
        connection=connection, subscription=agreement.id, prices=life.new_prices
    )
    await save_alterations(connection=connection, alterations=[found])
    return agreement.id


async def alter(
    *,
    connection: AsyncConnection,
    seller: Seller,
    agreement: Agreement,
    life: Life,
    draft: ChangeDraft,
    number: int,
    now: datetime,
    wall_now: datetime,
) -> Alteration:
    """What a change makes of a subscription; nothing is written.

    Reads only plans and meters that the life does not name yet. Afterwards the life has the act
    `number` and knows the prices it brings. Errors: as `change`.
    """
    effective = change_instant(agreement=agreement, effective=draft.effective, now=now)
    before = life.state_at(effective)
    asked = Asked(
        plan=draft.plan,
        plan_version=draft.plan_version,
        quantities=draft.quantities,
        overrides=draft.overrides,
    )
    after = await agree(
        connection=connection, life=life, state=before, asked=asked, wall_now=wall_now
    )
    prorate = seller.proration is not Proration.NONE if draft.prorate is None else draft.prorate
    act = Act(
        id=new_id(prefix="sch", now=wall_now),
        number=number,
        kind=ActKind.CHANGE,
        effective_at=effective,
        recorded_at=now,
        plan=None if draft.plan is None and draft.plan_version is None else after.plan,
        quantities=dict(draft.quantities),
        overrides={key: after.overrides[key] for key in draft.overrides},
        prorate=prorate,
        invoice_now=draft.invoice_now,
    )
    return _with(agreement, life, act, now=now, wall_now=wall_now)


async def pause(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: PauseDraft,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Stop charging from an instant on; nothing falls due until it is resumed. Gives the id.

    Errors: `not_found`, `not_active`, `already_paused`, `invalid_body`.
    """
    turn = (draft, ActKind.PAUSE)
    return await _turn(connection, seller, reference, turn, now=now, wall_now=wall_now)


async def resume(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: PauseDraft,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Charge again from an instant on. Gives the id.

    Errors: `not_found`, `not_active`, `not_paused`, `invalid_body`.
    """
    turn = (draft, ActKind.RESUME)
    return await _turn(connection, seller, reference, turn, now=now, wall_now=wall_now)


async def undo_change(
    *,
    connection: AsyncConnection,
    reference: str,
    change_id: str,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Take back a change that is not in effect; the rest is as if it never was. Gives the id.

    Errors: `not_found`, `change_in_effect`.
    """
    agreement = await _lock(connection, reference)
    life = await load_life(connection=connection, agreement=agreement)
    found = next((act for act in life.acts if act.id == change_id), None)
    if found is None:
        raise not_found(noun="scheduled change", reference=change_id)
    if found.effective_at <= now:
        message = f"the change is in effect since {found.effective_at:%Y-%m-%d}"
        raise BillingError("change_in_effect", message, kind=ErrorKind.CONFLICT)
    await undo_act(connection=connection, act=found.id, now=now)
    life.acts.remove(found)
    found = _with(agreement, life, None, now=now, wall_now=wall_now)
    await save_alterations(connection=connection, alterations=[found])
    return agreement.id


async def _lock(connection: AsyncConnection, reference: str) -> Agreement:
    agreement = await lock_agreement(connection=connection, reference=reference)
    if agreement is None:
        raise not_found(noun="subscription", reference=reference)
    return agreement


async def _turn(
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    turn: tuple[PauseDraft, ActKind],
    *,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Add a pause or a resume, if it has something to turn at that instant."""
    draft, kind = turn
    agreement = await _lock(connection, reference)
    effective = turn_instant(agreement=agreement, effective=draft.effective, now=now)
    life = await load_life(connection=connection, agreement=agreement)
    is_paused = life.state_at(effective).is_paused
    if is_paused is (kind is ActKind.PAUSE):
        code, told = ("already_paused", "") if is_paused else ("not_paused", "not ")
        message = f"subscription {agreement.key!r} is {told}paused at {effective:%Y-%m-%d}"
        raise BillingError(code, message, kind=ErrorKind.CONFLICT)
    act = Act(
        id=new_id(prefix="sch", now=wall_now),
        number=1 + await last_number(connection=connection, subscription=agreement.id),
        kind=kind,
        effective_at=effective,
        recorded_at=now,
        prorate=seller.proration is not Proration.NONE,
    )
    found = _with(agreement, life, act, now=now, wall_now=wall_now)
    await save_alterations(connection=connection, alterations=[found])
    return agreement.id


def _with(
    agreement: Agreement, life: Life, act: Act | None, *, now: datetime, wall_now: datetime
) -> Alteration:
    """Add the act, if there is one, and lay the life out again."""
    life.acts += [] if act is None else [act]
    return altered(
        agreement=agreement,
        beginning=life.beginning,
        acts=life.acts,
        catalogue=life.catalogue,
        now=now,
        make_id=lambda: new_id(prefix="pri", now=wall_now),
        act=act,
    )
