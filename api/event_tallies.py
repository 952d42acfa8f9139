"""What became of events, and of the requests that brought them, for `GET /metrics`.

A counter of the library takes a lock each time, which costs as much as reading the event; here
everything is counted in the one thread of the loop.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from metering.model import EventAnswer


class EventTallies(Collector):
    """Counts of one process since it began."""

    def __init__(self) -> None:
        """Nothing was brought yet."""
        self._accepted = self._duplicates = self._rejected = self._answered = 0
        self._refused: Counter[int] = Counter()

    def count(self, answer: EventAnswer) -> None:
        """A request was answered with what became of its events."""
        self._answered += 1
        self._accepted += answer.accepted
        self._duplicates += answer.duplicates
        self._rejected += len(answer.rejected)

    def count_refusal(self, *, status: int) -> None:
        """A request was refused as a whole."""
        self._refused[status] += 1

    def collect(self) -> Iterator[Metric]:
        """The two families."""
        events = CounterMetricFamily(
            "usance_events", "Usage events by what became of them.", labels=["outcome"]
        )
        events.add_metric(["accepted"], self._accepted)
        events.add_metric(["duplicate"], self._duplicates)
        events.add_metric(["rejected"], self._rejected)
        requests = CounterMetricFamily(
            "usance_event_requests", "Requests that bring events.", labels=["status"]
        )
        requests.add_metric(["200"], self._answered)
        for status, count in sorted(self._refused.items()):
            requests.add_metric([str(status)], count)
        yield events
        yield requests
