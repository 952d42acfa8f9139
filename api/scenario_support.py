"""What of the scenario language is built. What is not makes a file unsupported, never passed.

The bodies are judged by the very structs the routes decode, so a field counts as built on the day
its struct has it. Verbs, paths, expectations and accounts are listed here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from api.scenario_file import Scenario, Step, as_sent
from engine.journal import CHART
from engine.money import is_currency
from invoicing.credit_notes import CreditNoteDraft, CreditNoteVoid
from invoicing.drafts import DraftEdit, FinalizeDraft
from invoicing.emails import BounceDraft, Email, SendDraft
from invoicing.losses import WriteOffDraft
from invoicing.migration import MigrationDraft
from invoicing.model import BillingRunDraft, CreditNote, Invoice, LineItem, VoidDraft
from invoicing.one_off import OneOffDraft
from invoicing.outbox import OutboxEvent
from invoicing.payments import AllocateDraft, Payment, PaymentDraft
from invoicing.refunds import Refund, RefundDraft, RefundStep, ReturnDraft
from invoicing.rehearsal import PreviewDraft
from invoicing.simulation import SimulationDraft
from metering.alerts import UsageAlertDraft
from metering.model import BackfillDraft, BackfillStep, EventAmendDraft, EventVoidDraft
from plans.agreement import (
    CancelDraft,
    ChangeDraft,
    PauseDraft,
    Subscription,
    SubscriptionDraft,
)
from plans.coupons import CouponDraft, CouponGift
from plans.credit_grants import CreditGrant, CreditGrantDraft, CreditVoid
from plans.drafts import PlanVersionDraft
from plans.model import Customer, CustomerDraft, MeterDraft, PlanDraft, SellerPatch
from plans.tax_rates import TaxRateDraft

SETUP: Final[Mapping[str, type]] = {
    "meters": MeterDraft,
    "plans": PlanDraft,
    "customers": CustomerDraft,
    "tax_rates": TaxRateDraft,
    "coupons": CouponDraft,
}
"""Lists of bodies that have a route, and the struct it decodes."""

VERB_BODIES: Final[Mapping[str, type]] = {
    "subscribe": SubscriptionDraft,
    "change": ChangeDraft,
    "cancel": CancelDraft,
    "pause": PauseDraft,
    "resume": PauseDraft,
    "void_event": EventVoidDraft,
    "amend_event": EventAmendDraft,
    "publish_version": PlanVersionDraft,
    "migrate": MigrationDraft,
    "apply_coupon": CouponGift,
    "invoice": OneOffDraft,
    "credit_note": CreditNoteDraft,
    "pay": PaymentDraft,
    "refund": RefundDraft,
    "grant_credit": CreditGrantDraft,
    "void_credit": CreditVoid,
}
"""Verbs that send one body; what names the object (`subscription`) is taken out before."""

VERB_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("change", "cancel", "pause", "resume", "apply_coupon"), "subscription"),
    "void_credit": "grant",
    **dict.fromkeys(("void_event", "amend_event"), "id"),
    **dict.fromkeys(("publish_version", "migrate"), "plan"),
}
USAGE_FIELDS: Final = frozenset(
    {"id", "source", "customer", "type", "time", "data", "repeat", "backfill"}
)
INVOICE_VERBS: Final = frozenset({"void", "finalize", "write_off"})
"""Verbs that act on an issued invoice and need no body."""

POSTS: Final[Mapping[str, type]] = {
    r"/v1/billing_runs": BillingRunDraft,
    r"/v1/invoices/preview": PreviewDraft,
    r"/v1/simulations": SimulationDraft,
    r"/v1/meters": MeterDraft,
    r"/v1/usage_alerts": UsageAlertDraft,
    r"/v1/customers": CustomerDraft,
    r"/v1/plans": PlanDraft,
    r"/v1/plans/[^/]+/versions": PlanVersionDraft,
    r"/v1/plans/[^/]+/migrate": MigrationDraft,
    r"/v1/subscriptions": SubscriptionDraft,
    r"/v1/subscriptions/[^/]+/cancel": CancelDraft,
    r"/v1/invoices": OneOffDraft,
    r"/v1/credit_notes": CreditNoteDraft,
    r"/v1/credit_notes/[^/]+/void": CreditNoteVoid,
    r"/v1/payments": PaymentDraft,
    r"/v1/payments/[^/]+/allocate": AllocateDraft,
    r"/v1/payments/[^/]+/return": ReturnDraft,
    r"/v1/refunds": RefundDraft,
    r"/v1/refunds/[^/]+/(confirm|cancel)": RefundStep,
    r"/v1/invoices/[^/]+/void": VoidDraft,
    r"/v1/invoices/[^/]+/finalize": FinalizeDraft,
    r"/v1/invoices/[^/]+/write_off": WriteOffDraft,
    r"/v1/invoices/[^/]+/lines": DraftEdit,
    r"/v1/(invoices|credit_notes|payments)/[^/]+/send": SendDraft,
    r"/v1/emails/[^/]+/bounce": BounceDraft,
    r"/v1/backfills": BackfillDraft,
    r"/v1/backfills/[^/]+/(close|reverse)": BackfillStep,
    r"/v1/events/[^/]+/void(\?.*)?": EventVoidDraft,
    r"/v1/events/[^/]+/amend(\?.*)?": EventAmendDraft,
    r"/v1/subscriptions/[^/]+/change": ChangeDraft,
    r"/v1/subscriptions/[^/]+/(pause|resume)": PauseDraft,
}
"""Paths that `post` may use: patterns of the whole path."""

GETS: Final = (
    r"/v1/(meters|plans|customers|subscriptions|invoices|credit_notes|tax_rates|coupons|payments|refunds|credit_grants|usage_alerts)(/[^/?]+)?(\?.*)?",
    r"/v1/subscriptions/[^/?]+/scheduled_changes",
    r"/v1/customers/[^/?]+/entitlements",
    r"/v1/customers/[^/?]+/statement(\?.*)?",
    r"/v1/invoices/lines/[^/?]+/explain",
    r"/v1/(events|usage|backfills|accounts|journal_entries|seller|audit_log|outbox|emails)(\?.*)?",
    r"/v1/(billing_runs|backfills)/[^/?]+",
)

EXPECTED_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "invoices": frozenset(Invoice.__struct_fields__) | {"lines_include"},
    "credit_notes": frozenset(CreditNote.__struct_fields__) | {"lines_include"},
    "payments": frozenset(Payment.__struct_fields__),
    "refunds": frozenset(Refund.__struct_fields__),
    "customers": frozenset(Customer.__struct_fields__),
    "emails": frozenset(Email.__struct_fields__),
    "credit_grants": frozenset(CreditGrant.__struct_fields__),
    "subscriptions": frozenset(Subscription.__struct_fields__),
    "outbox": frozenset(OutboxEvent.__struct_fields__),
    "events": frozenset({"accepted", "duplicates", "rejected"}),
}
LINE_FIELDS: Final = frozenset(LineItem.__struct_fields__)
ACCOUNTS: Final = frozenset(account.code for account in CHART)
"""Accounts that something posts to; the close of months, which fills the others, is not built."""

FREE_EXPECTATIONS: Final = frozenset({"get", "answer", "journal"})

_UNKNOWN: Final = re.compile(r"unknown field `(?P<name>[^`]+)`(?: - at `\$(?P<at>[^`]*)`)?")
_INVALID: Final = re.compile(r"Invalid (?:enum )?value '?(?P<value>[^']*)'? - at `\$(?P<at>[^`]*)`")
_STEP_IN_PATH: Final = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+|\.\.\.)\]")


def not_built(scenario: Scenario) -> list[str]:
    """Why this file cannot be checked yet, each reason once; empty when all of it is built."""
    reasons = _unknown_in(dict(scenario.seller), kind=SellerPatch, place="seller")
    for name, bodies in scenario.setup.items():
        if name not in SETUP:
            reasons.append(f"{name}")
            continue
        for body in bodies:
            reasons += _unknown_in(body, kind=SETUP[name], place=name)
    for step in scenario.steps:
        reasons += _verb(step)
        for name, wanted in step.expect.items():
            reasons += _expectation(name, wanted)
    return list(dict.fromkeys(reasons))


def _verb(step: Step) -> list[str]:
    verb, body = step.verb, step.body
    if verb is None:
        return []
    if verb == "usage":
        items = cast("list[Any]", body) if isinstance(body, list) else [body]
        names = {name for item in items if isinstance(item, dict) for name in item}
        return [f"usage.{name}" for name in sorted(names - USAGE_FIELDS)]
    if verb in INVOICE_VERBS:
        names = set(body) if isinstance(body, dict) else set[str]()
        return [f"{verb}.{name}" for name in sorted(names - {"invoice"})]
    if verb == "post" and isinstance(body, dict):
        return _post(cast("dict[str, Any]", body))
    if verb not in VERB_BODIES:
        return [f"verb {verb}"]
    if not isinstance(body, dict):
        return []
    sent = {name: value for name, value in body.items() if name != VERB_NAMES.get(verb)}
    return _unknown_in(sent, kind=VERB_BODIES[verb], place=verb)


def _post(body: Mapping[str, Any]) -> list[str]:
    path = str(body.get("path"))
    for pattern, kind in POSTS.items():
        if re.fullmatch(pattern, path):
            sent = body.get("body")
            if not isinstance(sent, dict):
                return []
            return _unknown_in(cast("dict[str, Any]", sent), kind=kind, place=f"post {path}")
    return [f"post {_general(path)}"]


def _general(path: str) -> str:
    """The path without the object it names, so that equal reasons read alike."""
    parts = path.partition("?")[0].split("/")
    return "/".join("…" if index == 3 else part for index, part in enumerate(parts))


def _expectation(name: str, wanted: Any) -> list[str]:
    if name == "get":
        asked = cast("list[Any]", wanted) if isinstance(wanted, list) else [wanted]
        paths = [str(item.get("path")) for item in asked if isinstance(item, dict)]
        return [
            f"get {_general(path)}"
            for path in paths
            if not any(re.fullmatch(pattern, path) for pattern in GETS)
        ]
    if name == "journal":
        stated = cast("dict[str, Any]", wanted if isinstance(wanted, dict) else {})
        accounts = [
            account
            for key, value in stated.items()
            for account in (value if is_currency(key) and isinstance(value, dict) else (key,))
        ]
        return [f"account {key}" for key in accounts if key.partition(":")[0] not in ACCOUNTS]
    if name in FREE_EXPECTATIONS:
        return []
    if name not in EXPECTED_FIELDS:
        return [f"expect {name}"]
    objects = cast("Sequence[Any]", wanted if isinstance(wanted, list) else [wanted])
    found: list[str] = []
    for item in objects:
        if not isinstance(item, dict):
            continue
        fields = cast("dict[str, Any]", item)
        found += [f"{name}.{key}" for key in fields if key not in EXPECTED_FIELDS[name]]
        for lines in (fields.get("lines"), fields.get("lines_include")):
            for line in cast("list[Any]", lines if isinstance(lines, list) else []):
                names = cast("dict[str, Any]", line if isinstance(line, dict) else {})
                found += [f"line.{key}" for key in names if key not in LINE_FIELDS]
    return found


def _unknown_in(body: Mapping[str, Any], *, kind: type, place: str) -> list[str]:
    """What the struct does not know in `body`: fields, and words it may not hold."""
    rest: Any = as_sent(dict(body))
    reasons: list[str] = []
    # Each round takes out one thing; an error of another sort is the route's to answer.
    while True:
        try:
            msgspec.convert(rest, kind, strict=False)
        except msgspec.ValidationError as error:
            words = str(error)
            unknown = _UNKNOWN.search(words)
            invalid = _INVALID.search(words)
            if unknown is not None:
                where = f"{unknown['at'] or ''}.{unknown['name']}"
            elif invalid is not None:
                where = invalid["at"]
            else:
                return reasons
            found = _take_out(rest, _STEP_IN_PATH.findall(where))
            if found is None:
                return reasons
            label = re.sub(r"\[(\d+|\.\.\.)\]", "", where)
            reasons.append(f"{place}{label}" if unknown else f"{place}{label} {found}")
        else:
            return reasons


def _take_out(holder: Any, steps: Sequence[tuple[str, str]]) -> str | None:
    """Remove what the path leads to; a tag takes its whole object along. Gives what it was."""
    *before, (name, _) = steps
    parents: list[tuple[Any, Any]] = []
    for key, index in before:
        step: Any = key or (int(index) if index.isdigit() else None)
        if step is None:
            return None
        parents.append((holder, step))
        try:
            holder = holder[step]
        except (KeyError, IndexError, TypeError):
            return None
    if not isinstance(holder, dict) or name not in holder:
        return None
    found = str(holder.pop(name))
    if name == "model" and parents:
        above, step = parents[-1]
        del above[step]
    return found
