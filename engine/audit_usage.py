"""Invariants of usage, and of references that no foreign key holds because their rows are many."""

from typing import Final

from engine.audit_check import Check
from engine.audit_sums import KEY_SUMS

# (table, what identifies its row, its column, the table it points to, the column there)
_REFERENCES: Final = (
    ("invoices", "id", "customer", "customers", "id"),
    ("invoices", "id", "billed_from", "parties", "id"),
    ("invoices", "id", "billed_to", "parties", "id"),
    ("invoices", "id", "run", "billing_runs", "id"),
    ("credit_notes", "id", "customer", "customers", "id"),
    ("credit_notes", "id", "billed_from", "parties", "id"),
    ("credit_notes", "id", "billed_to", "parties", "id"),
    ("credit_notes", "id", "run", "billing_runs", "id"),
    ("customers", "id", "party", "parties", "id"),
    ("line_items", "id", "document", "documents", "id"),
    ("line_discounts", "line", "application", "coupon_applications", "id"),
    ("line_items", "id", "subscription", "subscriptions", "id"),
    ("line_items", "id", "price_interval", "price_intervals", "id"),
    ("settlements", "id", "invoice", "invoices", "id"),
    ("settlements", "id", "credit_note", "credit_notes", "id"),
    ("settlements", "id", "payment", "payments", "id"),
    ("refunds", "id", "customer", "customers", "id"),
    ("refunds", "id", "credit_note", "credit_notes", "id"),
    ("refunds", "id", "payment", "payments", "id"),
    ("postings", "entry || ' ' || c.ordinal", "entry", "journal_entries", "id"),
    ("postings", "entry || ' ' || c.ordinal", "account", "accounts", "code"),
    ("postings", "entry || ' ' || c.ordinal", "customer", "customers", "id"),
    ("postings", "entry || ' ' || c.ordinal", "document", "documents", "id"),
    ("event_measures", "batch || ' ' || c.meter", "batch", "event_batches", "batch"),
    ("event_measures", "batch || ' ' || c.meter", "meter", "meters", "number"),
    ("event_chunks", "chunk", "meter", "meters", "number"),
    ("event_voids", "batch || ' ' || c.ordinal", "batch", "event_batches", "batch"),
    ("event_voids", "batch || ' ' || c.ordinal", "replacement", "event_batches", "batch"),
    ("backfill_batches", "batch", "batch", "event_batches", "batch"),
    ("backfill_batches", "batch", "backfill", "backfills", "id"),
    ("event_inbox", "batch", "batch", "event_batches", "batch"),
)
_WITHOUT_FOREIGN_KEY: Final = (
    "invoices",
    "credit_notes",
    "line_items",
    "refunds",
    "settlements",
    "journal_entries",
    "postings",
    "outbox",
    "event_keys",
    "event_batches",
    "event_measures",
    "event_chunks",
    "event_voids",
    "event_void_positions",
    "event_inbox",
    "backfill_batches",
)


def _dangling(table: str, identity: str, column: str, parent: str, key: str) -> str:
    present = "<> ''" if column == "run" else "IS NOT NULL"  # no run posts what is by hand
    return (
        f"SELECT c.seller, '{table} ' || c.{identity}, '{column} ' || c.{column} || ' is no row of"
        f" {parent}' FROM {table} c WHERE c.{column} {present} AND NOT EXISTS (SELECT FROM"
        f" {parent} p WHERE p.seller = c.seller AND p.{key} = c.{column})"
    )


def _dangling_keys(column: str, parent: str) -> str:
    """As `_dangling`; the identities are too many to ask for each of them."""
    return (
        f"SELECT k.seller, 'event_keys ' || k.key, '{column} ' || k.{column} || ' is no row of"
        f" {parent}' FROM (SELECT DISTINCT seller, {column} FROM key_sums c WHERE NOT EXISTS ("
        f"SELECT FROM {parent} p WHERE p.seller = c.seller AND p.{column} = c.{column})) lost"
        f" JOIN event_keys k ON k.seller = lost.seller AND k.{column} = lost.{column}"
    )


