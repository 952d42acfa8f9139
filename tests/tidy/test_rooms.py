"""Nouns are pure, stores speak SQL, each outside system has one door."""

import ast
import re
import tomllib
from collections.abc import Iterator

from tests.tidy.tree import ROOT, Module, functions, kinds, modules, nouns, speaks_sql

# The one module, by pattern, that may import each outside system.
DOORS = {
    "stripe": r"dunning\.gateway",
    "reportlab": r"invoicing\.pdf(_\w+)?",
    "pikepdf": r"invoicing\.pdf_archive",
    "clickhouse_connect": r"metering\.clickhouse_store",
    "smtplib": r"dunning\.notify",
    "nats": r"api\.jetstream",
    "aiosmtplib": r"dunning\.notify",
    "apscheduler": r"api\.worker",
    "httpx": r"invoicing\.ask_taxes",
}
# The ground floor carries the connection pools, the queues and the log; above it SQL is in stores.
SQL_ROOM = "engine"
CLOCK_CALLS = re.compile(
    r"(datetime\.)?(datetime\.(now|utcnow|today)|date\.today)"
    r"|time\.(time|time_ns|monotonic|monotonic_ns|perf_counter|perf_counter_ns|sleep|localtime|gmtime)"
)
# The clock is read by the roots; the server's launcher waits for it to answer.
CLOCK_READERS = re.compile(r"api\.(app|worker|cli(_\w+)?)|api\.cli\.\w+|engine\.postgres(_\w+)?")


def dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        parent = dotted(node.value)
        return None if parent is None else f"{parent}.{node.attr}"
    return None


def calls(module: Module) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of each call, imports resolved."""
    bound = {entry.bound: entry.full for entry in module.imports if entry.name is not None}
    bound |= {
        entry.bound: entry.full
        for entry in module.imports
        if entry.name is None and "." not in entry.module
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func)) is not None:
            head, dot, rest = name.partition(".")
            yield node.lineno, f"{bound.get(head, head)}{dot}{rest}"


def listed_nouns() -> set[str]:
    """Modules the import contract `nouns` names, its wildcards expanded."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(entry for entry in config["contracts"] if entry["id"] == "nouns")
    pattern = "|".join(
        re.escape(source).replace(r"\*\*", ".+").replace(r"\*", "[^.]+")
        for source in contract["source_modules"]
    )
    return {name for name in modules() if re.fullmatch(pattern, name)}


def test_the_noun_contract_lists_every_pure_module() -> None:
    missing = sorted({module.name for module in nouns()} - listed_nouns())
    assert not missing, f"add to the contract 'nouns' in pyproject.toml: {missing}"


def test_the_noun_contract_lists_only_pure_modules() -> None:
    impure = sorted(name for name in listed_nouns() if kinds()[name] != "noun")
    assert not impure, f"listed as nouns, but they reach the outside or import who does: {impure}"


def test_models_are_nouns() -> None:
    impure = sorted(
        name
        for name, module in modules().items()
        if module.leaf == "model" and kinds()[name] != "noun"
    )
    assert not impure


def test_nouns_do_not_leave_exact_arithmetic() -> None:
    found = [
        f"{module.path}:{line} {name}("
        for module in nouns()
        for line, name in calls(module)
        if name in {"float", "round", "builtins.float", "builtins.round"}
    ]
    assert not found


def test_nouns_touch_nothing() -> None:
    found = [
        f"{module.path}:{line} {name}("
        for module in nouns()
        for line, name in calls(module)
        if name in {"open", "print", "input", "os.getenv", "os.environ.get"}
    ]
    assert not found


def test_only_roots_read_the_clock() -> None:
    found = [
        f"{module.path}:{line} {name}("
        for module in modules().values()
        if not CLOCK_READERS.fullmatch(module.name)
        for line, name in calls(module)
        if CLOCK_CALLS.fullmatch(name)
    ]
    assert not found


def test_sql_is_spoken_in_stores() -> None:
    found = sorted(
        module.path
        for module in modules().values()
        if speaks_sql(module)
        and module.room != SQL_ROOM
        and not (module.leaf == "store" or module.leaf.endswith("_store"))
    )
    assert not found


def test_each_outside_system_has_one_door() -> None:
    found = [
        f"{module.path}:{entry.line} imports {entry.full}"
        for module in modules().values()
        for entry in module.imports
        if (door := DOORS.get(entry.top)) and not re.fullmatch(door, module.name)
    ]
    assert not found


def test_public_functions_of_nouns_say_what_they_do() -> None:
    found = [
        f"{module.path}:{node.lineno} {name}"
        for module in nouns()
        for name, node in functions(module.tree)
        if not any(part.startswith("_") for part in name.split("."))
        and ast.get_docstring(node) is None
        and name in {child.name for child in module.tree.body if isinstance(child, type(node))}
    ]
    assert not found
