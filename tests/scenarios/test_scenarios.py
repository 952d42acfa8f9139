"""Our scenarios hold, and so do the reference cases that ever held, where those are at hand.

What each of them leaves behind is in order: the audit finds nothing.
"""

import asyncio
import os
from pathlib import Path

import pytest

from api.check_scenarios import Result
from api.cli_check import play_all
from api.runtime import Runtime
from api.scenario_file import read_scenario
from engine.postgres import ExternalDatabase
from engine.settings import Settings
from invoicing.audit_all import Broken
from tests.billing_world import audited
from tests.fixtures_database import Cluster

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
ENDING = ".scenario.yaml"
OURS = sorted(path.relative_to(HERE) for path in HERE.rglob(f"*{ENDING}"))
SUPPORTED = (HERE / "supported.txt").read_text(encoding="utf-8").split()


def reference_cases() -> Path:
    """A folder of reference cases: not part of the project, looked at where there is one."""
    given = os.environ.get("USANCE_CASES")
    beside = HERE.parents[2].joinpath("shared", "cases")
    return Path(given) if given else beside


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Runtime:
    dsn = cluster.admin_dsn
    return Runtime(
        settings=Settings(home=Path(os.sep)),
        server=ExternalDatabase(admin_dsn=dsn),
        admin_dsn=dsn,
        app_dsn=dsn,
        auditor_dsn=dsn,
    )


def played(paths: list[Path], running: Runtime) -> tuple[dict[str, Result], list[str]]:
    """What became of each scenario, and what the audit of all of them found."""
    scenarios = [read_scenario(path=path) for path in paths]
    found: list[Broken] = []

    async def examine(dsn: str) -> None:
        found.extend((await audited(dsn)).broken)

    playing = play_all(scenarios=scenarios, running=running, quiet=True, examine=examine)
    results = {str(result.scenario.path): result for result in asyncio.run(playing)}
    sellers = {result.seller: path for path, result in results.items()}
    return results, [f"{sellers.get(each.seller)}: {each}" for each in found]


@pytest.fixture(scope="module")
def ours(running: Runtime) -> tuple[dict[str, Result], list[str]]:
    return played([HERE / path for path in OURS], running)


@pytest.mark.parametrize("path", OURS, ids=str)
def test_scenario(path: Path, ours: tuple[dict[str, Result], list[str]]) -> None:
    result = ours[0][str(HERE / path)]
    told = "\n".join([*result.reasons, *map(str, result.differences)])
    assert result.outcome == "passed", told


def test_the_audit_finds_nothing_wrong_with_what_scenarios_leave(
    ours: tuple[dict[str, Result], list[str]],
) -> None:
    assert ours[1] == []


@pytest.fixture(scope="module")
def played_reference(running: Runtime) -> tuple[dict[str, Result], list[str]]:
    folder = reference_cases() / "scenarios"
    if not folder.is_dir():
        pytest.skip("no reference cases here: USANCE_CASES names their folder")
    results, found = played(sorted(folder.rglob(f"*{ENDING}")), running)
    named = {
        Path(path).relative_to(folder).as_posix().removesuffix(ENDING): result
        for path, result in results.items()
    }
    return named, found


@pytest.fixture(scope="module")
def reference(played_reference: tuple[dict[str, Result], list[str]]) -> dict[str, Result]:
    return played_reference[0]


def test_the_audit_finds_nothing_wrong_with_what_reference_cases_leave(
    played_reference: tuple[dict[str, Result], list[str]],
) -> None:
    assert played_reference[1] == []


def test_reference_cases_that_held_still_hold(reference: dict[str, Result]) -> None:
    broken = {
        name: [*reference[name].reasons, *map(str, reference[name].differences)]
        for name in SUPPORTED
        if name not in reference or reference[name].outcome != "passed"
    }
    assert not broken


def test_no_reference_case_that_can_be_played_fails(reference: dict[str, Result]) -> None:
    failed = {
        name: [str(entry) for entry in result.differences]
        for name, result in reference.items()
        if result.outcome == "failed"
    }
    assert not failed


def test_the_list_of_what_holds_only_grows(reference: dict[str, Result]) -> None:
    held = {name for name, result in reference.items() if result.outcome == "passed"}
    unlisted = sorted(held - set(SUPPORTED))
    assert not unlisted, "add these to tests/scenarios/supported.txt"
    assert sorted(set(SUPPORTED)) == SUPPORTED
