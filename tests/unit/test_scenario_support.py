from pathlib import Path

import pytest

from api.scenario_file import parse_scenario
from api.scenario_support import not_built


def reasons(body: str) -> list[str]:
    text = "scenario: A\nclock: 2026-01-01\n" + body
    return not_built(parse_scenario(text=text, path=Path("a.scenario.yaml")))


def steps(*written: str) -> str:
    if not written:
        return "timeline: []\n"
    return "timeline:\n" + "".join(f"  - {step}\n" for step in written)


PRICE = "{key: fee, kind: recurring, model: flat, flat_amount: 10.00}"
PLAN = "plans: [{key: p, currency: USD, interval: {unit: month}, prices: [%s]}]\n"


def test_what_is_built_has_no_reasons() -> None:
    assert (
        reasons(
            "seller: {proration: day}\n"
            + PLAN % PRICE
            + "customers: [{key: acme, name: Acme}]\n"
            + steps(
                "subscribe: {key: s, customer: acme, plan: p, quantities: {fee: 2}}",
                "cancel: {subscription: s, effective: 2026-02-01}",
                "usage: {customer: acme, type: job, data: {n: 1}, repeat: 3}",
                "post: {path: /v1/billing_runs, body: {as_of: 2026-02-01}}",
                "expect: {invoices: [{total: 1, lines: [{amount: 1}]}], journal: "
                "{accounts_receivable: 1}, get: {path: /v1/invoices, body: {}}}",
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("seller: {dog_tax: 1}\n" + steps(), "seller.dog_tax"),
        ("campaigns: []\n" + steps(), "campaigns"),
        (steps("promise: {customer: acme}"), "verb promise"),
        (steps("usage: {customer: a, type: t, data: {}, dog: 1}"), "usage.dog"),
        (steps("subscribe: {key: s, customer: a, plan: p, dog: 1}"), "subscribe.dog"),
        (steps("post: {path: /v1/dogs/rex/walk, body: {}}"), "post /v1/dogs/…/walk"),
        (steps("expect: {get: {path: /v1/dogs, body: {}}}"), "get /v1/dogs"),
        (steps("expect: {dunning_cases: []}"), "expect dunning_cases"),
        (steps("expect: {invoices: [{dog: 1}]}"), "invoices.dog"),
        (steps("expect: {invoices: [{lines: [{dog: 1}]}]}"), "line.dog"),
        (steps("expect: {journal: {dogs: 1}}"), "account dogs"),
        (PLAN % PRICE.replace("}", ", dog: 1}") + steps(), "plans.prices.dog"),
        (PLAN % PRICE.replace("flat, ", "dynamic_dog, ") + steps(), "plans.prices.model"),
    ],
)
def test_what_is_not_built_is_named(body: str, reason: str) -> None:
    found = reasons(body)
    assert len(found) == 1
    assert found[0].startswith(reason)


def test_every_reason_is_given_once() -> None:
    price = PRICE.replace("}", ", dog: 1, cat: 2}")
    assert sorted(reasons(PLAN % f"{price}, {price}" + steps())) == [
        "plans.prices.cat",
        "plans.prices.dog",
    ]
