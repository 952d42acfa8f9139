"""Verbs: take a customer in, and change what is known of it."""

from datetime import datetime

import msgspec
from msgspec import UnsetType
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import FieldError, invalid_field, not_found
from engine.ids import new_id
from plans.catalog import country_of, customer_errors, party_of_customer, refuse_invalid
from plans.drafts import CustomerPatch, patched
from plans.family_store import hold_families, is_below, set_parent
from plans.model import Customer, CustomerDraft, TaxExempt
from plans.seller_store import load_seller, save_party
from plans.store import find_customer, insert_customer, lock_customer, save_customer
from plans.tax_ids import checked_tax_ids, reverse_charge_errors
from plans.tax_rate_store import every_tax_rate
from plans.tax_rates import unknown_rates


async def register_customer(
    *, connection: AsyncConnection, draft: CustomerDraft, now: datetime, wall_now: datetime
) -> Customer:
    """Add a customer. Errors: `invalid_body`; a key already taken violates its unique key.

    `now` is business time; `wall_now` orders the ids.
    """
    draft = await _checked(connection, draft)
    if draft.parent is not None:
        await hold_families(connection=connection)
    party = await save_party(connection=connection, party=party_of_customer(draft))
    customer_id = new_id(prefix="cus", now=wall_now)
    await insert_customer(
        connection=connection, customer_id=customer_id, draft=draft, party=party, now=now
    )
    if draft.parent is not None:
        await _set_parent(connection, customer_id, draft.parent)
    return await _read(connection=connection, reference=customer_id)


async def change_customer(
    *, connection: AsyncConnection, reference: str, patch: CustomerPatch
) -> Customer:
    """Change what the patch names; documents issued before keep what they printed.

    Errors: `not_found`, `invalid_body`.
    """
    if not isinstance(patch.parent, UnsetType):
        await hold_families(connection=connection)
    customer = await lock_customer(connection=connection, reference=reference)
    if customer is None:
        raise not_found(noun="customer", reference=reference)
    known = {name: getattr(customer, name) for name in CustomerDraft.__struct_fields__}
    draft = patched(draft=CustomerDraft(**known), patch=patch)
    draft = await _checked(connection, draft)
    party = await save_party(connection=connection, party=party_of_customer(draft))
    await save_customer(connection=connection, customer_id=customer.id, draft=draft, party=party)
    if draft.parent != customer.parent:
        await _set_parent(connection, customer.id, draft.parent)
    return await _read(connection=connection, reference=customer.id)


async def _set_parent(connection: AsyncConnection, customer: str, reference: str | None) -> None:
    """Name the parent by key or id. Errors: `invalid_body` with `unknown_customer` or `cycle`."""
    parent: Customer | None = None
    if reference is not None:
        parent = await find_customer(connection=connection, reference=reference)
        if parent is None:
            detail = f"no customer {reference!r}"
            raise invalid_field(pointer="/parent", code="unknown_customer", detail=detail)
        if await is_below(connection=connection, customer=customer, parent=parent.id):
            detail = f"{parent.key!r} is this customer, or has it as a parent"
            raise invalid_field(pointer="/parent", code="cycle", detail=detail)
    await set_parent(
        connection=connection, customer=customer, parent=None if parent is None else parent.id
    )


async def _checked(connection: AsyncConnection, draft: CustomerDraft) -> CustomerDraft:
    """The draft with its tax identities as they are kept. Error: `invalid_body`."""
    country = country_of(draft)
    tax_ids, errors = checked_tax_ids(tax_ids=draft.tax_ids, country=country)
    if draft.tax_exempt is TaxExempt.REVERSE and not errors:
        seller = await load_seller(connection=connection)
        errors = reverse_charge_errors(
            exempt=draft.tax_exempt,
            tax_ids=tax_ids,
            country=country,
            seller_country=country_of(seller),
        )
    refuse_invalid([*customer_errors(draft), *errors, *await _rate_errors(connection, draft)])
    return msgspec.structs.replace(draft, tax_ids=tax_ids)


async def _rate_errors(connection: AsyncConnection, draft: CustomerDraft) -> list[FieldError]:
    if not draft.tax_rates:
        return []
    known = {rate.key: rate for rate in await every_tax_rate(connection=connection)}
    return unknown_rates(named=draft.tax_rates, known=known)


async def _read(*, connection: AsyncConnection, reference: str) -> Customer:
    customer = await find_customer(connection=connection, reference=reference)
    assert customer is not None
    return customer
