"""Invariants of documents, numbers and the journal."""

from typing import Final

from engine.audit_check import Check
from engine.audit_credits import CREDIT_CHECKS
from engine.audit_receipts import RECEIPT_CHECKS
from engine.audit_sums import ACCOUNT_SUMS, DOCUMENT_SUMS

_DOCUMENTS: Final = """(
  SELECT seller, id, series, sequence, number, customer, currency, issued_at, run, billed_from,
    billed_to, status FROM invoices
  UNION ALL
  SELECT seller, id, series, sequence, number, customer, currency, issued_at, run, billed_from,
    billed_to, status FROM credit_notes)"""

_ARITHMETIC: Final = (
    Check(
        name="invoice_total",
        sentence="The sums of an invoice are those of its lines.",
        given=DOCUMENT_SUMS,
        sql="""
SELECT i.seller, i.id, format('total %s, subtotal %s, discount %s, promotional %s, tax %s; lines'
  ' %s, %s, %s, %s, %s', i.total_minor, i.subtotal_minor, i.discount_minor, i.promotional_minor,
  i.tax_minor, l.total, l.amount, l.discount, l.promotional, l.tax)
FROM invoices i LEFT JOIN line_sums l ON l.seller = i.seller AND l.document = i.id
WHERE (i.total_minor, i.subtotal_minor, i.discount_minor, i.promotional_minor, i.tax_minor)
  IS DISTINCT FROM (l.total, l.amount, l.discount, l.promotional, l.tax)""",
    ),
    Check(
        name="credit_note_total",
        sentence="The sums of a credit note are what its lines give back.",
        given=DOCUMENT_SUMS,
        sql="""
SELECT n.seller, n.id, format('total %s, subtotal %s, discount %s, promotional %s, tax %s; lines'
  ' %s, %s, %s, %s, %s', n.total_minor, n.subtotal_minor, n.discount_minor, n.promotional_minor,
  n.tax_minor, -l.total, -l.amount, -l.discount, -l.promotional, -l.tax)
FROM credit_notes n LEFT JOIN line_sums l ON l.seller = n.seller AND l.document = n.id
WHERE (n.total_minor, n.subtotal_minor, n.discount_minor, n.promotional_minor, n.tax_minor)
  IS DISTINCT FROM (-l.total, -l.amount, -l.discount, -l.promotional, -l.tax)""",
    ),
    Check(
        name="line_parts",
        sentence="What reduces and taxes a line is what its coupons, credits and tax rates say.",
        sql="""
SELECT l.seller, l.id, format('discount %s of %s, promotional %s of %s, tax %s of %s, %s inside',
  l.discount_minor, coalesce(d.amount, 0), l.promotional_minor, coalesce(c.amount, 0),
  l.tax_minor, coalesce(t.amount, 0), coalesce(t.inside, 0))
FROM line_items l LEFT JOIN (
  SELECT seller, line, sum(amount_minor) AS amount FROM line_discounts GROUP BY seller, line
) d ON d.seller = l.seller AND d.line = l.id LEFT JOIN (
  SELECT seller, line, sum(amount_minor) AS amount FROM credit_draws
  WHERE kind = 'promotional' GROUP BY seller, line
) c ON c.seller = l.seller AND c.line = l.id LEFT JOIN (
  SELECT seller, line, sum(amount_minor) AS amount,
    sum(amount_minor) FILTER (WHERE included) AS inside FROM line_taxes GROUP BY seller, line
) t ON t.seller = l.seller AND t.line = l.id
WHERE (l.discount_minor, l.promotional_minor, l.tax_minor, l.tax_included_minor) IS DISTINCT FROM
  (coalesce(d.amount, 0), coalesce(c.amount, 0), coalesce(t.amount, 0), coalesce(t.inside, 0))""",
    ),
    Check(
        name="amount_due",
        sentence="What is due of an invoice is its total less everything that settled it.",
        sql="""
SELECT i.seller, i.id, format('due %s, total %s, settled %s', i.amount_due_minor, i.total_minor,
  coalesce(s.amount, 0))
FROM invoices i LEFT JOIN (
  SELECT seller, invoice, sum(amount_minor) AS amount FROM settlements GROUP BY seller, invoice
) s ON s.seller = i.seller AND s.invoice = i.id
WHERE i.status <> 'void' AND i.amount_due_minor <> i.total_minor - coalesce(s.amount, 0)""",
    ),
    Check(
        name="balance_applied",
        sentence="What an invoice used of a balance, and no return took back, is settled from it.",
        sql="""
SELECT i.seller, i.id, format('applied %s, returned %s, settled %s', i.balance_applied_minor,
  i.balance_returned_minor, coalesce(s.amount, 0))
FROM invoices i LEFT JOIN (
  SELECT seller, invoice, sum(amount_minor) AS amount FROM settlements
  WHERE kind = 'customer_balance' GROUP BY seller, invoice
) s ON s.seller = i.seller AND s.invoice = i.id
WHERE i.balance_applied_minor - i.balance_returned_minor <> coalesce(s.amount, 0)""",
    ),
    Check(
        name="credit_note_applied",
        sentence="What a credit note applied is what it settled on invoices; a void one nothing.",
        sql="""
SELECT n.seller, n.id, format('applied %s, settled %s', n.applied_minor, coalesce(s.amount, 0))
FROM credit_notes n LEFT JOIN (
  SELECT seller, credit_note, sum(amount_minor) AS amount FROM settlements
  WHERE credit_note IS NOT NULL GROUP BY seller, credit_note
) s ON s.seller = n.seller AND s.credit_note = n.id
WHERE CASE n.status WHEN 'void' THEN 0 ELSE n.applied_minor END <> coalesce(s.amount, 0)""",
    ),
    Check(
        name="invoice_status",
        sentence="An invoice is paid exactly when nothing is due, and of a void one nothing is.",
        sql="""
SELECT seller, id, format('%s with %s due', status, amount_due_minor) FROM invoices
WHERE status IN ('open', 'paid') AND (status = 'paid') <> (amount_due_minor = 0)
  OR status = 'void' AND amount_due_minor <> 0""",
    ),
    Check(
        name="document_lines",
        sentence="A document has lines, numbered 1 to n.",
        given=DOCUMENT_SUMS,
        sql=f"""
SELECT d.seller, d.id, format('%s lines, numbered %s to %s', coalesce(l.lines, 0), l.first, l.last)
FROM {_DOCUMENTS} d LEFT JOIN line_sums l ON l.seller = d.seller AND l.document = d.id
WHERE (l.first, l.last) IS DISTINCT FROM (1, l.lines)""",
    ),
)

