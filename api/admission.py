"""Who is let in to send events: how many requests at once, how many bytes, how fast.

Everything is bounded per process, and whoever is turned away is told at once when to come again.
"""

import math
from contextlib import AbstractContextManager
from typing import Final

from api.auth import Principal
from api.problems import RenderedProblem, render

REQUESTS: Final = 1_000
"""Requests under way, those included that are slow to send their body."""
REQUESTS_OF_A_KEY: Final = 600
"""So that one key's slow senders leave room for the others."""
BODY_BYTES: Final = 32_000_000
"""Bodies under way, as far as they have arrived."""
_FORGET_BUCKETS: Final = 10_000


def _come_again(
    *, status: int, code: str, detail: str, seconds: float = 1.0, close: bool = False
) -> RenderedProblem:
    headers = {"Retry-After": str(max(1, math.ceil(seconds)))}
    if close:
        headers["Connection"] = "close"
    return render(status=status, code=code, detail=detail, headers=headers)


class Refusal(Exception):  # noqa: N818 - what is raised is an answer, not an error
    """The caller is told to come again."""

    def __init__(self, problem: RenderedProblem) -> None:
        """Keep the answer."""
        super().__init__()
        self.problem = problem


class Bucket:
    """What a key may still send: it fills by the rate up to one second's worth.

    A body may take more than there is, and is waited for afterwards: any rate takes any batch.
    """

    def __init__(self, *, rate: int, now_seconds: float) -> None:
        """Full at first; `rate` is events per second."""
        self.rate = rate
        self._level = float(rate)
        self._filled_seconds = now_seconds

    def wait_seconds(self, *, now_seconds: float) -> float:
        """How long until something may be sent again; zero when that is now."""
        passed = max(0.0, now_seconds - self._filled_seconds)
        self._level = min(float(self.rate), self._level + passed * self.rate)
        self._filled_seconds = now_seconds
        return 0.0 if self._level > 0 else max(-self._level / self.rate, 0.001)

    def take(self, events: int) -> None:
        """Account for what is sent now."""
        self._level -= events


class Admission:
    """The doorkeeper of one process; `now_seconds` is monotonic."""

    def __init__(
        self,
        *,
        requests: int = REQUESTS,
        requests_of_a_key: int = REQUESTS_OF_A_KEY,
        body_bytes: int = BODY_BYTES,
    ) -> None:
        """Nobody is inside."""
        self._requests = requests
        self._requests_of_a_key = requests_of_a_key
        self._body_bytes = body_bytes
        self._inside = 0
        self._place = _Place(self)
        self._inside_by_key: dict[str, int] = {}
        self._held_bytes = 0
        self._buckets: dict[str, Bucket] = {}

    def request(self) -> AbstractContextManager[None]:
        """A request for the length of the block. Raises Refusal when there are too many."""
        return self._place

    def of_key(self, *, key_id: str) -> AbstractContextManager[None]:
        """A request of that key for the length of the block. Raises Refusal for too many."""
        return _PlaceOfKey(self, key_id)

    def enter(self) -> None:
        """Take a place. Raises Refusal when all are taken."""
        if self._inside >= self._requests:
            raise Refusal(
                _come_again(
                    status=503,
                    code="too_many_requests_under_way",
                    detail="this process has as many requests under way as it takes",
                    close=True,
                )
            )
        self._inside += 1

    def leave(self) -> None:
        """Give the place back."""
        self._inside -= 1

    def enter_of_key(self, key_id: str) -> None:
        """Take a place of the key. Raises Refusal when all of them are taken."""
        inside = self._inside_by_key.get(key_id, 0)
        if inside >= self._requests_of_a_key:
            raise Refusal(
                _come_again(
                    status=429,
                    code="too_many_requests_under_way",
                    detail="this API key has as many requests under way as it may",
                    close=True,
                )
            )
        self._inside_by_key[key_id] = inside + 1

    def leave_of_key(self, key_id: str) -> None:
        """Give a place of the key back."""
        left = self._inside_by_key[key_id] - 1
        if left:
            self._inside_by_key[key_id] = left
        else:
            del self._inside_by_key[key_id]

    def hold(self, size: int) -> None:
        """Count bytes of a body that have arrived. Raises Refusal when they are too many."""
        if self._held_bytes + size > self._body_bytes:
            raise Refusal(
                _come_again(
                    status=429,
                    code="overloaded",
                    detail="more is being sent than can be read in time; nothing was stored",
                    close=True,
                )
            )
        self._held_bytes += size

    def release(self, size: int) -> None:
        """The bytes are no longer held."""
        self._held_bytes -= size

    def check_rate(self, *, principal: Principal, now_seconds: float, events: int) -> None:
        """Account for `events` of the key, zero to ask only. Raises Refusal when it is too fast."""
        if principal.events_per_second is None:
            return
        bucket = self._buckets.get(principal.key_id)
        if bucket is None or bucket.rate != principal.events_per_second:
            if len(self._buckets) >= _FORGET_BUCKETS:
                self._buckets.clear()
            bucket = Bucket(rate=principal.events_per_second, now_seconds=now_seconds)
            self._buckets[principal.key_id] = bucket
        seconds = bucket.wait_seconds(now_seconds=now_seconds)
        if seconds > 0:
            raise Refusal(
                _come_again(
                    status=429,
                    code="rate_limited",
                    detail=f"this API key may send {bucket.rate} events a second;"
                    " nothing was stored",
                    seconds=seconds,
                )
            )
        bucket.take(events)


class _Place:
    """A place among all requests; written out, for a generator costs three times as much."""

    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.enter()

    def __exit__(self, *_: object) -> None:
        self._admission.leave()


class _PlaceOfKey:
    """A place among the requests of one key."""

    __slots__ = ("_admission", "_key_id")

    def __init__(self, admission: Admission, key_id: str) -> None:
        self._admission = admission
        self._key_id = key_id

    def __enter__(self) -> None:
        self._admission.enter_of_key(self._key_id)

    def __exit__(self, *_: object) -> None:
        self._admission.leave_of_key(self._key_id)
