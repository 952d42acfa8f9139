"""Verb: audit every seller: the invariants, every charge, every event. Reads only.

All of it sees the same facts. The invariants are PostgreSQL's work and the rest is mostly Python's,
so they go on side by side.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit import CHECKS, Violation
from engine.audit import audit as check_invariants
from engine.db import Database, be_patient, share_snapshot
from invoicing.audit_parties import altered_contents
from invoicing.blame import is_of_what_is_stored, reason_of
from invoicing.rederive import Doubt, Mismatch, rederive
from metering.verify_events import DifferingCommit, differing_commits
from metering.verify_usage import DifferingBatches, DifferingUsage, verify_usage
from plans.seller_store import load_seller

FOUND_AT_MOST = 100
DERIVED: Final = "derived again"
MEASURED: Final = "measured again"
ELSEWHERE: Final = "events elsewhere"
PRINTED: Final = "parties and logos"


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it must be."""

    check: str
    seller: str
    object: str
    detail: str


class Audited(msgspec.Struct, kw_only=True):
    """What an audit has looked at, and what it found."""

    sellers: int
    checks: int = 0
    charges: int = 0
    events: int = 0
    """Raw events that were measured again."""
    pending: int = 0
    """Charges touched by facts that the next billing run will look at."""
    violations: int = 0
    broken: list[Broken] = msgspec.field(default_factory=list)
    """What is not as it must be; of each kind and seller the first FOUND_AT_MOST."""

    def add(self, found: list[Broken], *, of: int | None = None) -> None:
        """Note what was found, of so many in all."""
        self.violations += len(found) if of is None else of
        self.broken += found


class _Audit:
    """One audit under way."""

    def __init__(
        self,
        *,
        reader: Database,
        sellers: Mapping[int, str],
        report: Callable[[Audited], None] | None,
    ) -> None:
        self._reader, self._sellers, self._report = reader, sellers, report
        self.done = Audited(sellers=len(sellers))

    def _tell(self) -> None:
        if self._report is not None:
            self._report(self.done)

    async def run(self) -> None:
        """The invariants first, in the transaction whose snapshot the others share."""
        async with (
            self._reader.transaction(seller=None, snapshot=True) as connection,
            asyncio.TaskGroup() as group,
        ):
            await be_patient(connection=connection)
            snapshot = await share_snapshot(connection=connection)
            derived = group.create_task(self._each_seller(snapshot))
            found = await check_invariants(connection=connection, report=self._checked)
            self.done.add([_of_violation(each, self._sellers) for each in found])
            await derived

    def _checked(self, checks: int) -> None:
        self.done.checks = checks
        self._tell()

    async def _each_seller(self, snapshot: str) -> None:
        steps = {
            DERIVED: self._derive,
            MEASURED: self._measure,
            ELSEWHERE: self._compare_commits,
            PRINTED: self._hash_contents,
        }
        for number, seller in self._sellers.items():
            for check, step in steps.items():
                try:
                    async with self._reader.transaction(
                        seller=number, snapshot=snapshot
                    ) as connection:
                        await be_patient(connection=connection)
                        await step(connection, seller)
                except Exception as error:
                    if not is_of_what_is_stored(error):
                        raise
                    # What hides in rows that cannot be read must not hide the rest.
                    code, detail = reason_of(error)
                    told = f"cannot be told: {code}: {detail}"
                    self.done.add([Broken(check=check, seller=seller, object="", detail=told)])

    async def _derive(self, connection: AsyncConnection, seller: str) -> None:
        charges, pending = self.done.charges, self.done.pending
        derived = await rederive(
            connection=connection,
            seller=await load_seller(connection=connection),
            report=lambda count: self._count(charges=charges + count),
        )
        self._count(charges=charges + derived.charges)
        self.done.pending = pending + derived.pending
        self.done.add(
            [_of_mismatch(each, seller) for each in derived.mismatches[:FOUND_AT_MOST]],
            of=derived.differing,
        )

    async def _measure(self, connection: AsyncConnection, seller: str) -> None:
        events = self.done.events
        usage = await verify_usage(
            connection=connection, report=lambda count: self._count(events=events + count)
        )
        self.done.add(
            [_of_usage(each, seller) for each in usage.differing[:FOUND_AT_MOST]],
            of=len(usage.differing),
        )

    async def _compare_commits(self, connection: AsyncConnection, seller: str) -> None:
        commits = await differing_commits(connection=connection)
        self.done.add(
            [_of_commit(each, seller) for each in commits[:FOUND_AT_MOST]], of=len(commits)
        )

    async def _hash_contents(self, connection: AsyncConnection, seller: str) -> None:
        found = await altered_contents(connection=connection)
        told = "its content is not the one that it is named after"
        self.done.add(
            [
                Broken(check=PRINTED, seller=seller, object=each, detail=told)
                for each in found[:FOUND_AT_MOST]
            ],
            of=len(found),
        )

    def _count(self, *, charges: int | None = None, events: int | None = None) -> None:
        self.done.charges = self.done.charges if charges is None else charges
        self.done.events = self.done.events if events is None else events
        self._tell()


async def audit_all(
    *,
    reader: Database,
    sellers: Mapping[int, str],
    report: Callable[[Audited], None] | None = None,
) -> Audited:
    """Audit the sellers (ids by number) in the auditor's role; memory is bounded.

    The invariants are those of all sellers. `report` hears how far it has come. Takes two
    connections. Errors: `event_store_missing`.
    """
    audit = _Audit(reader=reader, sellers=sellers, report=report)
    try:
        await audit.run()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from several
    return audit.done


def checks_in_all() -> int:
    """How many invariants there are."""
    return len(CHECKS)


def _of_violation(one: Violation, sellers: Mapping[int, str]) -> Broken:
    seller = "" if one.seller is None else sellers.get(one.seller, str(one.seller))
    return Broken(check=one.check, seller=seller, object=one.object, detail=one.detail)


def _of_mismatch(one: Mismatch | Doubt, seller: str) -> Broken:
    if isinstance(one, Doubt):
        return Broken(check=DERIVED, seller=seller, object=one.object, detail=one.detail)
    return Broken(
        check=DERIVED,
        seller=seller,
        object=f"{one.subscription} {one.price} {one.period_start_at:%Y-%m-%d}",
        detail=f"posted {one.posted}, derived {one.derived}",
    )


def _of_usage(one: DifferingUsage | DifferingBatches, seller: str) -> Broken:
    batches = f"batch {one.first_batch}"
    if one.last_batch != one.first_batch:
        batches = f"batches {one.first_batch} to {one.last_batch}"
    if isinstance(one, DifferingBatches):
        return Broken(check=MEASURED, seller=seller, object=batches, detail=one.detail)
    if not one.meter:
        detail = f"{one.measured} events stored, {one.events} can be read"
    elif one.events == one.measured:
        detail = f"{one.events} events, measured otherwise than they say"
    else:
        detail = f"{one.events} events, {one.measured} measured"
    return Broken(
        check=MEASURED,
        seller=seller,
        object=f"{one.meter} {batches}".strip(),
        detail=detail,
    )


def _of_commit(one: DifferingCommit, seller: str) -> Broken:
    return Broken(
        check=ELSEWHERE,
        seller=seller,
        object=str(one.batch),
        detail=f"{one.committed} committed, {one.found} found",
    )