_NUMBERS: Final = (
    Check(
        name="numbers_without_gap",
        sentence="The numbers of a series are 1 to n, and its counter and clock stand at the last.",
        sql=f"""
SELECT coalesce(d.seller, s.seller), coalesce(d.series, s.series),
  format('%s documents, %s numbers from %s to %s, counter %s', coalesce(d.documents, 0),
    coalesce(d.numbers, 0), d.first, d.last, s.next_sequence)
FROM (
  SELECT seller, series, count(*) AS documents, count(DISTINCT sequence) AS numbers,
    min(sequence) AS first, max(sequence) AS last, max(issued_at) AS issued_at
  FROM {_DOCUMENTS} d GROUP BY seller, series
) d FULL JOIN number_series s ON s.seller = d.seller AND s.series = d.series
WHERE coalesce(d.first, 1) <> 1 OR coalesce(d.last, 0) <> coalesce(d.numbers, 0)
  OR d.documents <> d.numbers OR s.next_sequence IS DISTINCT FROM coalesce(d.last, 0) + 1
  OR s.last_issued_at <> d.issued_at""",
    ),
    Check(
        name="numbers_in_order",
        sentence="Within a series a later number is not issued earlier.",
        sql=f"""
SELECT seller, id, format('issued at %s, the one before at %s', issued_at, before) FROM (
  SELECT seller, id, issued_at,
    lag(issued_at) OVER (PARTITION BY seller, series ORDER BY sequence) AS before
  FROM {_DOCUMENTS} d
) ordered WHERE issued_at < before""",
    ),
    Check(
        name="number_text",
        sentence="The printed number is the series and the number in at least six digits.",
        sql=f"""
SELECT seller, id, format('%s for %s of %s', number, sequence, series) FROM {_DOCUMENTS} d
WHERE number <> series || '-' || lpad(CAST(sequence AS text),
  greatest(6, length(CAST(sequence AS text))), '0')""",
    ),
)

