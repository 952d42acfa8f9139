"""Commands as processes of their own: what they print, how they end."""

import asyncio
import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.command_line import ROOT, create_seller, usance
from tests.fixtures_database import Cluster

EMPTY = "usance_test_empty"

PLAN = """\
scenario: {name}
clock: 2026-01-01T00:00:00Z
plans:
  - key: base
    currency: USD
    interval: {{unit: month, count: 1}}
    prices: [{{key: fee, kind: recurring, model: flat, flat_amount: "49.00"{more}}}]
customers: [{{key: acme, name: Acme}}]
timeline:
  - at: 2026-01-01
    subscribe: {{key: s1, customer: acme, plan: base}}
    expect: {{invoices: [{{total: "{total}"}}]}}
"""


def scenario(folder: Path, name: str, *, total: str = "49.00", more: str = "") -> Path:
    path = folder / f"{name}.scenario.yaml"
    path.write_text(PLAN.format(name=name, total=total, more=more), encoding="utf-8")
    return path


def test_the_commands_are_listed_without_loading_the_application() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, api.cli; print(*sorted(sys.modules))"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"litestar", "sqlalchemy", "asyncpg", "numpy", "reportlab", "granian", "alembic"}
    assert not heavy & set(loaded)


def test_a_check_that_holds_and_one_that_does_not(database_url: str, tmp_path: Path) -> None:
    holds = scenario(tmp_path, "holds")
    good = usance("check", str(holds), database_url=database_url, home=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    scenario(tmp_path, "differs", total="50.00")
    scenario(tmp_path, "later", more=", revenue: {method: ratable_daily}")
    bad = usance("check", "-v", str(tmp_path), database_url=database_url, home=tmp_path)
    assert bad.returncode == 1
    assert "step 1.invoices.1.total: expected 50.00, got 49.00" in bad.stdout
    assert "plans.prices.revenue" in bad.stdout
    assert bad.stdout.split()[-4:-1] != ["3", "0", "0"]
    assert "all" in bad.stdout and bad.stdout.splitlines()[-1].split() == ["all", "1", "1", "1"]


def test_what_is_not_built_is_never_passed(database_url: str, tmp_path: Path) -> None:
    path = scenario(tmp_path, "later", more=", revenue: {method: ratable_daily}")
    ended = usance("check", str(path), database_url=database_url, home=tmp_path)
    assert ended.returncode == 1
    assert "What is not built was not checked" in ended.stdout


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.scenario.yaml", "scenario: A\n", "'clock' is missing"),
        ("a.rating.jsonl", "{\n", "a.rating.jsonl:1"),
        ("a.txt", "", "is no check file"),
    ],
)
def test_a_malformed_file_is_a_sentence(
    tmp_path: Path, database_url: str, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    ended = usance("check", str(tmp_path / name), database_url=database_url, home=tmp_path)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_import_refuses_rows_with_their_reason_and_is_safe_to_repeat(
    database_url: str, tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return usance(*arguments, database_url=database_url, home=tmp_path)

    create_seller(database_url=database_url, home=tmp_path)
    customers = tmp_path / "customers.csv"
    customers.write_text(
        "key,name,net_terms_days\nacme,Acme,14\nbad key!,Beta,\ngamma,Gamma,soon\n",
        encoding="utf-8",
    )
    first = run("import", "customers", str(customers))
    assert first.returncode == 1
    assert "1 accepted, 0 duplicates, 2 refused" in first.stdout
    with (tmp_path / "customers.csv.refused.csv").open(encoding="utf-8", newline="") as report:
        refused = list(csv.DictReader(report))
    assert [row["key"] for row in refused] == ["bad key!", "gamma"]
    assert "/key" in refused[0]["reason"]
    assert "net_terms_days" in refused[1]["reason"]
    usage = tmp_path / "usage.csv"
    usage.write_text(
        "when,account,tokens\n2026-01-01 00:00:00.1,acme,5\n2026-01-01 00:00:01,acme,7\n",
        encoding="utf-8",
    )
    options = ("--time-column", "when", "--subject-column", "account", "--type", "completion")
    taken = run("import", "events", str(usage), *options)
    assert (taken.returncode, taken.stderr) == (0, ""), taken.stderr
    assert "2 accepted, 0 duplicates, 0 refused" in taken.stdout
    again = run("import", "events", str(usage), *options)
    assert "0 accepted, 2 duplicates, 0 refused" in again.stdout


def test_a_run_posts_once_and_the_audit_finds_nothing(database_url: str, tmp_path: Path) -> None:
    created, _ = create_seller(database_url=database_url, home=tmp_path)
    for _ in range(2):
        ended = usance(
            "run", "--as-of", "2026-01-01", "--seller", created,
            database_url=database_url, home=tmp_path,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "0 documents" in ended.stdout
    ahead = usance(
        "run", "--as-of", "2999-01-01", "--seller", created,
        database_url=database_url, home=tmp_path,
    )  # fmt: skip
    assert (ahead.returncode, "as_of lies ahead of the clock" in ahead.stderr) == (2, True)
    audited = usance("audit", database_url=database_url, home=tmp_path)
    assert audited.returncode == 0, audited.stdout
    assert "no violations" in audited.stdout


def test_several_sellers_must_be_told_apart(database_url: str, tmp_path: Path) -> None:
    none = usance("run", database_url=database_url, home=tmp_path)
    assert none.returncode == 2
    assert "There is no seller yet" in none.stderr
    names = [create_seller(database_url=database_url, home=tmp_path)[0] for _ in range(2)]
    many = usance("run", database_url=database_url, home=tmp_path)
    assert many.returncode == 2
    assert all(name in many.stderr for name in names)


def test_a_key_is_made_for_a_seller(database_url: str, tmp_path: Path) -> None:
    created, first = create_seller(database_url=database_url, home=tmp_path)
    made = usance(
        "key", "create", "--scope", "read", database_url=database_url, home=tmp_path
    ).stdout.split()
    assert made[1] == created
    assert made[3].startswith("usk_test_")
    assert made[3] != first


def test_a_database_is_migrated_when_told_and_not_before(cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(cluster.run(f"CREATE DATABASE {EMPTY}"))
    try:
        empty = cluster.dsn(EMPTY)
        behind = usance("audit", database_url=empty, home=tmp_path)
        assert behind.returncode == 2
        assert "run `usance migrate` first" in behind.stderr
        for _ in range(2):
            migrated = usance("migrate", database_url=empty, home=tmp_path)
            assert (migrated.returncode, migrated.stderr) == (0, "")
        assert usance("audit", database_url=empty, home=tmp_path).returncode == 0
    finally:
        asyncio.run(cluster.drop(EMPTY))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://somewhere/else", "USANCE_DATABASE_URL"),
        ("postgresql://u:secret@127.0.0.1:1/db", "The database cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_sentence(tmp_path: Path, url: str, says: str) -> None:
    ended = usance("audit", database_url=url, home=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usance: ")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr
