"""Invariants of money that came in and money that is owed back."""

from typing import Final

from engine.audit_check import Check
from engine.audit_sums import ACCOUNT_SUMS

RECEIPT_CHECKS: Final = (
    Check(
        name="payment_used",
        sentence="A payment is what it settled, credited, holds and gave back, or it was returned.",
        sql="""
SELECT p.seller, p.id, format('amount %s, settled %s, credited %s, unapplied %s, refunded %s',
  p.amount_minor, coalesce(s.amount, 0), p.credited_minor, p.unapplied_minor, p.refunded_minor)
FROM payments p LEFT JOIN (
  SELECT seller, payment, sum(amount_minor) AS amount FROM settlements
  WHERE payment IS NOT NULL GROUP BY seller, payment
) s ON s.seller = p.seller AND s.payment = p.id
WHERE CASE p.status WHEN 'returned' THEN 0 ELSE p.amount_minor END
  <> coalesce(s.amount, 0) + p.credited_minor + p.unapplied_minor + p.refunded_minor""",
    ),
    Check(
        name="payment_entry",
        sentence="Every payment has one entry of its receipt, which moves its amount into cash.",
        sql="""
SELECT coalesce(p.seller, e.seller), coalesce(p.id, e.source),
  format('amount %s, cash %s', p.amount_minor, e.amount)
FROM payments p FULL JOIN (
  SELECT e.seller, e.source, p.currency,
    sum(p.amount_minor) FILTER (WHERE p.account = 'cash') AS amount
  FROM journal_entries e JOIN postings p ON p.seller = e.seller AND p.entry = e.id
  WHERE e.kind = 'received' GROUP BY e.seller, e.source, p.currency
) e ON e.seller = p.seller AND e.source = p.id
WHERE (p.amount_minor, p.currency) IS DISTINCT FROM (e.amount, e.currency)""",
    ),
    Check(
        name="unapplied_control",
        sentence="Unapplied cash is what of payments waits, by customer and currency.",
        given=ACCOUNT_SUMS,
        sql="""
SELECT coalesce(a.seller, p.seller), coalesce(a.customer, p.customer) || ' '
  || coalesce(a.currency, p.currency),
  format('account %s, payments %s', coalesce(a.amount, 0), coalesce(p.amount, 0))
FROM (
  SELECT seller, customer, currency, -amount AS amount FROM account_sums
  WHERE account = 'unapplied_cash'
) a FULL JOIN (
  SELECT seller, customer, currency, sum(unapplied_minor) AS amount FROM payments
  GROUP BY seller, customer, currency
) p ON p.seller = a.seller AND p.customer = a.customer AND p.currency = a.currency
WHERE coalesce(a.amount, 0) <> coalesce(p.amount, 0)""",
    ),
    Check(
        name="cash_control",
        sentence="Cash is what payments brought in less the refunds that went out, by customer.",
        given=ACCOUNT_SUMS,
        sql="""
SELECT coalesce(a.seller, p.seller), coalesce(a.customer, p.customer) || ' '
  || coalesce(a.currency, p.currency),
  format('account %s, payments less refunds %s', coalesce(a.amount, 0), coalesce(p.amount, 0))
FROM (
  SELECT seller, customer, currency, amount FROM account_sums
  WHERE account = 'cash'
) a FULL JOIN (
  SELECT seller, customer, currency, sum(amount_minor) AS amount FROM (
    SELECT seller, customer, currency, amount_minor FROM payments WHERE status <> 'returned'
    UNION ALL
    SELECT seller, customer, currency, -amount_minor FROM refunds WHERE status = 'succeeded'
  ) moved GROUP BY seller, customer, currency
) p ON p.seller = a.seller AND p.customer = a.customer AND p.currency = a.currency
WHERE coalesce(a.amount, 0) <> coalesce(p.amount, 0)""",
    ),
    Check(
        name="losses_left",
        sentence="What is due of a written-off invoice is what its write-off took and is not back.",
        sql="""
SELECT i.seller, i.id, format('%s with %s due, %s lost', i.status, i.amount_due_minor,
  coalesce(l.amount, 0))
FROM invoices i LEFT JOIN (
  SELECT p.seller, p.document, sum(p.amount_minor) AS amount
  FROM postings p JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry
  WHERE p.account IN ('credit_loss', 'contract_balance') AND e.kind NOT IN ('issued', 'voided')
  GROUP BY p.seller, p.document
) l ON l.seller = i.seller AND l.document = i.id
WHERE coalesce(l.amount, 0) <> CASE i.status WHEN 'uncollectible' THEN i.amount_due_minor ELSE 0 END
  OR (i.status = 'uncollectible' AND i.written_off_at IS NULL)""",
    ),
    Check(
        name="payment_returned",
        sentence="A returned payment has one entry that takes its amount out of cash again.",
        sql="""
SELECT coalesce(p.seller, e.seller), coalesce(p.id, e.source),
  format('amount %s, cash %s', p.amount_minor, e.amount)
FROM (SELECT * FROM payments WHERE status = 'returned') p FULL JOIN (
  SELECT e.seller, e.source, p.currency,
    -sum(p.amount_minor) FILTER (WHERE p.account = 'cash') AS amount
  FROM journal_entries e JOIN postings p ON p.seller = e.seller AND p.entry = e.id
  WHERE e.kind = 'returned' GROUP BY e.seller, e.source, p.currency
) e ON e.seller = p.seller AND e.source = p.id
WHERE (p.amount_minor, p.currency) IS DISTINCT FROM (e.amount, e.currency)""",
    ),
    Check(
        name="refund_of_payment",
        sentence="What of a payment went back, or will, is its refunds that are not void.",
        sql="""
SELECT p.seller, p.id, format('refunded %s, refunds %s', p.refunded_minor, coalesce(r.amount, 0))
FROM payments p LEFT JOIN (
  SELECT seller, payment, sum(amount_minor) AS amount FROM refunds
  WHERE payment IS NOT NULL AND status <> 'void' GROUP BY seller, payment
) r ON r.seller = p.seller AND r.payment = p.id
WHERE p.refunded_minor <> coalesce(r.amount, 0)""",
    ),
    Check(
        name="refund_entry",
        sentence="A refund has an entry of its decision, its confirmation and its cancelling each.",
        sql="""
SELECT coalesce(w.seller, e.seller), coalesce(w.id, e.source),
  format('%s of %s, the journal moves %s', w.kind, w.amount_minor, e.amount)
FROM (
  SELECT seller, id, currency, 'refund_decided' AS kind, -amount_minor AS amount_minor FROM refunds
  WHERE source <> 'credit_note'
  UNION ALL
  SELECT seller, id, currency, 'refund_confirmed', amount_minor FROM refunds
  WHERE status = 'succeeded'
  UNION ALL
  SELECT seller, id, currency, 'refund_cancelled', amount_minor FROM refunds
  WHERE status = 'void' AND source <> 'credit_note'
) w FULL JOIN (
  SELECT e.seller, e.source, e.kind, p.currency, sum(p.amount_minor) AS amount
  FROM journal_entries e JOIN postings p ON p.seller = e.seller AND p.entry = e.id
  WHERE e.kind LIKE 'refund!_%' ESCAPE '!' AND p.account = 'refunds_payable'
  GROUP BY e.seller, e.source, e.kind, p.currency
) e ON e.seller = w.seller AND e.source = w.id AND e.kind = w.kind
WHERE (w.amount_minor, w.currency) IS DISTINCT FROM (e.amount, e.currency)""",
    ),
    Check(
        name="refund_of_credit_note",
        sentence="What a standing credit note pays back is its refund, and a void one's is void.",
        sql="""
SELECT n.seller, n.id, format('refunded %s, refunds %s', n.refunded_minor, coalesce(r.amount, 0))
FROM credit_notes n LEFT JOIN (
  SELECT seller, credit_note, sum(amount_minor) AS amount FROM refunds
  WHERE credit_note IS NOT NULL AND status <> 'void' GROUP BY seller, credit_note
) r ON r.seller = n.seller AND r.credit_note = n.id
WHERE CASE n.status WHEN 'void' THEN 0 ELSE n.refunded_minor END <> coalesce(r.amount, 0)""",
    ),
)
