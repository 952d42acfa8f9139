"""Scenario files as values: what is written, exactly, or a sentence that says what is wrong.

YAML 1.1 turns `6.10` into a float, `12:30` into an integer and `NO` into a boolean. Here a number
with a fraction becomes a `Decimal`, a timestamp stays the text that was written, and only `true`
and `false` are booleans, so that quantities and instants arrive as the author meant them.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import yaml

from engine.errors import BillingError

Scalar = str | int | bool | Decimal | None
Value = Any
"""A mapping, a list or a Scalar, as the file holds it."""

VERBS: Final = frozenset(
    """subscribe change cancel pause resume usage void_event amend_event contract grant_credit
    void_credit apply_coupon invoice finalize void write_off credit_note pay refund dispute gateway
    promise publish_version migrate close_month post""".split()
)
EXPECTATIONS: Final = frozenset(
    """invoices credit_notes payments refunds subscriptions customers credit_grants journal revenue
    rpo dunning_cases emails outbox metrics events get answer""".split()
)
LISTS: Final = ("tax_rates", "meters", "coupons", "plans", "campaigns", "customers")
"""The lists of bodies a file may begin with, in the order in which they are sent."""

_TOP: Final = frozenset(
    {"scenario", "source", "seller", "clock", "timeline", "entitlements", *LISTS}
)
_STEP: Final = frozenset({"at", "as", "error", "expect"})
_INTEGER: Final = re.compile(r"^-?(0|[1-9][0-9]*)$")
_DECIMAL: Final = re.compile(r"^-?[0-9]+\.[0-9]+$")
_INSTANT_FIELD: Final = re.compile(r"^(at|effective|as_of|time|period|.*_at)$")
_DECIMAL_FIELD: Final = re.compile(
    r"^(quantity|included_quantity|package_size|up_to|rate|percentage|percent_off|(.*_)?amount)$"
)
_DATE: Final = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_INSTANT: Final = re.compile(
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})$"
)


class ScenarioError(BillingError):
    """A file that is not a scenario; the sentence names the file and the place in it."""

    def __init__(self, *, path: Path, place: str, detail: str) -> None:
        """`place` is a line or a path inside the file, empty for the file as a whole."""
        where = f"{path}: {place}: " if place else f"{path}: "
        super().__init__("malformed_scenario", where + detail)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: the clock moves to `at`, the verb acts, then `expect` is compared."""

    number: int
    """Counted from 1, as in the messages."""
    at: datetime | None = None
    verb: str | None = None
    body: Value = None
    bind: str | None = None
    error: str | None = None
    expect: Mapping[str, Value] = {}
    where: Mapping[str, Value] = {}
    last: int | None = None


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One file: a seller, a clock, what is set up before, and the timeline."""

    path: Path
    name: str
    source: str
    seller: Mapping[str, Value]
    clock: datetime
    setup: Mapping[str, Sequence[Mapping[str, Value]]]
    steps: tuple[Step, ...]


class _ExactLoader(yaml.SafeLoader):
    """Safe, without YAML 1.1's surprises; a key that is written twice is an error."""


_TAG: Final = "tag:yaml.org,2002:"
_ExactLoader.yaml_implicit_resolvers = {}
_ExactLoader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(true|false)$"), list("tf"))
_ExactLoader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(null|~|)$"), ["n", "~", ""])
_ExactLoader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-0123456789"))
_ExactLoader.add_implicit_resolver(f"{_TAG}float", _DECIMAL, list("-0123456789"))


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal:
    return Decimal(str(loader.construct_scalar(node)))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    loader.flatten_mapping(node)
    built: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a word", key_node.start_mark
            )
        if str(key) in built:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} is written twice", key_node.start_mark
            )
        built[str(key)] = loader.construct_object(value_node, deep=True)
    return built


_ExactLoader.add_constructor(f"{_TAG}float", _decimal)
_ExactLoader.add_constructor(f"{_TAG}map", _mapping)


def load_exactly(*, text: str, path: Path) -> Value:
    """The document of a YAML text. Raises ScenarioError with the line at fault."""
    try:
        return yaml.load(text, Loader=_ExactLoader)  # noqa: S506 a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}"
        detail = error.problem or "cannot be read as YAML"
        raise ScenarioError(path=path, place=place, detail=detail) from error
    except yaml.YAMLError as error:
        raise ScenarioError(path=path, place="", detail="cannot be read as YAML") from error


