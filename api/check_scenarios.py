"""Verb: play a scenario through the public API on a seller of its own and compare what came."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, cast

import msgspec

from api.in_process import Answer, Client
from api.scenario_file import LISTS, Scenario, Step, as_sent, read_instant, written
from api.scenario_match import Difference, differences, same_scalar, shown
from api.scenario_support import not_built
from engine.money import is_currency

MakeSeller = Callable[[datetime], Awaitable[Client]]
"""Creates a fresh test seller whose clock stands at the instant; the client holds its key."""

Outcome = Literal["passed", "failed", "unsupported"]

ROUTES: Final[Mapping[str, tuple[str, str | None]]] = {
    "subscribe": ("/v1/subscriptions", None),
    "change": ("/v1/subscriptions/{}/change", "subscription"),
    "cancel": ("/v1/subscriptions/{}/cancel", "subscription"),
    "pause": ("/v1/subscriptions/{}/pause", "subscription"),
    "resume": ("/v1/subscriptions/{}/resume", "subscription"),
    "apply_coupon": ("/v1/subscriptions/{}/coupons", "subscription"),
    "void": ("/v1/invoices/{}/void", "invoice"),
    "finalize": ("/v1/invoices/{}/finalize", "invoice"),
    "write_off": ("/v1/invoices/{}/write_off", "invoice"),
    "invoice": ("/v1/invoices", None),
    "credit_note": ("/v1/credit_notes", None),
    "pay": ("/v1/payments", None),
    "refund": ("/v1/refunds", None),
    "grant_credit": ("/v1/credit_grants", None),
    "void_credit": ("/v1/credit_grants/{}/void", "grant"),
    "void_event": ("/v1/events/{}/void", "id"),
    "amend_event": ("/v1/events/{}/amend", "id"),
    "publish_version": ("/v1/plans/{}/versions", "plan"),
    "migrate": ("/v1/plans/{}/migrate", "plan"),
}
"""The route of each verb and the field that names the object in its path."""

NOT_SUPPORTED: Final = "not_supported"
"""The code of a field that has its place in the API and is not built yet."""

PAGE: Final = 100
_REFERENCE: Final = re.compile(r"\$\{([^}]+)\}")
_DOCUMENTS: Final = frozenset({"invoices", "credit_notes", "payments", "refunds"})


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one scenario: the differences found, or what of it is not built."""

    scenario: Scenario
    outcome: Outcome
    seller: str = ""
    """The id of the seller that it was played on."""
    differences: tuple[Difference, ...] = ()
    reasons: tuple[str, ...] = ()


class _CannotGoOnError(Exception):
    """A step that the later ones stand on did not work."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


class _NotBuiltError(Exception):
    """The API itself says that it does not do this yet."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


async def run_scenario(*, scenario: Scenario, make_seller: MakeSeller) -> Result:
    """Play one scenario. Unsupported ones are not begun."""
    reasons = not_built(scenario)
    if reasons:
        return Result(scenario=scenario, outcome="unsupported", reasons=tuple(reasons))
    client = await make_seller(scenario.clock)
    play = _Play(scenario=scenario, client=client)
    seller = (await client.get("/v1/seller")).json()["id"]
    try:
        await play.set_up()
        for step in scenario.steps:
            await play.step(step)
    except _NotBuiltError as stop:
        return Result(scenario=scenario, outcome="unsupported", seller=seller, reasons=stop.reasons)
    except _CannotGoOnError as stop:
        play.found.append(stop.difference)
    found = tuple(play.found)
    outcome = "failed" if found else "passed"
    return Result(scenario=scenario, outcome=outcome, seller=seller, differences=found)


