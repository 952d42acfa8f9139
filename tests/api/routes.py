"""What each route asks for and what it is about. A route without a row here fails the build."""

from dataclasses import dataclass, field
from typing import Any

PUBLIC = None


@dataclass(frozen=True)
class Row:
    """`scope` it declares; `path` names, for each parameter, one of `Seller.ids`; `fixed` has the
    words of parameters that name no object.

    `query` and `body` are such that it succeeds on a filled seller; the text
    `{name}` in them becomes that id.
    `status` is what the right key gets.
    """

    scope: str | None
    path: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    status: int = 200


SIMULATION = {
    "from": "2020-01-01",
    "to": "2020-02-01",
    "price_lists": [{"plan": "pro", "prices": []}],
}
WORDS = {"kind": "invoice", "locale": "de"}
ROWS: dict[tuple[str, str], Row] = {
    ("GET", "/healthz"): Row(PUBLIC),
    ("GET", "/readyz"): Row(PUBLIC),
    ("GET", "/metrics"): Row(PUBLIC),
    ("GET", "/openapi.json"): Row(PUBLIC),
    ("GET", "/docs"): Row(PUBLIC),
    ("GET", "/docs/openapi.json"): Row(PUBLIC),
    ("GET", "/docs/{path}"): Row(PUBLIC, path={"path": "meter"}, status=404),
    ("GET", "/v1/seller"): Row("read"),
    ("PATCH", "/v1/seller"): Row("admin", body={"legal_name": "Other"}),
    ("POST", "/v1/api_keys"): Row("admin", body={"name": "k", "scopes": ["read"]}, status=201),
    ("GET", "/v1/api_keys"): Row("admin"),
    ("PATCH", "/v1/api_keys/{key_id}"): Row(
        "admin", path={"key_id": "api_key"}, body={"events_per_second": 10}
    ),
    ("DELETE", "/v1/api_keys/{key_id}"): Row("admin", path={"key_id": "api_key"}),
    ("POST", "/v1/customers"): Row("billing", body={"key": "new", "name": "New"}, status=201),
    ("GET", "/v1/customers"): Row("read"),
    ("GET", "/v1/customers/{customer}"): Row("read", path={"customer": "customer"}),
    ("GET", "/v1/customers/{customer}/entitlements"): Row("read", path={"customer": "customer"}),
    ("GET", "/v1/customers/{customer}/statement"): Row("read", path={"customer": "customer"}),
    ("GET", "/v1/customers/{customer}/statement.pdf"): Row("read", path={"customer": "customer"}),
    ("PATCH", "/v1/customers/{customer}"): Row(
        "billing", path={"customer": "customer"}, body={"name": "Other"}
    ),
    ("POST", "/v1/meters"): Row(
        "admin",
        body={"key": "new", "event_type": "call", "aggregation": "count"},
        status=201,
    ),
    ("GET", "/v1/meters"): Row("read"),
    ("GET", "/v1/meters/{meter}"): Row("read", path={"meter": "meter"}),
    ("POST", "/v1/plans"): Row(
        "admin",
        body={
            "key": "new",
            "currency": "USD",
            "interval": {"unit": "month"},
            "prices": [{"key": "p", "kind": "recurring", "model": "flat", "flat_amount": "1.00"}],
        },
        status=201,
    ),
    ("POST", "/v1/plans/{plan}/versions"): Row(
        "admin",
        path={"plan": "plan"},
        body={
            "prices": [{"key": "p", "kind": "recurring", "model": "flat", "flat_amount": "1.00"}]
        },
        status=201,
    ),
    ("POST", "/v1/plans/{plan}/migrate"): Row(
        "admin",
        path={"plan": "plan"},
        body={"to_version": 1, "effective": "period_end", "customers": ["{customer}"]},
    ),
    ("POST", "/v1/events"): Row(
        "ingest",
        body=[{"id": "e1", "type": "completion", "subject": "acme", "data": {"tokens": 5}}],
    ),
    ("GET", "/v1/events"): Row("read"),
    ("GET", "/v1/intake_errors"): Row("read"),
    ("GET", "/v1/intake_errors/{intake_error}"): Row("read", path={"intake_error": "intake_error"}),
    ("POST", "/v1/events/{event_id}/void"): Row(
        "billing", path={"event_id": "wrong_event"}, body={}
    ),
    ("POST", "/v1/events/{event_id}/amend"): Row(
        "billing", path={"event_id": "event"}, body={"data": {"tokens": 7}}
    ),
    ("POST", "/v1/events/void"): Row("billing", query={"id": "{odd_wrong_event}"}, body={}),
    ("POST", "/v1/events/amend"): Row(
        "billing", query={"id": "{odd_event}"}, body={"data": {"tokens": 7}}
    ),
    ("POST", "/v1/backfills"): Row("billing", body={"key": "new"}, status=201),
    ("GET", "/v1/backfills"): Row("read"),
    ("GET", "/v1/backfills/{backfill}"): Row("read", path={"backfill": "backfill"}),
    ("POST", "/v1/backfills/{backfill}/close"): Row(
        "billing", path={"backfill": "backfill"}, body={}
    ),
    ("POST", "/v1/backfills/{backfill}/reverse"): Row(
        "billing", path={"backfill": "backfill"}, body={}
    ),
    ("GET", "/v1/usage"): Row(
        "read",
        query={
            "customer": "{customer}",
            "meter": "{meter}",
            "from": "2026-02-01T00:00:00Z",
            "to": "2026-03-01T00:00:00Z",
        },
    ),
    ("POST", "/v1/usage_alerts"): Row(
        "billing", body={"key": "new", "meter": "{meter}", "thresholds": ["10"]}, status=201
    ),
    ("GET", "/v1/usage_alerts"): Row("read"),
    ("GET", "/v1/usage_alerts/{alert}"): Row("read", path={"alert": "usage_alert"}),
    ("PATCH", "/v1/usage_alerts/{alert}"): Row(
        "billing", path={"alert": "usage_alert"}, body={"thresholds": ["20"]}
    ),
    ("DELETE", "/v1/usage_alerts/{alert}"): Row(
        "billing", path={"alert": "other_alert"}, status=204
    ),
    ("GET", "/v1/outbox"): Row("read"),
    ("POST", "/v1/subscriptions"): Row(
        "billing",
        body={"key": "new", "customer": "{customer}", "plan": "pro"},
        status=201,
    ),
    ("GET", "/v1/subscriptions"): Row("read"),
    ("GET", "/v1/subscriptions/{reference}"): Row("read", path={"reference": "subscription"}),
    ("POST", "/v1/subscriptions/{reference}/cancel"): Row(
        "billing", path={"reference": "subscription"}, body={"effective": "period_end"}
    ),
    ("POST", "/v1/subscriptions/{reference}/change"): Row(
        "billing", path={"reference": "subscription"}, body={"quantities": {"base": "2"}}
    ),
    ("POST", "/v1/subscriptions/{reference}/pause"): Row(
        "billing", path={"reference": "subscription"}, body={}
    ),
    ("POST", "/v1/subscriptions/{reference}/resume"): Row(
        "billing", path={"reference": "paused"}, body={}
    ),
    ("GET", "/v1/subscriptions/{reference}/scheduled_changes"): Row(
        "read", path={"reference": "subscription"}
    ),
    ("DELETE", "/v1/subscriptions/{reference}/scheduled_changes/{change_id}"): Row(
        "billing", path={"reference": "subscription", "change_id": "scheduled_change"}
    ),
    ("POST", "/v1/tax_rates"): Row(
        "admin", body={"key": "new", "percentage": "7", "country": "DE"}, status=201
    ),
    ("GET", "/v1/tax_rates"): Row("read"),
    ("GET", "/v1/tax_rates/{rate}"): Row("read", path={"rate": "tax_rate"}),
    ("POST", "/v1/tax_rates/{rate}/archive"): Row("admin", path={"rate": "tax_rate"}, body={}),
    ("POST", "/v1/coupons"): Row("admin", body={"key": "new", "percent_off": "5"}, status=201),
    ("GET", "/v1/coupons"): Row("read"),
    ("GET", "/v1/coupons/{coupon}"): Row("read", path={"coupon": "coupon"}),
    ("POST", "/v1/coupons/{coupon}/archive"): Row("admin", path={"coupon": "coupon"}, body={}),
    ("POST", "/v1/subscriptions/{reference}/coupons"): Row(
        "billing", path={"reference": "subscription"}, body={"coupon": "{kept_coupon}"}, status=201
    ),
    ("GET", "/v1/subscriptions/{reference}/coupons"): Row(
        "read", path={"reference": "subscription"}
    ),
    ("DELETE", "/v1/subscriptions/{reference}/coupons/{coupon}"): Row(
        "billing", path={"reference": "subscription", "coupon": "other_coupon"}, status=204
    ),
    ("POST", "/v1/credit_grants"): Row(
        "billing",
        body={"key": "new", "customer": "{customer}", "amount": "5.00", "kind": "promotional"},
        status=201,
    ),
    ("GET", "/v1/credit_grants"): Row("read"),
    ("GET", "/v1/credit_grants/{grant}"): Row("read", path={"grant": "credit_grant"}),
    ("POST", "/v1/credit_grants/{grant}/void"): Row(
        "billing", path={"grant": "credit_grant"}, body={}
    ),
    ("POST", "/v1/billing_runs/{run}/pause"): Row("billing", path={"run": "running_run"}, body={}),
    ("POST", "/v1/billing_runs/{run}/resume"): Row("billing", path={"run": "running_run"}, body={}),
    ("POST", "/v1/billing_runs/{run}/cancel"): Row("billing", path={"run": "paused_run"}, body={}),
    ("POST", "/v1/billing_runs/{run}/approve"): Row(
        "billing", path={"run": "waiting_run"}, body={}
    ),
    ("POST", "/v1/billing_runs/{run}/reject"): Row("billing", path={"run": "other_run"}, body={}),
    ("GET", "/v1/billing_runs/{run}/report"): Row("read", path={"run": "run"}),
    ("GET", "/v1/billing_runs/{run}/report/customers"): Row("read", path={"run": "run"}),
    ("POST", "/v1/billing_runs/{run}/retry"): Row("billing", path={"run": "parked_run"}, body={}),
    ("POST", "/v1/billing_runs"): Row(
        "billing", body={"as_of": "2026-03-01T12:00:00Z"}, status=201
    ),
    ("GET", "/v1/billing_runs"): Row("read"),
    ("GET", "/v1/billing_runs/{run}"): Row("read", path={"run": "run"}),
    ("POST", "/v1/test_clock/advance"): Row("billing", body={"to": "2026-03-02T00:00:00Z"}),
    ("GET", "/v1/invoices"): Row("read"),
    ("POST", "/v1/invoices"): Row(
        "billing",
        body={"customer": "{customer}", "lines": [{"key": "training", "amount": "90.00"}]},
        status=201,
    ),
    ("POST", "/v1/payments"): Row(
        "billing",
        body={
            "customer": "{customer}",
            "amount": "5.00",
            "currency": "USD",
            "method": "bank",
            "allocations": [],
        },
        status=201,
    ),
    ("GET", "/v1/payments"): Row("read"),
    ("GET", "/v1/payments/{payment}"): Row("read", path={"payment": "payment"}),
    ("POST", "/v1/payments/{payment}/allocate"): Row(
        "billing",
        path={"payment": "payment"},
        body={"allocations": [{"invoice": "{written}", "amount": "1.00"}]},
    ),
    ("GET", "/v1/emails"): Row("read"),
    ("GET", "/v1/emails/{email}"): Row("read", path={"email": "email"}),
    ("POST", "/v1/emails/{email}/bounce"): Row(
        "billing", path={"email": "email"}, body={"reason": "550 no such user"}
    ),
    ("POST", "/v1/email_bounces"): Row("billing", body={}, status=415),
    ("POST", "/v1/invoices/{reference}/send"): Row(
        "billing", path={"reference": "invoice"}, body={"to": ["x@acme.example"]}, status=201
    ),
    ("POST", "/v1/credit_notes/{reference}/send"): Row(
        "billing", path={"reference": "credit_note"}, body={"to": ["x@acme.example"]}, status=201
    ),
    ("POST", "/v1/payments/{reference}/send"): Row(
        "billing", path={"reference": "payment"}, body={"to": ["x@acme.example"]}, status=201
    ),
    ("GET", "/v1/email_templates/{kind}/{locale}"): Row("read", fixed=WORDS),
    ("PUT", "/v1/email_templates/{kind}/{locale}"): Row(
        "admin", fixed=WORDS, body={"subject": "Invoice {number}", "text": "Over {total}"}
    ),
    ("DELETE", "/v1/email_templates/{kind}/{locale}"): Row("admin", fixed=WORDS, status=204),
    ("POST", "/v1/payments/{payment}/return"): Row(
        "billing", path={"payment": "payment"}, body={"code": "AC04"}
    ),
    ("POST", "/v1/refunds"): Row(
        "billing", body={"payment": "{given_back}", "amount": "1.00"}, status=201
    ),
    ("GET", "/v1/refunds"): Row("read"),
    ("GET", "/v1/refunds/{refund_id}"): Row("read", path={"refund_id": "refund"}),
    ("POST", "/v1/refunds/{refund_id}/confirm"): Row(
        "billing", path={"refund_id": "refund"}, body={}
    ),
    ("POST", "/v1/refunds/{refund_id}/cancel"): Row(
        "billing", path={"refund_id": "other_refund"}, body={}
    ),
    ("POST", "/v1/simulations"): Row("read", body=SIMULATION),
    ("POST", "/v1/simulations/customers.csv"): Row("read", body=SIMULATION),
    ("POST", "/v1/invoices/preview"): Row("read", body={"customer": "{customer}"}),
    ("GET", "/v1/invoices/{reference}"): Row("read", path={"reference": "invoice"}),
    ("GET", "/v1/invoices/lines/{line}/explain"): Row("read", path={"line": "line"}),
    ("POST", "/v1/invoices/{reference}/void"): Row(
        "billing", path={"reference": "invoice"}, body={}
    ),
    ("POST", "/v1/invoices/{reference}/write_off"): Row(
        "billing", path={"reference": "written"}, body={"reason": "insolvent"}
    ),
    ("POST", "/v1/invoices/{reference}/lines"): Row(
        "billing",
        path={"reference": "draft"},
        body={"key": "goodwill", "amount": "-1.00", "reason": "late"},
    ),
    ("POST", "/v1/invoices/{reference}/finalize"): Row(
        "billing", path={"reference": "draft"}, body={"reason": "asked for"}
    ),
    ("GET", "/v1/audit_log"): Row("admin"),
    ("GET", "/v1/credit_notes"): Row("read"),
    ("POST", "/v1/credit_notes"): Row(
        "billing",
        body={
            "invoice": "{credited}",
            "lines": [{"line": "{credited_line}", "amount": "1.00"}],
            "reason": "goodwill",
        },
        status=201,
    ),
    ("POST", "/v1/credit_notes/{reference}/void"): Row(
        "billing", path={"reference": "note"}, body={"reason": "mistaken"}
    ),
    ("GET", "/v1/credit_notes/{reference}"): Row("read", path={"reference": "credit_note"}),
    ("GET", "/v1/journal_entries"): Row("read"),
    ("GET", "/v1/journal_entries/{entry}"): Row("read", path={"entry": "entry"}),
    ("GET", "/v1/accounts"): Row("read"),
    ("GET", "/v1/exports/invoices.csv"): Row("read", query={"from": "2026-01-01"}),
    ("GET", "/v1/exports/invoice_lines.csv"): Row("read"),
    ("GET", "/v1/exports/credit_notes.csv"): Row("read"),
    ("GET", "/v1/exports/credit_note_lines.csv"): Row("read"),
    ("GET", "/v1/exports/journal.csv"): Row("read", query={"to": "2027-01-01"}),
    ("GET", "/v1/exports/customers.csv"): Row("read"),
    ("GET", "/v1/exports/focus.csv"): Row("read", query={"customer": "{customer}"}),
    ("GET", "/v1/plans"): Row("read"),
    ("GET", "/v1/plans/{plan}"): Row("read", path={"plan": "plan"}),
}


def filled(value: Any, ids: dict[str, str]) -> Any:
    """A body with the ids put in."""
    if isinstance(value, str):
        return ids.get(value[1:-1], value) if value[:1] == "{" else value
    if isinstance(value, dict):
        return {name: filled(entry, ids) for name, entry in value.items()}
    if isinstance(value, list):
        return [filled(entry, ids) for entry in value]
    return value


def address(path: str, row: Row, ids: dict[str, str]) -> str:
    """The path with the ids put in."""
    for parameter, name in row.path.items():
        path = path.replace("{" + parameter + "}", ids[name])
    for parameter, word in row.fixed.items():
        path = path.replace("{" + parameter + "}", word)
    return path