_LINES: Final = (
    Check(
        name="line_sequence",
        sentence="The lines of a charge key are numbered 1 to n.",
        sql="""
SELECT seller, price_interval || ' ' || charge_start_at || ' ' || charge_group,
  format('%s lines, sequence %s to %s', count(*), min(sequence), max(sequence))
FROM line_items WHERE price_interval IS NOT NULL
GROUP BY seller, price_interval, charge_start_at, charge_group
HAVING min(sequence) <> 1 OR max(sequence) <> count(*)""",
    ),
    Check(
        name="line_adjusts",
        sentence="A later line of a charge key names an earlier line of the same key.",
        sql="""
SELECT l.seller, l.id, format('sequence %s adjusts %s', l.sequence, l.adjusts)
FROM line_items l LEFT JOIN line_items e ON e.seller = l.seller AND e.id = l.adjusts
WHERE l.adjusts IS NOT NULL AND l.price_interval IS NOT NULL
  AND NOT coalesce(e.price_interval = l.price_interval AND e.charge_start_at = l.charge_start_at
    AND e.charge_group = l.charge_group AND e.sequence < l.sequence, false)""",
    ),
    Check(
        name="line_interval",
        sentence="A line of a charge names the subscription and the price of its interval.",
        sql="""
SELECT l.seller, l.id, format('of %s, %s; the interval is of %s, %s', l.subscription, l.price_key,
  v.subscription, p.key)
FROM line_items l JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  JOIN prices p ON p.seller = v.seller AND p.id = v.price
WHERE (l.subscription, l.price_key) IS DISTINCT FROM (v.subscription, p.key)""",
    ),
)

