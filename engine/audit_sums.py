"""What several checks ask of the largest tables, summed once for all of them. Pure."""

from typing import Final

_LINE_SUMS: Final = """line_sums AS MATERIALIZED (
  SELECT seller, document, count(*) AS lines, min(ordinal) AS first, max(ordinal) AS last,
    sum(amount_minor) AS amount, sum(discount_minor) AS discount,
    sum(promotional_minor) AS promotional, sum(tax_minor) AS tax,
    sum(amount_minor - discount_minor - promotional_minor + tax_minor - tax_included_minor) AS total
  FROM line_items GROUP BY seller, document)"""
_ENTRY_SUMS: Final = """entry_sums AS MATERIALIZED (
  SELECT seller, entry, currency, count(*) AS postings, min(ordinal) AS first, max(ordinal) AS last,
    sum(amount_minor) AS amount,
    coalesce(sum(amount_minor) FILTER (
      WHERE line <> '' AND account IN ('contract_balance', 'prepaid_credits')), 0) AS net,
    coalesce(sum(amount_minor) FILTER (WHERE account = 'tax_payable'), 0) AS tax
  FROM postings GROUP BY seller, entry, currency)"""
DOCUMENT_SUMS: Final = f"{_LINE_SUMS}, {_ENTRY_SUMS}"
"""The lines of each document, and the postings of each journal entry in each currency."""

ACCOUNT_SUMS: Final = """account_sums AS MATERIALIZED (
  SELECT seller, customer, currency, account, sum(amount_minor) AS amount FROM postings
  WHERE account IN ('accounts_receivable', 'customer_balance', 'unapplied_cash', 'cash',
    'prepaid_credits', 'refunds_payable')
  GROUP BY seller, customer, currency, account)"""
"""What the control accounts hold of each customer."""

KEY_SUMS: Final = """key_sums AS MATERIALIZED (
  SELECT seller, stream, batch, count(*) AS keys, sum(ordinal) AS places, min(ordinal) AS first,
    max(ordinal) AS last FROM event_keys GROUP BY seller, stream, batch)"""
"""The identities of each batch, and the sum of their places."""