def read_instant(text: object) -> datetime | None:
    """An instant as a file writes it, a bare date being midnight UTC; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        if _DATE.match(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if _INSTANT.match(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except ValueError:
        return None
    return None


def written(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def as_sent(value: Value, *, name: str = "", above: str = "") -> Value:
    """A body as the API takes it: amounts and quantities as text, bare dates of instants whole."""
    if isinstance(value, dict):
        fields = cast("dict[str, Value]", value)
        return {key: as_sent(item, name=key, above=name) for key, item in fields.items()}
    if isinstance(value, list):
        return [as_sent(item, name=name, above=above) for item in cast("list[Value]", value)]
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if _DECIMAL_FIELD.match(name) or above == "quantities" else value
    if _INSTANT_FIELD.match(name):
        read = read_instant(value)
        return value if read is None else written(read)
    return value


class _Reader:
    """Checks one document against the shape of a scenario, remembering where it is."""

    def __init__(self, *, path: Path) -> None:
        self.path = path

    def fail(self, place: str, detail: str) -> ScenarioError:
        return ScenarioError(path=self.path, place=place, detail=detail)

    def mapping(self, value: Value, place: str) -> dict[str, Value]:
        if not isinstance(value, dict):
            raise self.fail(place, f"must be a mapping, not {_named(value)}")
        return cast("dict[str, Value]", value)

    def words(self, value: Value, place: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fail(place, f"must be text, not {_named(value)}")
        return value

    def instant(self, value: Value, place: str) -> datetime:
        found = read_instant(value)
        if found is None:
            raise self.fail(place, f"must be an instant or a date, not {value!r}")
        return found

    def bodies(self, value: Value, place: str) -> tuple[dict[str, Value], ...]:
        if not isinstance(value, list):
            raise self.fail(place, f"must be a list, not {_named(value)}")
        return tuple(
            self.mapping(item, f"{place}.{index}")
            for index, item in enumerate(cast("list[Value]", value))
        )

    def setup(self, document: Mapping[str, Value]) -> dict[str, Sequence[Mapping[str, Value]]]:
        """The lists of bodies, those of entitlements within the plans that they name."""
        found = {name: self.bodies(document[name], name) for name in LISTS if name in document}
        for index, item in enumerate(self.bodies(document.get("entitlements", []), "entitlements")):
            place = f"entitlements.{index}"
            named = [plan for plan in found.get("plans", ()) if plan.get("key") == item.get("plan")]
            if len(named) != 1 or set(item) != {"plan", "entitlements"}:
                raise self.fail(place, "must name the key of a plan above and its entitlements")
            own = self.mapping(named[0].get("entitlements", {}), place)
            more = self.mapping(item["entitlements"], place)
            named[0]["entitlements"] = {**own, **more}
        return dict(found)

    def step(self, value: Value, number: int) -> Step:
        place = f"step {number}"
        body = self.mapping(value, place)
        verbs = [name for name in body if name not in _STEP]
        unknown = [name for name in verbs if name not in VERBS]
        if unknown:
            raise self.fail(place, f"there is no verb {', '.join(map(repr, unknown))}")
        if len(verbs) > 1:
            raise self.fail(place, f"has more than one verb: {', '.join(verbs)}")
        if not verbs and ("as" in body or "error" in body):
            raise self.fail(place, "'as' and 'error' need a verb")
        expect = dict(self.mapping(body.get("expect", {}), f"{place}.expect"))
        where = self.mapping(expect.pop("where", {}), f"{place}.expect.where")
        last = expect.pop("last", None)
        if last is not None and (not isinstance(last, int) or last < 1):
            raise self.fail(f"{place}.expect.last", "must be a whole number from 1")
        for name in expect:
            if name not in EXPECTATIONS:
                raise self.fail(f"{place}.expect", f"there is nothing called {name!r} to expect")
        return Step(
            number=number,
            at=self.instant(body["at"], f"{place}.at") if "at" in body else None,
            verb=verbs[0] if verbs else None,
            body=body[verbs[0]] if verbs else None,
            bind=self.words(body["as"], f"{place}.as") if "as" in body else None,
            error=self.words(body["error"], f"{place}.error") if "error" in body else None,
            expect=expect,
            where=where,
            last=last,
        )


def parse_scenario(*, text: str, path: Path) -> Scenario:
    """One scenario from the text of its file. Raises ScenarioError."""
    reader = _Reader(path=path)
    document = reader.mapping(load_exactly(text=text, path=path), "")
    unknown = sorted(set(document) - _TOP)
    if unknown:
        raise reader.fail("", f"a scenario has no {', '.join(map(repr, unknown))}")
    for name in ("scenario", "clock", "timeline"):
        if name not in document:
            raise reader.fail("", f"{name!r} is missing")
    clock = reader.instant(document["clock"], "clock")
    steps = tuple(
        reader.step(item, number)
        for number, item in enumerate(reader.bodies(document["timeline"], "timeline"), start=1)
    )
    reached = clock
    for step in steps:
        if step.at is not None and step.at < reached:
            raise reader.fail(
                f"step {step.number}.at", f"the clock is at {reached.isoformat()} by then"
            )
        reached = step.at or reached
    return Scenario(
        path=path,
        name=reader.words(document["scenario"], "scenario"),
        source=reader.words(document.get("source", "our own"), "source"),
        seller=reader.mapping(document.get("seller", {}), "seller"),
        clock=clock,
        setup=reader.setup(document),
        steps=steps,
    )


def read_scenario(*, path: Path) -> Scenario:
    """The scenario in the file at `path`. Raises ScenarioError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(path=path, place="", detail="cannot be read as a text file") from error
    return parse_scenario(text=text, path=path)


def _named(value: Value) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else repr(value)
