"""requirements/ is what pyproject.toml asks for: pinned, hashed, and without an address."""

import itertools
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tidy.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
BEYOND = {"clickhouse", "nats"}  # past one machine: developers have them, a fresh install does not
RUNTIME = [
    *PROJECT["project"]["dependencies"],
    *itertools.chain(*(EXTRAS[name] for name in EXTRAS.keys() - BEYOND)),
]
WANTED = {
    "runtime.txt": RUNTIME,
    "dev.txt": [
        *RUNTIME,
        *itertools.chain(*(EXTRAS[name] for name in BEYOND)),
        *PROJECT["dependency-groups"]["dev"],
    ],
    "build.txt": [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]],
}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(name: str) -> list[str]:
    """The file's logical lines, comments left out."""
    text = (ROOT / "requirements" / name).read_text()
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line for line in plain.replace("\\\n", " ").splitlines() if line.strip()]


def pins(name: str) -> dict[str, set[Version]]:
    """Versions by canonical name; more than one where the lock forks by marker."""
    pinned: dict[str, set[Version]] = {}
    for line in entries(name):
        requirement = Requirement(line.partition("--hash")[0].strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        pinned.setdefault(canonicalize_name(requirement.name), set()).add(
            Version(specifier.version)
        )
    return pinned


@pytest.mark.parametrize("name", WANTED)
def test_every_dependency_is_pinned_within_its_bounds(name: str) -> None:
    pinned = pins(name)
    wrong = [
        wanted
        for wanted in map(Requirement, WANTED[name])
        if not (versions := pinned.get(canonicalize_name(wanted.name)))
        or not all(wanted.specifier.contains(version, prereleases=True) for version in versions)
    ]
    assert not wrong, "run make lock"


@pytest.mark.parametrize("name", WANTED)
def test_every_pin_has_hashes_and_no_address(name: str) -> None:
    assert not [line for line in entries(name) if not HASH.search(line)]
    assert not [line for line in entries(name) if "://" in line or " @ " in line]


def test_tools_run_on_what_ships() -> None:
    developed = pins("dev.txt")
    differing = {
        name: versions
        for name, versions in pins("runtime.txt").items()
        if developed.get(name) != versions
    }
    assert not differing, "run make lock"
