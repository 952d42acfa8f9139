"""The invariants of the books, checked by plain SQL under a role that can only read.

Nothing here derives anything: it compares what is stored with what is stored, so an error in the
derivation cannot hide from it behind the same error.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_books import BOOK_CHECKS
from engine.audit_check import Check
from engine.audit_told import TOLD_CHECKS
from engine.audit_usage import USAGE_CHECKS
from engine.audit_walls import WALL_CHECKS
from engine.db import be_patient

__all__ = ["CHECKS", "Check", "Violation", "audit"]

CHECKS: Final[tuple[Check, ...]] = (*BOOK_CHECKS, *TOLD_CHECKS, *USAGE_CHECKS, *WALL_CHECKS)
FOUND_AT_MOST: Final = 100
WORK_MEMORY: Final = "64MB"
"""For each sort and hash of the checks, unless the server gives more."""
_WORK_MEMORY: Final = text("""
SELECT CASE WHEN pg_size_bytes(current_setting('work_mem')) < pg_size_bytes(:least)
  THEN set_config('work_mem', :least, true) END
""")


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One row that breaks an invariant."""

    check: str
    seller: int | None
    """None for what belongs to no seller: settings, roles, guards."""
    object: str
    """What is wrong: an id, or a few words that identify it within the seller."""
    detail: str
    """What was found, with both sides of the comparison."""


async def audit(
    *, connection: AsyncConnection, report: Callable[[int], None] | None = None
) -> list[Violation]:
    """Run every check in the connection's transaction; an empty list is a clean bill.

    The connection acts as the auditor, who sees all sellers; a snapshot transaction lets all
    checks see the same facts. At most 100 violations of each check are told. `report` hears how
    many checks are done.
    """
    await be_patient(connection=connection)
    await connection.execute(_WORK_MEMORY, {"least": WORK_MEMORY})
    found: list[Violation] = []
    done = 0
    for group in groups_of(CHECKS):
        rows = await connection.execute(_statement(group), {"found_at_most": FOUND_AT_MOST})
        found.extend(
            Violation(
                check=group[row.place].name, seller=row.seller, object=row.object, detail=row.detail
            )
            for row in rows
        )
        done += len(group)
        if report is not None:
            report(done)
    order = {check.name: place for place, check in enumerate(CHECKS)}
    return sorted(found, key=lambda violation: order[violation.check])


def groups_of(checks: Sequence[Check]) -> list[list[Check]]:
    """Checks that read the same sums, together; the others each by itself."""
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.given or check.name, []).append(check)
    return list(groups.values())


def _statement(group: Sequence[Check]) -> TextClause:
    """(place in the group, seller, object, detail) of what the checks of a group find."""
    given = f"WITH {group[0].given} " if group[0].given else ""
    parts = [
        f"(SELECT {place} AS place, seller, object, detail"
        f" FROM ({check.sql}) AS v (seller, object, detail)"
        " ORDER BY seller NULLS FIRST, object, detail LIMIT :found_at_most)"
        for place, check in enumerate(group)
    ]
    return text(
        f"{given}SELECT * FROM ({' UNION ALL '.join(parts)}) AS found"
        " ORDER BY place, seller NULLS FIRST, object, detail"
    )
