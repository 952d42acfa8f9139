"""Who is let in: the arithmetic of buckets and of what is under way."""

import contextlib

import msgspec
import pytest

from api.admission import Admission, Refusal
from api.auth import Principal
from plans.model import Mode


def holder(key: str, rate: int | None) -> Principal:
    return Principal(
        seller=1,
        seller_id="sel_1",
        mode=Mode.LIVE,
        scopes=frozenset(),
        key_id=key,
        events_per_second=rate,
    )


def refused(block) -> tuple[int, str, int]:
    with pytest.raises(Refusal) as caught:
        block()
    problem = caught.value.problem
    body = msgspec.json.decode(problem.body)
    return problem.status, body["code"], int(problem.headers["Retry-After"])


def test_a_rate_holds_in_the_long_run_and_takes_any_batch():
    admission, key = Admission(), holder("a", 10)
    sent = 0
    for tenth in range(10_000):
        with contextlib.suppress(Refusal):
            admission.check_rate(principal=key, now_seconds=tenth / 10, events=35)
            sent += 35
    assert 10_000 <= sent <= 10_000 + 10 + 35
    told = refused(lambda: admission.check_rate(principal=key, now_seconds=999.9, events=1))
    assert told[:2] == (429, "rate_limited")
    assert 1 <= told[2] <= 4
    admission.check_rate(principal=key, now_seconds=999.9 + told[2], events=1)


def test_keys_do_not_share_a_bucket_and_none_is_no_limit():
    admission = Admission()
    admission.check_rate(principal=holder("a", 1), now_seconds=0, events=1_000)
    told = refused(lambda: admission.check_rate(principal=holder("a", 1), now_seconds=0, events=1))
    assert told == (429, "rate_limited", 999)
    admission.check_rate(principal=holder("b", 1), now_seconds=0, events=1)
    for _ in range(3):
        admission.check_rate(principal=holder("c", None), now_seconds=0, events=10**9)


def test_places_are_given_back():
    admission = Admission(requests=3, requests_of_a_key=2, body_bytes=10)
    for _ in range(3):
        with contextlib.ExitStack() as inside:
            for key in "aab":
                inside.enter_context(admission.request())
                inside.enter_context(admission.of_key(key_id=key))
            told = refused(lambda: admission.request().__enter__())
            assert told == (503, "too_many_requests_under_way", 1)
            told = refused(lambda: admission.of_key(key_id="a").__enter__())
            assert told == (429, "too_many_requests_under_way", 1)
    admission.hold(10)
    assert refused(lambda: admission.hold(1)) == (429, "overloaded", 1)
    admission.release(10)
    admission.hold(10)
