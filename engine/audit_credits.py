"""Invariants of what was credited by hand."""

from typing import Final

from engine.audit_check import Check

_BY_HAND: Final = "h.price_interval IS NULL AND h.adjusts IS NOT NULL"
# What stands of credits by hand, by the line that they credit.
_CREDITED: Final = f"""credited AS (
  SELECT h.seller, h.adjusts AS line, sum(h.amount_minor) AS amount, sum(h.tax_minor) AS tax
  FROM line_items h JOIN credit_notes n ON n.seller = h.seller AND n.id = h.document
  WHERE {_BY_HAND} AND n.status = 'issued' GROUP BY h.seller, h.adjusts)"""

CREDIT_CHECKS: Final = (
    Check(
        name="credits_by_hand",
        sentence="A note by hand credits lines of its invoice, settles no other, and that stands.",
        sql=f"""
SELECT h.seller, h.id, format('of %s, credits %s of %s, which is %s', n.invoice, h.adjusts,
  l.document, coalesce(i.status, 'no invoice'))
FROM line_items h LEFT JOIN credit_notes n ON n.seller = h.seller AND n.id = h.document
  LEFT JOIN line_items l ON l.seller = h.seller AND l.id = h.adjusts
  LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
WHERE {_BY_HAND} AND ((n.invoice = l.document) IS NOT TRUE
  OR n.status = 'issued' AND (i.status <> 'void') IS NOT TRUE)
UNION ALL
SELECT h.seller, h.id, 'is billed, on a note by hand'
FROM credit_notes n JOIN line_items h ON h.seller = n.seller AND h.document = n.id
WHERE n.invoice IS NOT NULL AND NOT ({_BY_HAND})
UNION ALL
SELECT n.seller, n.id, format('credits %s and settles %s', n.invoice, s.invoice)
FROM credit_notes n JOIN settlements s ON s.seller = n.seller AND s.credit_note = n.id
WHERE s.invoice <> n.invoice""",
    ),
    Check(
        name="credited_at_most",
        sentence="All credits of a line, and of its charge key, are at most what was billed.",
        sql=f"""
WITH {_CREDITED}
SELECT l.seller, l.id, format('%s and %s of tax credited', -c.amount, -c.tax)
FROM credited c JOIN line_items l ON l.seller = c.seller AND l.id = c.line
WHERE l.amount_minor - l.discount_minor - l.promotional_minor + c.amount < 0
  OR l.tax_minor + c.tax < 0
UNION ALL
SELECT k.seller, k.price_interval || ' ' || k.charge_start_at || ' ' || k.charge_group,
  format('%s and %s of tax are left', sum(k.net + k.credited), sum(k.tax + k.credited_tax))
FROM (
  SELECT o.seller, o.price_interval, o.charge_start_at, o.charge_group,
    coalesce(c.amount, 0) AS credited, coalesce(c.tax, 0) AS credited_tax,
    CASE WHEN v.status = 'void' THEN 0
      ELSE o.amount_minor - o.discount_minor - o.promotional_minor END AS net,
    CASE WHEN v.status = 'void' THEN 0 ELSE o.tax_minor END AS tax
  FROM (SELECT DISTINCT l.seller, l.price_interval, l.charge_start_at, l.charge_group
    FROM credited c JOIN line_items l ON l.seller = c.seller AND l.id = c.line) q
    JOIN line_items o ON o.seller = q.seller AND o.price_interval = q.price_interval
      AND o.charge_start_at = q.charge_start_at AND o.charge_group = q.charge_group
    LEFT JOIN invoices v ON v.seller = o.seller AND v.id = o.document
    LEFT JOIN credited c ON c.seller = o.seller AND c.line = o.id
) k GROUP BY k.seller, k.price_interval, k.charge_start_at, k.charge_group
HAVING sum(k.net + k.credited) < 0 OR sum(k.tax + k.credited_tax) < 0""",
    ),
)