_JOURNAL: Final = (
    Check(
        name="entry_balanced",
        sentence="The postings of a journal entry sum to zero in each currency.",
        given=DOCUMENT_SUMS,
        sql="""
SELECT seller, entry, format('%s %s too much', amount, currency) FROM entry_sums
WHERE amount <> 0""",
    ),
    Check(
        name="entry_whole",
        sentence="A journal entry has at least two postings, numbered 1 to n.",
        given=DOCUMENT_SUMS,
        sql="""
SELECT e.seller, e.id, format('%s postings, numbered %s to %s', coalesce(p.postings, 0), p.first,
  p.last)
FROM journal_entries e LEFT JOIN (
  SELECT seller, entry, sum(postings) AS postings, min(first) AS first, max(last) AS last
  FROM entry_sums GROUP BY seller, entry
) p ON p.seller = e.seller AND p.entry = e.id
WHERE coalesce(p.postings, 0) < 2 OR p.first <> 1 OR p.last <> p.postings""",
    ),
    Check(
        name="entry_month",
        sentence="An entry belongs to the month of its date, which is the day it was made.",
        sql="""
SELECT seller, id, format('dated %s in %s, at %s', entry_on, accounting_month, posted_at)
FROM journal_entries
WHERE accounting_month <> entry_on - CAST(extract(day FROM entry_on) AS integer) + 1
  OR entry_on < CAST((posted_at - interval '12 hours') AT TIME ZONE 'UTC' AS date)
  OR entry_on > CAST((posted_at + interval '14 hours') AT TIME ZONE 'UTC' AS date)""",
    ),
    Check(
        name="document_entry",
        sentence="Every issued document has one entry of its issue, and the reverse.",
        sql=f"""
SELECT coalesce(d.seller, e.seller), coalesce(d.id, e.source),
  format('%s documents, %s entries', count(DISTINCT d.id), count(DISTINCT e.id))
FROM {_DOCUMENTS} d FULL JOIN (
  SELECT seller, source, id FROM journal_entries WHERE kind = 'issued'
  UNION ALL SELECT seller, invoice, invoice FROM held_entries WHERE NOT is_entered
) e ON e.seller = d.seller AND e.source = d.id
GROUP BY 1, 2 HAVING count(DISTINCT d.id) <> 1 OR count(DISTINCT e.id) <> 1""",
    ),
    Check(
        name="void_entry",
        sentence="Every void document has one entry that mirrors its issue, and no other has one.",
        sql=f"""
SELECT coalesce(d.seller, e.seller), coalesce(d.id, e.source),
  format('%s void documents, %s entries', count(DISTINCT d.id), count(DISTINCT e.id))
FROM (SELECT * FROM {_DOCUMENTS} every WHERE status = 'void') d FULL JOIN (
  SELECT seller, source, id FROM journal_entries WHERE kind = 'voided'
  UNION ALL SELECT seller, invoice, invoice FROM held_entries
  WHERE ended_at IS NOT NULL AND NOT is_entered
) e ON e.seller = d.seller AND e.source = d.id
GROUP BY 1, 2 HAVING count(DISTINCT d.id) <> 1 OR count(DISTINCT e.id) <> 1""",
    ),
    Check(
        name="void_amount",
        sentence="The entry of a void gives every line's contract balance back, and every tax.",
        sql="""
SELECT e.seller, e.source, format('%s %s remains', p.contract || p.dimension, sum(p.amount_minor))
FROM journal_entries e
  JOIN journal_entries b ON b.seller = e.seller AND b.source = e.source
    AND b.kind IN ('issued', 'voided')
  JOIN postings p ON p.seller = b.seller AND p.entry = b.id
    AND p.account IN ('contract_balance', 'tax_payable')
WHERE e.kind = 'voided'
GROUP BY e.seller, e.source, p.contract, p.line, p.dimension, p.currency
HAVING sum(p.amount_minor) <> 0""",
    ),
    Check(
        name="entry_amount",
        sentence="The entry of a document's issue moves each line's net, and its tax.",
        given=DOCUMENT_SUMS,
        sql=f"""
SELECT d.seller, d.id, format('lines move %s and tax %s, the document says %s and %s',
  coalesce(p.net, 0), coalesce(p.tax, 0), -(l.total - l.tax), -l.tax)
FROM {_DOCUMENTS} d
  JOIN journal_entries e ON e.seller = d.seller AND e.source = d.id AND e.kind = 'issued'
  JOIN line_sums l ON l.seller = d.seller AND l.document = d.id
  LEFT JOIN entry_sums p ON p.seller = e.seller AND p.entry = e.id AND p.currency = d.currency
WHERE (coalesce(p.net, 0), coalesce(p.tax, 0)) IS DISTINCT FROM (-(l.total - l.tax), -l.tax)""",
    ),
    Check(
        name="receivable_control",
        sentence="Accounts receivable are what is due of open invoices: in all, and of each.",
        given=ACCOUNT_SUMS,
        sql="""
SELECT coalesce(a.seller, i.seller), coalesce(a.customer, i.customer) || ' '
  || coalesce(a.currency, i.currency),
  format('account %s, invoices %s', coalesce(a.amount, 0), coalesce(i.amount, 0))
FROM (
  SELECT seller, customer, currency, amount FROM account_sums
  WHERE account = 'accounts_receivable'
) a FULL JOIN (
  SELECT i.seller, i.customer, i.currency, sum(i.amount_due_minor) AS amount FROM invoices i
  WHERE i.status = 'open' AND NOT EXISTS (SELECT FROM held_entries h
    WHERE h.seller = i.seller AND h.invoice = i.id AND h.ended_at IS NULL)
  GROUP BY i.seller, i.customer, i.currency
) i ON i.seller = a.seller AND i.customer = a.customer AND i.currency = a.currency
WHERE coalesce(a.amount, 0) <> coalesce(i.amount, 0)
UNION ALL
SELECT i.seller, i.id, format('account %s less %s credited, %s with %s due', coalesce(a.amount, 0),
  coalesce(s.amount, 0), i.status, i.amount_due_minor)
FROM invoices i LEFT JOIN (
  SELECT seller, document, sum(amount_minor) AS amount FROM postings
  WHERE account = 'accounts_receivable' GROUP BY seller, document
) a ON a.seller = i.seller AND a.document = i.id LEFT JOIN (
  SELECT seller, invoice, sum(amount_minor) AS amount FROM settlements
  WHERE kind = 'credit_note' GROUP BY seller, invoice
) s ON s.seller = i.seller AND s.invoice = i.id
WHERE coalesce(a.amount, 0) - coalesce(s.amount, 0)
  <> CASE WHEN i.status <> 'open' THEN 0 WHEN EXISTS (SELECT FROM held_entries h
    WHERE h.seller = i.seller AND h.invoice = i.id AND h.ended_at IS NULL) THEN 0
  ELSE i.amount_due_minor END""",
    ),
    Check(
        name="customer_balance_control",
        sentence="A customer's balance is what the account of that name holds for it.",
        given=ACCOUNT_SUMS,
        sql="""
SELECT coalesce(a.seller, b.seller), coalesce(a.customer, b.customer) || ' '
  || coalesce(a.currency, b.currency),
  format('account %s, balance %s', coalesce(a.amount, 0), coalesce(b.amount_minor, 0))
FROM (
  SELECT seller, customer, currency, -amount AS amount FROM account_sums
  WHERE account = 'customer_balance'
) a FULL JOIN customer_balances b
  ON b.seller = a.seller AND b.customer = a.customer AND b.currency = a.currency
WHERE coalesce(a.amount, 0) <> coalesce(b.amount_minor, 0)""",
    ),
    *RECEIPT_CHECKS,
    *CREDIT_CHECKS,
    Check(
        name="prepaid_credits_control",
        sentence="Prepaid credits are what is left on prepaid grants, by customer and currency.",
        given=ACCOUNT_SUMS,
        sql="""
SELECT coalesce(a.seller, g.seller), coalesce(a.customer, g.customer) || ' '
  || coalesce(a.currency, g.currency),
  format('account %s, grants %s', coalesce(a.amount, 0), coalesce(g.amount, 0))
FROM (
  SELECT seller, customer, currency, -amount AS amount FROM account_sums
  WHERE account = 'prepaid_credits'
) a FULL JOIN (
  SELECT c.seller, c.customer, c.currency, sum(s.left_minor) AS amount FROM credit_grants c
    JOIN credit_grant_sums s ON s.seller = c.seller AND s.id = c.id
  WHERE c.kind = 'prepaid' GROUP BY c.seller, c.customer, c.currency
) g ON g.seller = a.seller AND g.customer = a.customer AND g.currency = a.currency
WHERE coalesce(a.amount, 0) <> coalesce(g.amount, 0)""",
    ),
    Check(
        name="credit_left",
        sentence="No grant gave more than it held, and one that ended keeps what is reserved.",
        sql="""
SELECT g.seller, g.id, format('%s left, %s reserved', s.left_minor, coalesce(r.amount, 0))
FROM credit_grants g JOIN credit_grant_sums s ON s.seller = g.seller AND s.id = g.id
  LEFT JOIN (
    SELECT seller, credit_grant, sum(left_minor) AS amount FROM credit_reservation_sums
    GROUP BY seller, credit_grant) r ON r.seller = g.seller AND r.credit_grant = g.id
WHERE s.left_minor < 0 OR coalesce(r.amount, 0) > s.left_minor
  OR (g.ended_at IS NULL AND r.amount IS NOT NULL)""",
    ),
    Check(
        name="credit_draws",
        sentence="What a grant paid, it paid of documents in its currency and as its kind.",
        sql=f"""
SELECT d.seller, d.line, format('%s draws %s of grant %s', d.kind, d.amount_minor, d.credit_grant)
FROM credit_draws d LEFT JOIN credit_grants g ON g.seller = d.seller AND g.id = d.credit_grant
  LEFT JOIN {_DOCUMENTS} o ON o.seller = d.seller AND o.id = d.document
WHERE g.id IS NULL OR (d.kind, o.currency) IS DISTINCT FROM (g.kind, g.currency)""",
    ),
    Check(
        name="refunds_payable_control",
        sentence="Refunds payable are the refunds that are not confirmed, by customer.",
        given=ACCOUNT_SUMS,
        sql="""
SELECT coalesce(a.seller, n.seller), coalesce(a.customer, n.customer) || ' '
  || coalesce(a.currency, n.currency),
  format('account %s, refunds %s', coalesce(a.amount, 0), coalesce(n.amount, 0))
FROM (
  SELECT seller, customer, currency, -amount AS amount FROM account_sums
  WHERE account = 'refunds_payable'
) a FULL JOIN (
  SELECT seller, customer, currency, sum(amount_minor) AS amount FROM refunds
  WHERE status = 'pending' GROUP BY seller, customer, currency
) n ON n.seller = a.seller AND n.customer = a.customer AND n.currency = a.currency
WHERE coalesce(a.amount, 0) <> coalesce(n.amount, 0)""",
    ),
    Check(
        name="outbox_versions",
        sentence="The outbox tells every version of a document, 1 to n, issue and void in time.",
        sql="""
SELECT coalesce(o.seller, d.seller), coalesce(o.object, d.id),
  format('%s events, version %s to %s, the first at %s; document at %s, of %s',
    coalesce(o.events, 0), o.first, o.last, o.begun_at, d.version, d.issued_at)
FROM (
  SELECT seller, object, count(*) AS events, min(version) AS first, max(version) AS last,
    min(occurred_at) FILTER (WHERE version = 1) AS begun_at,
    max(occurred_at) FILTER (WHERE type IN ('invoice.voided', 'credit_note.voided')) AS ended_at
  FROM outbox GROUP BY seller, object
) o FULL JOIN (
  SELECT seller, id, version, issued_at, voided_at FROM invoices
  UNION ALL SELECT seller, id, version, issued_at, voided_at FROM credit_notes
  UNION ALL SELECT seller, id, version, NULL, NULL FROM payments
  UNION ALL SELECT seller, id, version, NULL, NULL FROM refunds
  UNION ALL SELECT seller, id, proposals, NULL, NULL FROM billing_runs WHERE proposals > 0
) d ON d.seller = o.seller AND d.id = o.object
WHERE o.first IS DISTINCT FROM 1 OR o.last <> o.events OR o.last <> d.version
  OR o.begun_at <> d.issued_at OR o.ended_at IS DISTINCT FROM d.voided_at""",
    ),
)

BOOK_CHECKS: Final[tuple[Check, ...]] = (*_ARITHMETIC, *_NUMBERS, *_LINES, *_JOURNAL)
