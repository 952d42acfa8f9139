"""Verb: find the customers that a body names."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, FieldError
from plans.version_store import customer_ids


async def cohort(
    *, connection: AsyncConnection, references: Sequence[str] | None
) -> list[str] | None:
    """The ids of the customers named by key or id; None when all are meant.

    Errors: `invalid_body` with every one that there is not.
    """
    if references is None:
        return None
    ids = await customer_ids(connection=connection, references=references)
    unknown = [
        FieldError(
            pointer=f"/customers/{place}",
            code="unknown_customer",
            detail=f"no customer {references[place]!r}",
        )
        for place, found in enumerate(ids)
        if found is None
    ]
    if unknown:
        raise BillingError("invalid_body", unknown[0].detail, errors=tuple(unknown))
    return [found for found in ids if found is not None]
