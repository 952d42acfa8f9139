"""Invariants of what is told beside amounts: lines of entries, parts of lines, runs, instants."""

from typing import Final

from engine.audit_check import Check
from engine.audit_sums import DOCUMENT_SUMS

TOLD_CHECKS: Final = (
    Check(
        name="entry_lines",
        sentence="The entry of an issue moves the net of each line, on the line's own contract.",
        sql="""
SELECT coalesce(l.seller, p.seller), coalesce(l.id, p.line),
  format('%s on %s of %s; the entry of %s moves %s on %s', -l.net, l.contract, l.document,
    p.document, p.amount_minor, p.contract)
FROM (
  SELECT l.seller, l.id, l.document,
    amount_minor - discount_minor - promotional_minor - tax_included_minor AS net,
    coalesce(s.key, nullif(l.contract, ''), l.document) AS contract
  FROM line_items l LEFT JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
) l FULL JOIN (
  SELECT p.seller, p.line, p.document, p.contract, p.amount_minor
  FROM postings p JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry
  WHERE e.kind = 'issued' AND p.line <> ''
) p ON p.seller = l.seller AND p.line = l.id
WHERE (l.document, l.contract, -l.net) IS DISTINCT FROM (p.document, p.contract, p.amount_minor)
  AND NOT (p.line IS NULL AND EXISTS (SELECT FROM held_entries h
    WHERE h.seller = l.seller AND h.invoice = l.document AND NOT h.is_entered))""",
    ),
    Check(
        name="entry_customer",
        sentence="What an entry moves of a document, it moves of the document's customer.",
        sql="""
SELECT p.seller, p.entry || ' ' || p.ordinal, format('%s moves of %s, %s is of %s', p.account,
  p.customer, d.id, d.customer)
FROM postings p JOIN (
  SELECT seller, id, customer FROM invoices
  UNION ALL SELECT seller, id, customer FROM credit_notes
  UNION ALL SELECT seller, id, customer FROM payments
  UNION ALL SELECT seller, id, customer FROM refunds
  UNION ALL SELECT seller, id, customer FROM credit_grants
) d ON d.seller = p.seller AND d.id = p.document
WHERE p.customer <> d.customer""",
    ),
    Check(
        name="document_ids",
        sentence="The id of a document begins with when it was billed, a line's as the document's.",
        sql="""
SELECT d.seller, d.id, format('billed at %s', d.billed_at)
FROM (
  SELECT seller, min(id) AS id, split_part(id, '_', 2) AS body, billed_at FROM (
    SELECT seller, left(id, -16) AS id, billed_at FROM invoices
    UNION ALL SELECT seller, left(id, -16), billed_at FROM credit_notes
  ) begun GROUP BY seller, split_part(id, '_', 2), billed_at
) d
WHERE length(d.body) = 10 AND floor(extract(epoch FROM d.billed_at) * 1000) <> (
  SELECT sum(CAST(strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(d.body, place, 1)) - 1
    AS bigint) << 5 * (10 - place)) FROM generate_series(1, 10) AS place)
UNION ALL
SELECT seller, id, 'of ' || document FROM line_items
WHERE left(split_part(id, '_', 2), -4) <> left(split_part(document, '_', 2), -4)""",
    ),
    Check(
        name="prepaid_applied",
        sentence="What an invoice took of prepaid credit is settled from it, and grants gave it.",
        sql="""
SELECT i.seller, i.id, format('applied %s, settled %s, drawn %s', i.prepaid_applied_minor,
  coalesce(s.amount, 0), coalesce(d.amount, 0))
FROM invoices i LEFT JOIN (
  SELECT seller, invoice, sum(amount_minor) AS amount FROM settlements
  WHERE kind = 'prepaid' GROUP BY seller, invoice
) s ON s.seller = i.seller AND s.invoice = i.id LEFT JOIN (
  SELECT seller, document, sum(amount_minor) AS amount FROM credit_draws
  WHERE kind = 'prepaid' GROUP BY seller, document
) d ON d.seller = i.seller AND d.document = i.id
WHERE (coalesce(s.amount, 0), coalesce(d.amount, 0))
  IS DISTINCT FROM (i.prepaid_applied_minor, i.prepaid_applied_minor)""",
    ),
    Check(
        name="entry_tax",
        sentence="The entry of an issue moves the tax of each jurisdiction.",
        sql="""
SELECT coalesce(t.seller, p.seller), coalesce(t.document, p.document),
  format('%s of %s, the entry moves %s', t.amount, coalesce(t.jurisdiction, p.dimension), p.amount)
FROM (
  SELECT seller, document, jurisdiction, sum(amount_minor) AS amount FROM line_taxes
  GROUP BY seller, document, jurisdiction HAVING sum(amount_minor) <> 0
) t FULL JOIN (
  SELECT p.seller, p.document, p.dimension, sum(p.amount_minor) AS amount
  FROM postings p JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry
  WHERE e.kind = 'issued' AND p.account = 'tax_payable'
  GROUP BY p.seller, p.document, p.dimension
) p ON p.seller = t.seller AND p.document = t.document AND p.dimension = t.jurisdiction
WHERE t.amount IS DISTINCT FROM -p.amount
  AND NOT (p.document IS NULL AND EXISTS (SELECT FROM held_entries h
    WHERE h.seller = t.seller AND h.invoice = t.document AND NOT h.is_entered))""",
    ),
    Check(
        name="entry_held",
        sentence="An entry that waits, or waited, says what its invoice moves, and when it ended.",
        given=DOCUMENT_SUMS,
        sql="""
SELECT h.seller, h.invoice, format('lines move %s and tax %s of %s, the invoice says %s and %s of'
  ' %s; ended at %s', p.net, p.tax, p.receivable, -(l.total - l.tax), -l.tax, i.total_minor,
  h.ended_at)
FROM held_entries h CROSS JOIN LATERAL (
    SELECT coalesce(sum(amount_minor) FILTER (WHERE coalesce(line, '') <> ''), 0) AS net,
      coalesce(sum(amount_minor) FILTER (WHERE account = 'tax_payable'), 0) AS tax,
      coalesce(sum(amount_minor) FILTER (WHERE account = 'accounts_receivable'), 0) AS receivable,
      count(*) FILTER (WHERE coalesce(line, '') <> '' AND NOT EXISTS (SELECT FROM line_items o
        WHERE o.seller = h.seller AND o.id = x.line AND o.document = h.invoice
          AND -x.amount_minor = o.amount_minor - o.discount_minor - o.promotional_minor
            - o.tax_included_minor)) AS strange
    FROM jsonb_to_recordset(h.postings) AS x (account text, line text, amount_minor bigint)
  ) p
  LEFT JOIN line_sums l ON l.seller = h.seller AND l.document = h.invoice
  LEFT JOIN invoices i ON i.seller = h.seller AND i.id = h.invoice
  LEFT JOIN journal_entries e ON e.seller = h.seller AND e.source = h.invoice AND e.kind = 'issued'
WHERE (p.net, p.tax, p.receivable, p.strange)
    IS DISTINCT FROM (-(l.total - l.tax), -l.tax, i.total_minor, CAST(0 AS bigint))
  OR (h.ended_at IS NOT NULL
    AND h.ended_at IS DISTINCT FROM CASE WHEN h.is_entered THEN e.posted_at
      ELSE i.voided_at END)""",
    ),
    Check(
        name="entry_instant",
        sentence="An entry of an issue, and of a void, was made when that happened.",
        sql="""
SELECT e.seller, e.source, format('%s at %s, entered at %s', e.kind, d.at, e.posted_at)
FROM journal_entries e JOIN (
  SELECT i.seller, i.id, 'issued' AS kind, coalesce(h.ended_at, i.issued_at) AS at
  FROM invoices i LEFT JOIN held_entries h
    ON h.seller = i.seller AND h.invoice = i.id AND h.is_entered
  UNION ALL SELECT seller, id, 'issued', issued_at FROM credit_notes
  UNION ALL SELECT seller, id, 'voided', voided_at FROM invoices WHERE status = 'void'
  UNION ALL SELECT seller, id, 'voided', voided_at FROM credit_notes WHERE status = 'void'
) d ON d.seller = e.seller AND d.id = e.source AND d.kind = e.kind
WHERE e.posted_at IS DISTINCT FROM d.at""",
    ),
    Check(
        name="line_part_rows",
        sentence="A tax, a discount and a credit is of a line of its document, a tax on its net.",
        sql="""
SELECT p.seller, p.line, format('%s of %s, the line is of %s', p.kind, p.document, l.document)
FROM (
  SELECT seller, document, line, 'tax' AS kind FROM line_taxes
  UNION ALL SELECT seller, document, line, 'discount' FROM line_discounts
  UNION ALL SELECT seller, document, line, 'credit' FROM credit_draws
) p LEFT JOIN line_items l ON l.seller = p.seller AND l.id = p.line
WHERE l.document IS DISTINCT FROM p.document
UNION ALL
SELECT t.seller, t.line, format('taxed on %s, the net is %s', t.taxable_minor,
  l.amount_minor - l.discount_minor - l.promotional_minor - l.tax_included_minor)
FROM line_taxes t JOIN line_items l ON l.seller = t.seller AND l.id = t.line
WHERE t.taxable_minor
  <> l.amount_minor - l.discount_minor - l.promotional_minor - l.tax_included_minor
UNION ALL
SELECT t.seller, t.line, format('%s percent of %s in %s, the rate is %s of %s', t.percentage,
  t.rate, t.jurisdiction, r.percentage, r.country)
FROM line_taxes t JOIN tax_rates r ON r.seller = t.seller AND r.key = t.rate
WHERE (t.percentage <> r.percentage OR t.included <> r.inclusive
    OR t.jurisdiction <> r.country || coalesce('-' || r.region, ''))
  AND NOT EXISTS (SELECT FROM tax_answers a WHERE a.seller = t.seller)""",
    ),
    Check(
        name="line_amount",
        sentence="A line by hand at a unit amount comes to that, times its quantity.",
        sql="""
SELECT l.seller, l.id, format('%s of %s at %s', l.amount_minor, l.quantity, l.unit_amount)
FROM line_items l
WHERE l.price_interval IS NULL AND l.unit_amount IS NOT NULL
  AND NOT EXISTS (SELECT FROM unnest(ARRAY[1, 100, 1000, 10000]) AS minor
    WHERE abs(l.amount_minor - l.quantity * CAST(l.unit_amount AS numeric) * minor) <= 0.5)""",
    ),
    Check(
        name="run_counts",
        sentence="A billing run posted as many documents and lines as it says.",
        given=DOCUMENT_SUMS,
        sql="""
SELECT r.seller, r.id, format('%s documents with %s lines, %s with %s are there', r.documents,
  r.lines, coalesce(d.documents, 0), coalesce(d.lines, 0))
FROM billing_runs r LEFT JOIN (
  SELECT d.seller, d.run, count(*) AS documents, sum(l.lines) AS lines
  FROM (SELECT seller, id, run FROM invoices UNION ALL SELECT seller, id, run FROM credit_notes) d
    LEFT JOIN line_sums l ON l.seller = d.seller AND l.document = d.id
  GROUP BY d.seller, d.run
) d ON d.seller = r.seller AND d.run = r.id
WHERE (r.documents, r.lines) IS DISTINCT FROM (coalesce(d.documents, 0), coalesce(d.lines, 0))""",
    ),
)