class _Play:
    """One scenario under way: where its clock stands, what was bound, what differed."""

    def __init__(self, *, scenario: Scenario, client: Client) -> None:
        self.scenario = scenario
        self.client = client
        self.now = scenario.clock
        self.bound: dict[str, Any] = {}
        self.found: list[Difference] = []

    async def set_up(self) -> None:
        if self.scenario.seller:
            body = as_sent(dict(self.scenario.seller))
            _require(await self.client.patch("/v1/seller", body), place="seller")
        for name in LISTS:
            for index, body in enumerate(self.scenario.setup.get(name, ()), start=1):
                answer = await self.client.post(f"/v1/{name}", as_sent(body))
                _require(answer, place=f"{name}.{index}")

    async def step(self, step: Step) -> None:
        place = f"step {step.number}"
        if step.at is not None and step.at > self.now:
            self.now = step.at
            await self._advance(place)
        answer: Answer | None = None
        if step.verb is not None:
            answer = await self._act(step, place)
            if step.verb != "usage":
                await self._advance(place)
        for name, wanted in step.expect.items():
            where = cast("dict[str, Any]", await self._filled(dict(step.where)))
            expected = await self._filled(wanted)
            self.found += await self._compare(
                name, expected, answer, where=where, last=step.last, place=f"{place}.{name}"
            )

    async def _advance(self, place: str) -> None:
        answer = await self.client.post("/v1/test_clock/advance", {"to": written(self.now)})
        _require(answer, place=f"{place}: the clock at {written(self.now)}")

    async def _act(self, step: Step, place: str) -> Answer:
        verb = cast("str", step.verb)
        here = f"{place}.{verb}"
        body = await self._filled(step.body)
        if verb == "usage":
            items = self._events(body, step=step)
            answer = await self.client.post("/v1/events", items)
        elif verb == "post":
            answer = await self.client.post(str(body["path"]), as_sent(body.get("body", {})))
        else:
            path, name = ROUTES[verb]
            sent = as_sent(dict(cast("Mapping[str, Any]", body)))
            if name is not None:
                path = path.format(sent.pop(name))
            answer = await self.client.post(path, sent)
        if step.error is not None:
            code = None if answer.ok else _problem(answer).get("code")
            if code != step.error:
                came = "success" if answer.ok else _told(answer)
                self.found.append(
                    Difference(place=here, expected=f"error {step.error}", actual=came)
                )
            return answer
        _require(answer, place=here)
        if step.bind is not None:
            self.bound[step.bind] = answer.json()
        return answer

    def _events(self, body: Any, *, step: Step) -> list[dict[str, Any]]:
        items = cast("list[dict[str, Any]]", body if isinstance(body, list) else [body])
        events: list[dict[str, Any]] = []
        for index, item in enumerate(items, start=1):
            event = dict(item)
            times = int(event.pop("repeat", 1))
            event["subject"] = event.pop("customer")
            read = read_instant(event.get("time"))
            event["time"] = written(read or self.now)
            stem = event.pop("id", None) or f"step-{step.number}-{index}"
            events += [
                {**event, "id": str(stem) if times == 1 else f"{stem}-{copy}"}
                for copy in range(1, times + 1)
            ]
        return events

    async def _compare(
        self,
        name: str,
        expected: Any,
        answer: Answer | None,
        *,
        where: Mapping[str, Any],
        last: int | None,
        place: str,
    ) -> list[Difference]:
        if name in {"events", "answer"}:
            actual = None if answer is None else answer.json()
            return differences(expected=expected, actual=actual, place=place)
        if name == "get":
            found: list[Difference] = []
            for ask in expected if isinstance(expected, list) else [expected]:
                got = await self.client.get(str(ask["path"]))
                _require(got, place=f"{place} {ask['path']}")
                found += differences(expected=ask["body"], actual=got.json(), place=place)
            return found
        if name == "journal":
            return _compare_journal(expected, await self._all("accounts"), place=place)
        objects = [
            item
            for item in await self._all(name)
            if all(
                same_scalar(expected=value, actual=item[field])
                for field, value in where.items()
                if field in item
            )
        ]
        kept = objects if last is None else objects[-last:]
        shown_as = _typed(kept, expected) if name == "outbox" else kept
        return differences(expected=expected, actual=shown_as, place=place)

    async def _all(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind, in order of issue."""
        objects: list[dict[str, Any]] = []
        path = f"/v1/{kind}?limit={PAGE}"
        while True:
            answer = await self.client.get(path)
            _require(answer, place=f"GET /v1/{kind}")
            page = answer.json()
            objects += page["data"]
            cursor = page.get("next_cursor")
            if not cursor:
                break
            path = f"/v1/{kind}?limit={PAGE}&cursor={cursor}"
        if kind in _DOCUMENTS:
            # Numbers of one series grow as documents are issued; their digits end the text.
            objects.sort(key=lambda item: (_told_at(item), _sequence(item.get("number"))))
        return objects

    async def _filled(self, value: Any) -> Any:
        """The value with each `${…}` replaced by what it leads to."""
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {name: await self._filled(item) for name, item in fields.items()}
        if isinstance(value, list):
            return [await self._filled(item) for item in cast("list[Any]", value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            return await self._look_up(whole[1])
        text = value
        for reference in _REFERENCE.findall(value):
            text = text.replace(f"${{{reference}}}", str(await self._look_up(reference)))
        return text

    async def _look_up(self, reference: str) -> Any:
        head, *rest = reference.split(".")
        if head in self.bound:
            found = self.bound[head]
        elif head in _DOCUMENTS and len(rest) >= 2 and rest[1].isdigit():
            customer, number, *rest = rest
            mine = [item for item in await self._all(head) if item["customer"] == customer]
            index = int(number) - 1
            found = mine[index] if 0 <= index < len(mine) else None
        else:
            found = None
        for part in rest:
            found = _inside(found, part)
        if found is None:
            raise _CannotGoOnError(
                Difference(
                    place=f"${{{reference}}}", expected="something of that name", actual="nothing"
                )
            )
        return found


def _typed(events: Sequence[Mapping[str, Any]], expected: Any) -> list[Any]:
    """Each event as it is expected: its type alone where a word is written in its place."""
    wanted = cast("list[Any]", expected) if isinstance(expected, list) else []
    in_full = [isinstance(each, dict) for each in wanted]
    return [
        event if index < len(in_full) and in_full[index] else event["type"]
        for index, event in enumerate(events)
    ]


def _inside(holder: Any, part: str) -> Any:
    if isinstance(holder, list):
        entries = cast("list[Any]", holder)
        if part.isdigit():
            return entries[int(part)] if int(part) < len(entries) else None
        named = (
            entry
            for entry in entries
            if isinstance(entry, dict) and part in (entry.get("price"), entry.get("key"))
        )
        return next(named, None)
    return cast("dict[str, Any]", holder).get(part) if isinstance(holder, dict) else None


def _compare_journal(
    expected: Mapping[str, Any], accounts: Sequence[Mapping[str, Any]], *, place: str
) -> list[Difference]:
    balances = {str(entry["code"]): cast("dict[str, str]", entry["balances"]) for entry in accounts}
    found: list[Difference] = []
    actual: Any
    for name, wanted in expected.items():
        if is_currency(name):
            for account, amount in cast("Mapping[str, Any]", wanted).items():
                actual = balances.get(account, {}).get(name, "0")
                here = f"{place}.{name}.{account}"
                found += differences(expected=amount, actual=actual, place=here)
            continue
        held = balances.get(name, {})
        # A seller with several currencies states them one by one.
        actual = held if len(held) > 1 else next(iter(held.values()), "0")
        found += differences(expected=wanted, actual=actual, place=f"{place}.{name}")
    return found


def _told_at(item: Mapping[str, Any]) -> str:
    """When a document was issued, or money moved."""
    names = ("issued_at", "attempted_at", "created_at")
    return next(str(item[name]) for name in names if name in item)


def _sequence(number: object) -> int:
    digits = re.search(r"(\d+)$", str(number))
    return 0 if digits is None else int(digits[1])


def _problem(answer: Answer) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except msgspec.DecodeError:
        return {}
    return cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}


def _told(answer: Answer) -> str:
    problem = _problem(answer)
    code, detail = problem.get("code", answer.status), problem.get("detail", "")
    fields = problem.get("errors")
    return f"{code}: {detail}" + (f" {shown(fields)}" if fields else "")


def _require(answer: Answer, *, place: str) -> None:
    if not answer.ok:
        fields = cast("Sequence[Mapping[str, str]]", _problem(answer).get("errors") or ())
        later = tuple(entry["detail"] for entry in fields if entry["code"] == NOT_SUPPORTED)
        if later:
            raise _NotBuiltError(later)
        raise _CannotGoOnError(Difference(place=place, expected="success", actual=_told(answer)))
