from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from api.scenario_file import ScenarioError, load_exactly, parse_scenario, read_instant

HERE = Path("some.scenario.yaml")
HEAD = "scenario: A rule\nclock: 2026-01-01\n"


def test_numbers_dates_and_words_stay_what_was_written() -> None:
    text = "{a: 6000, b: 1.10, c: 2026-01-01, d: NO, e: true, f: ~, g: 12:30:00, h: '7', i: 1e3}"
    assert load_exactly(text=text, path=HERE) == {
        "a": 6000,
        "b": Decimal("1.10"),
        "c": "2026-01-01",
        "d": "NO",
        "e": True,
        "f": None,
        "g": "12:30:00",
        "h": "7",
        "i": "1e3",
    }


def test_a_step_is_an_instant_a_verb_and_what_is_expected() -> None:
    scenario = parse_scenario(
        text=HEAD
        + "timeline:\n"
        + "  - {at: 2026-01-02T10:00:00+02:00, as: s, subscribe: {key: s1}}\n"
        + "  - {expect: {last: 2, where: {customer: acme}, invoices: []}}\n",
        path=HERE,
    )
    first, second = scenario.steps
    assert (first.at, first.verb, first.bind) == (
        datetime(2026, 1, 2, 8, tzinfo=UTC),
        "subscribe",
        "s",
    )
    assert (second.verb, second.last, second.where, second.expect) == (
        None,
        2,
        {"customer": "acme"},
        {"invoices": []},
    )


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("scenario: A\nscenario: B\n", "line 2", "written twice"),
        ("scenario: [", "line 1", ""),
        ("- a\n", "", "must be a mapping"),
        ("scenario: A\nclock: 2026-01-01\n", "", "'timeline' is missing"),
        (HEAD + "timeline: []\nplan: []\n", "", "no 'plan'"),
        (HEAD + "timeline: [{subscrib: {}}]\n", "step 1", "no verb 'subscrib'"),
        (HEAD + "timeline: [{void: {}, cancel: {}}]\n", "step 1", "more than one verb"),
        (HEAD + "timeline: [{expect: {invoice: []}}]\n", "step 1.expect", "'invoice'"),
        (HEAD + "timeline: [{as: a}]\n", "step 1", "need a verb"),
        (HEAD + "timeline: [{at: 2025-12-31}]\n", "step 1.at", "the clock is at 2026-01-01"),
        (HEAD + "timeline: [{at: soon}]\n", "step 1.at", "must be an instant"),
        (HEAD + "timeline: [{expect: {last: 0}}]\n", "step 1.expect.last", "whole number"),
        ("scenario: A\nclock: 2026-02-30\ntimeline: []\n", "clock", "must be an instant"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, place: str, says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text=text, path=HERE)
    assert caught.value.code == "malformed_scenario"
    assert caught.value.detail.startswith(f"{HERE}: {place}")
    assert says in caught.value.detail


def test_a_bare_date_is_midnight_in_utc() -> None:
    assert read_instant("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    assert read_instant("2026-03-01T00:00:00.5Z") == datetime(2026, 3, 1, 0, 0, 0, 500_000, UTC)
    assert read_instant("2026-03") is None
    assert read_instant("2026-03-01T00:00:00") is None
