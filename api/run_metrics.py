"""How far billing runs are, as Prometheus text: those of every process, from the database."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from engine.db import Database
from invoicing.fallback_store import FallbackSum, sum_fallbacks
from invoicing.run_directory_store import OpenRuns, list_open_runs

_GAUGES = {
    "runs": "Billing runs that are not over.",
    "customers_done": "Customers that the run has billed.",
    "customers_total": "Customers that it is to bill, as far as it has counted.",
    "documents": "Documents that it has posted.",
    "lines": "Lines of these documents.",
    "parked": "Accounts that it has set aside.",
    "customers_per_second": "Customers billed in a second that was worked, in the mean.",
    "seconds_left": "How long it goes on at that rate, counted from its last progress.",
}


async def run_metrics(*, database: Database) -> bytes:
    """One sample for each seller with a run that is not over, and its status.

    `…_progress_timestamp_seconds` is when the run that is behind most posted last, or began: one
    that is running and stays at it is stuck. `usance_billing_fallbacks_total` counts how often
    customers were billed one by one. Nothing where the database does not answer.
    """
    try:
        async with database.transaction(seller=None) as connection:
            found = await list_open_runs(connection=connection)
            fallbacks = await sum_fallbacks(connection=connection)
    except Exception:  # noqa: BLE001 a scrape tells what it can
        return b""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Runs(found, fallbacks))
    return generate_latest(registry)


class _Runs(Collector):
    def __init__(self, found: Sequence[OpenRuns], fallbacks: Sequence[FallbackSum]) -> None:
        self._found, self._fallbacks = found, fallbacks

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """A family for each gauge."""
        for name, told in _GAUGES.items():
            family = GaugeMetricFamily(f"usance_billing_run_{name}", told, labels=_LABELS)
            for each in self._found:
                value = getattr(each, name)
                if value is not None:
                    family.add_metric([each.seller_id, each.status], value)
            yield family
        progress = GaugeMetricFamily(
            "usance_billing_run_progress_timestamp_seconds",
            "When it posted last, or began.",
            labels=_LABELS,
        )
        for each in self._found:
            progress.add_metric([each.seller_id, each.status], each.progress_at.timestamp())
        yield progress
        fallbacks = CounterMetricFamily(
            "usance_billing_fallbacks",
            "How often customers were billed one by one that might have been billed together.",
            labels=("seller", "reason"),
        )
        for each in self._fallbacks:
            fallbacks.add_metric([each.seller_id, each.reason], each.times)
        yield fallbacks


_LABELS = ("seller", "status")
