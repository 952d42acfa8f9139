"""The journal: chart of accounts and postings. Pure; a posting's sign is its side."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec


class Side(StrEnum):
    """The side on which a balance is written positive."""

    DEBIT = "debit"
    CREDIT = "credit"


class AccountType(StrEnum):
    """Where an account stands in the statements."""

    ASSET = "asset"
    LIABILITY = "liability"
    INCOME = "income"
    EXPENSE = "expense"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One account of the chart."""

    code: str
    type: AccountType
    normal_side: Side


ACCOUNTS_RECEIVABLE: Final = "accounts_receivable"
CONTRACT_BALANCE: Final = "contract_balance"
CUSTOMER_BALANCE: Final = "customer_balance"
TAX_PAYABLE: Final = "tax_payable"
PREPAID_CREDITS: Final = "prepaid_credits"
REFUNDS_PAYABLE: Final = "refunds_payable"
CASH: Final = "cash"
UNAPPLIED_CASH: Final = "unapplied_cash"
CREDIT_LOSS: Final = "credit_loss"

CHART: Final = (
    Account(code=ACCOUNTS_RECEIVABLE, type=AccountType.ASSET, normal_side=Side.DEBIT),
    Account(code=CONTRACT_BALANCE, type=AccountType.LIABILITY, normal_side=Side.CREDIT),
    Account(code=CUSTOMER_BALANCE, type=AccountType.LIABILITY, normal_side=Side.CREDIT),
    Account(code=TAX_PAYABLE, type=AccountType.LIABILITY, normal_side=Side.CREDIT),
    Account(code=PREPAID_CREDITS, type=AccountType.LIABILITY, normal_side=Side.CREDIT),
    Account(code=REFUNDS_PAYABLE, type=AccountType.LIABILITY, normal_side=Side.CREDIT),
    Account(code=CASH, type=AccountType.ASSET, normal_side=Side.DEBIT),
    Account(code=UNAPPLIED_CASH, type=AccountType.LIABILITY, normal_side=Side.CREDIT),
    Account(code=CREDIT_LOSS, type=AccountType.EXPENSE, normal_side=Side.DEBIT),
)


class Posting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One side of an entry; `amount_minor` is positive for a debit, negative for a credit."""

    account: str
    amount_minor: int
    customer: str
    document: str
    contract: str = ""
    line: str = ""
    dimension: str = ""


def imbalance_minor(*, postings: Sequence[Posting]) -> int:
    """Debits less credits in minor units: zero for a sound entry."""
    return sum(posting.amount_minor for posting in postings)
