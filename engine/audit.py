"""The invariants of the books, checked by plain SQL under a role that can only read.

Nothing here derives anything: it compares what is stored with what is stored, so an error in the
derivation cannot hide from it behind the same error.
"""

from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_books import BOOK_CHECKS
from engine.audit_check import Check
from engine.audit_usage import USAGE_CHECKS
from engine.audit_walls import WALL_CHECKS

__all__ = ["CHECKS", "Check", "Violation", "audit"]

CHECKS: Final[tuple[Check, ...]] = (*BOOK_CHECKS, *USAGE_CHECKS, *WALL_CHECKS)
FOUND_AT_MOST: Final = 100


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One row that breaks an invariant."""

    check: str
    seller: int | None
    """None for what belongs to no seller: settings, roles, guards."""
    object: str
    """What is wrong: an id, or a few words that identify it within the seller."""
    detail: str
    """What was found, with both sides of the comparison."""


async def audit(*, connection: AsyncConnection) -> list[Violation]:
    """Run every check in the connection's transaction; an empty list is a clean bill.

    The connection acts as the auditor, who sees all sellers; a snapshot transaction lets all
    checks see the same facts. At most 100 violations of each check are told.
    """
    found: list[Violation] = []
    for check in CHECKS:
        statement = text(
            f"SELECT seller, object, detail FROM ({check.sql}) AS v (seller, object, detail)"
            " ORDER BY seller NULLS FIRST, object, detail LIMIT :found_at_most"
        )
        rows = await connection.execute(statement, {"found_at_most": FOUND_AT_MOST})
        found.extend(
            Violation(check=check.name, seller=row.seller, object=row.object, detail=row.detail)
            for row in rows
        )
    return found
