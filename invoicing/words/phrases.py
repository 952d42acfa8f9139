"""The words that printed documents need: one struct, so that no language can lack one."""

import msgspec


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """Every label of the paper in one language. Names in braces are filled in.

    `locale` is the one whose month names go with the words; `right_to_left` mirrors the sheet.
    """

    locale: str
    right_to_left: bool = False
    # Titles and parties
    invoice: str
    credit_note: str
    receipt: str
    statement: str
    void: str
    sender: str
    billed_to: str
    credited_to: str
    received_from: str
    account_of: str
    # Facts
    invoice_number: str
    credit_note_number: str
    receipt_number: str
    issued: str
    due: str
    po_number: str
    adjusted: str
    reason: str
    paid_on: str
    method: str
    period: str
    # Headline
    amount_due: str
    void_amount: str
    credit_in_favour: str
    amount_paid: str
    account_balance: str
    due_on: str
    nothing_to_pay: str
    no_payment_needed: str
    # The table
    description: str
    service_period: str
    quantity: str
    unit_price: str
    amount: str
    credit: str
    date: str
    charges: str
    credits: str
    balance: str
    document: str
    paid: str
    # Totals
    subtotal: str
    discount: str
    promotional_credit: str
    total: str
    included: str
    prepaid_credit: str
    balance_applied: str
    already_settled: str
    applied_to_invoices: str
    added_to_balance: str
    refunded: str
    total_credit: str
    opening_balance: str
    closing_balance: str
    # Taxes
    tax: str
    taxable: str
    tax_rate: str
    reverse_charge: str
    exempt: str
    zero_rated: str
    intra_community: str
    exported: str
    not_taxed: str
    # Terms
    terms_void: str
    terms_settled: str
    terms_on_receipt: str
    terms_one_day: str
    terms_days: str
    state_number: str
    terms_credit: str
    thanks: str
    zone_note: str
    # Reasons of a line
    proration: str
    late_usage: str
    correction: str
    backdated: str
    true_up: str
    adjusts: str
    reason_adjusts: str
    # Reasons of a credit note
    adjustment: str
    billing_error: str
    price_concession: str
    goodwill: str
    unused_service: str
    cancellation: str
    service_credit: str
    # Lines
    minimum_commitment: str
    no_value: str
    # Tiers and units
    per: str
    all_units: str
    up_to: str
    above: str
    above_up_to: str
    flat: str
    # Paying
    payment_details: str
    account_holder: str
    bank: str
    account_number: str
    routing_number: str
    reference: str
    pay_online: str
    bank_transfer: str
    by_hand: str
    # Statement
    payment: str
    refund: str
    written_off: str
    payment_returned: str
    ageing: str
    not_due: str
    days_late: str
    days_over: str
    # Sheets
    page: str
    more: str
    continued: str
