"""Usage in ClickHouse is identified, corrected, listed and measured as it is in PostgreSQL.

The tests of both are the same functions: here the fixture `database` has its events elsewhere.
"""

from types import ModuleType

from tests.clickhouse_engine import clickhouse, database, event_store
from tests.database import (
    test_aggregations,
    test_correct_event,
    test_ingest,
    test_ingest_reads,
    test_ingest_rivals,
    test_measure_groups,
)
from tests.metering_world import world

__all__ = ["clickhouse", "database", "event_store", "world"]

SHARED: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (
        test_aggregations,
        (
            "test_what_stands_is_measured_however_it_came",
            "test_a_level_is_carried_into_windows_it_did_not_change_in",
            "test_events_without_a_value_are_shown",
        ),
    ),
    (
        test_correct_event,
        (
            "test_every_aggregation_reads_the_last_word_alone",
            "test_an_id_stays_taken_and_its_events_are_shown",
            "test_source_and_seller_tell_events_apart",
            "test_an_event_moves_to_another_customer_and_both_are_looked_at",
            "test_corrections_at_once_leave_one_truth",
        ),
    ),
    (
        test_ingest,
        (
            "test_an_event_counts_once",
            "test_concurrent_repeats_are_counted_once",
            "test_sellers_do_not_meet",
            "test_a_full_queue_refuses_and_stores_nothing",
        ),
    ),
    (
        test_ingest_reads,
        ("test_every_event_has_its_reason", "test_pages_run_through_batches"),
    ),
    (
        test_ingest_rivals,
        (
            "test_rivals_share_each_id_once",
            "test_of_two_payloads_of_an_id_one_stays_and_the_other_is_told",
            "test_repeats_from_anywhere_are_compared_with_what_was_stored",
        ),
    ),
    (
        test_measure_groups,
        (
            "test_every_combination_is_its_own_events",
            "test_events_of_an_instant_stay_in_the_order_they_were_stored",
            "test_filters_refuse_alike_at_once_and_later",
            "test_usage_by_group",
        ),
    ),
)
for module, names in SHARED:
    globals().update({name: getattr(module, name) for name in names})