def _strangers(table: str) -> str:
    """One look at the index for each seller that the table has."""
    return f"""(
WITH RECURSIVE met AS (
  SELECT min(seller) AS seller FROM {table}
  UNION ALL
  SELECT (SELECT min(c.seller) FROM {table} c WHERE c.seller > met.seller) FROM met
  WHERE met.seller IS NOT NULL
)
SELECT m.seller, '{table}', 'no such seller' FROM met m
WHERE m.seller IS NOT NULL AND NOT EXISTS (SELECT FROM sellers s WHERE s.seller = m.seller))"""


USAGE_CHECKS: Final[tuple[Check, ...]] = (
    Check(
        name="references",
        sentence="What a row points to exists, and belongs to the same seller.",
        given=KEY_SUMS,
        sql="WITH documents AS (SELECT seller, id FROM invoices UNION ALL"
        " SELECT seller, id FROM credit_notes UNION ALL SELECT seller, id FROM payments UNION ALL"
        " SELECT seller, id FROM refunds UNION ALL SELECT seller, id FROM credit_grants) "
        + " UNION ALL ".join(
            [
                *(_dangling(*reference) for reference in _REFERENCES),
                _dangling_keys("stream", "event_streams"),
                _dangling_keys("batch", "event_batches"),
            ]
        ),
    ),
    Check(
        name="sellers",
        sentence="Every row belongs to a seller that exists.",
        sql=" UNION ALL ".join(_strangers(table) for table in _WITHOUT_FOREIGN_KEY),
    ),
    Check(
        name="payers",
        sentence="The top of a customer's parents pays for it, and for its subscriptions.",
        sql="""
SELECT c.seller, c.id, format('parent %s, payer %s where %s pays', c.parent, c.payer,
  coalesce(p.payer, p.id, c.id))
FROM customers c LEFT JOIN customers p ON p.seller = c.seller AND p.id = c.parent
WHERE c.payer IS DISTINCT FROM coalesce(p.payer, p.id)
UNION ALL
SELECT s.seller, s.id, format('payer %s where %s pays', s.payer, coalesce(c.payer, c.id))
FROM subscriptions s JOIN customers c ON c.seller = s.seller AND c.id = s.customer
WHERE s.payer IS DISTINCT FROM c.payer""",
    ),
    Check(
        name="due_instants",
        sentence="What falls due next is told once of each subscription, with whom it bills.",
        sql="""
SELECT coalesce(s.seller, d.seller), coalesce(s.id, d.subscription),
  format('due %s for %s, key %s, usage of %s from %s, told as %s for %s, key %s, usage of %s from '
    '%s', s.next_due_at, s.bill_to, s.bill_key, s.number, s.derived_at, d.next_due_at, d.bill_to,
    d.key, d.number, d.derived_through_at)
FROM (SELECT seller, id, customer, next_due_at, bill_key, coalesce(payer, customer) AS bill_to,
      customer_number, CASE WHEN payer IS NULL THEN customer_number END AS number,
      coalesce(derived_through_at, starts_at) AS derived_at
    FROM subscriptions) s
  FULL JOIN due_instants d ON d.seller = s.seller AND d.subscription = s.id
  LEFT JOIN customers c ON c.seller = s.seller AND c.id = s.bill_to
  LEFT JOIN customers o ON o.seller = s.seller AND o.id = s.customer
WHERE (s.bill_key, s.customer_number) IS DISTINCT FROM (c.key, o.number)
  OR CASE WHEN s.next_due_at IS NULL THEN d.subscription IS NOT NULL
    ELSE (s.next_due_at, s.bill_to, c.key, s.number, s.derived_at)
      IS DISTINCT FROM (d.next_due_at, d.bill_to, d.key, d.number, d.derived_through_at) END""",
    ),
    Check(
        name="event_batches",
        sentence="The identities of a batch are as many as its events, at places 0 to n - 1.",
        given=KEY_SUMS,
        sql="""
SELECT b.seller, CAST(b.batch AS text), format('%s events, %s identities, at %s to %s', b.events,
  coalesce(k.keys, 0), k.first, k.last)
FROM event_batches b LEFT JOIN (
  SELECT seller, batch, sum(keys) AS keys, sum(places) AS places, min(first) AS first,
    max(last) AS last
  FROM key_sums GROUP BY seller, batch
) k ON k.seller = b.seller AND k.batch = b.batch
WHERE b.payload IS NOT NULL AND (k.keys, k.places, k.first, k.last, octet_length(b.ends))
  IS DISTINCT FROM (CAST(b.events AS numeric), CAST(b.events AS numeric) * (b.events - 1) / 2, 0,
    b.events - 1, 4 * b.events)""",
    ),
    Check(
        name="event_measures",
        sentence="A meter measures events of the batch only, one entry in each column per event.",
        sql="""
SELECT m.seller, m.batch || ' ' || m.meter, format('%s of %s events; %s, %s and %s bytes', m.events,
  b.events, octet_length(m.customers), octet_length(m.times), octet_length(m.quantities))
FROM event_measures m JOIN event_batches b ON b.seller = m.seller AND b.batch = m.batch
WHERE m.events > b.events OR m.first_at < b.first_at OR m.last_at > b.last_at
  OR NOT m.meter = ANY (b.meters) OR octet_length(m.customers) <> 8 * m.events
  OR octet_length(m.times) <> 8 * m.events
  OR octet_length(m.quantities) NOT IN (0, CASE WHEN m.wide THEN 16 ELSE 8 END * m.events)
  OR octet_length(m.codes) NOT IN (0, 4 * m.events)""",
    ),
    Check(
        name="event_chunks",
        sentence="A chunk has one entry in each column per event, and says where it lies.",
        sql="""
SELECT c.seller, CAST(c.chunk AS text), format('%s events of %s to %s; %s, %s, %s, %s and %s bytes',
  c.events, c.first_customer, c.last_customer, octet_length(c.customers), octet_length(c.times),
  octet_length(c.batches), octet_length(c.positions), octet_length(c.quantities))
FROM event_chunks c
WHERE octet_length(c.customers) <> 8 * c.events OR octet_length(c.times) <> 8 * c.events
  OR octet_length(c.batches) <> 8 * c.events OR octet_length(c.positions) <> 4 * c.events
  OR octet_length(c.quantities) NOT IN (0, CASE WHEN c.wide THEN 16 ELSE 8 END * c.events)
  OR octet_length(c.codes) NOT IN (0, 4 * c.events)
  OR octet_length(c.received) NOT IN (0, 8 * c.events)
  OR (c.first_customer, c.low_micros) > (c.last_customer, c.high_micros)
  OR c.first_at > c.last_at
  OR (c.first_customer = 0) <> (octet_length(c.unknown) > 0)
  OR (c.backfill <> '' AND NOT EXISTS (SELECT FROM backfills f
    WHERE f.seller = c.seller AND f.id = c.backfill AND f.status <> 'open'))""",
    ),
    Check(
        name="event_voids",
        sentence="A void takes back an event that is there, replaced by a batch of one or by none.",
        sql="""
SELECT v.seller, v.batch || ' ' || v.ordinal, format('of %s events, replaced by %s', b.events,
  r.events)
FROM event_voids v JOIN event_batches b ON b.seller = v.seller AND b.batch = v.batch
  LEFT JOIN event_batches r ON r.seller = v.seller AND r.batch = v.replacement
WHERE v.ordinal >= b.events OR r.events <> 1""",
    ),
    Check(
        name="event_void_positions",
        sentence="What measuring leaves out is a measured position of an event taken back.",
        sql="""
SELECT p.seller, p.batch || ' ' || p.meter, format('position %s of %s events', p.position,
  m.events)
FROM event_void_positions p
  LEFT JOIN event_measures m ON m.seller = p.seller AND m.batch = p.batch AND m.meter = p.meter
  LEFT JOIN event_voids v ON v.seller = p.seller AND v.batch = p.batch AND v.ordinal = p.ordinal
WHERE v.seller IS NULL OR p.position > p.ordinal OR p.position >= m.events""",
    ),
    Check(
        name="usage_alert_triggers",
        sentence="What an alert told is one event of the outbox, and it told each of these.",
        sql="""
SELECT coalesce(t.seller, o.seller), coalesce(t.id, o.object), format('%s triggers, %s events',
  CASE WHEN t.id IS NULL THEN 0 ELSE 1 END, coalesce(o.events, 0))
FROM usage_alert_triggers t FULL JOIN (
  SELECT seller, object, count(*) AS events FROM outbox WHERE type = 'usage_alert.triggered'
  GROUP BY seller, object
) o ON o.seller = t.seller AND o.object = t.id
WHERE t.id IS NULL OR o.events IS DISTINCT FROM 1""",
    ),
)
