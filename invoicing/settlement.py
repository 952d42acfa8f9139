"""How documents settle each other: customer balances and what is open on invoices. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from invoicing.losses import Loss, given_back, less


class OpenInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice with something still to pay, in the order of issue; `losses` if written off."""

    id: str
    customer: str
    amount_due_minor: int
    version: int
    losses: tuple[Loss, ...] = ()


class Books:
    """What settles documents while they are posted: customer balances and open invoices."""

    def __init__(
        self,
        *,
        balances: Mapping[tuple[str, str], int],
        invoices: Mapping[str, OpenInvoice],
    ) -> None:
        """`balances` in minor units by (customer, currency); `invoices` oldest first."""
        self.balances = balances
        self.changes: dict[tuple[str, str], int] = {}
        self.invoices = {key: item.amount_due_minor for key, item in invoices.items()}
        self.owners = {key: item.customer for key, item in invoices.items()}
        self.versions = {key: item.version for key, item in invoices.items()}
        self.losses = {key: item.losses for key, item in invoices.items()}

    def use_balance(self, key: tuple[str, str], wanted: int) -> int:
        """Take up to `wanted` of the customer's balance in that currency."""
        used = min(wanted, self.balances.get(key, 0) + self.changes.get(key, 0))
        if used:
            self.changes[key] = self.changes.get(key, 0) - used
        return used

    def add_balance(self, key: tuple[str, str], amount: int) -> None:
        """Give the customer credit for its next invoice."""
        if amount:
            self.changes[key] = self.changes.get(key, 0) + amount

    def is_settled(self, invoice: str) -> bool:
        """Whether nothing is left open on the invoice."""
        return self.invoices[invoice] == 0

    def next_version(self, invoice: str) -> int:
        """The version that the invoice has once it is reduced again."""
        self.versions[invoice] += 1
        return self.versions[invoice]

    def undo_losses(self, invoice: str, amount: int) -> list[Loss]:
        """What a credit of so much undoes of the invoice's write-off: nothing where it is open."""
        losses = self.losses[invoice]
        if not losses:
            return []
        undone = given_back(losses=losses, amount_minor=amount, loss_first=False)
        self.losses[invoice] = less(losses=losses, undone=undone)
        return undone

    def apply_credit(
        self, documents: Sequence[str], amount: int, *, customer: str
    ) -> list[tuple[str, int]]:
        """Spread a credit over what the customer owes of the invoices, oldest first.

        The rest is not used; nor does it pay what was billed to another customer.
        """
        applied: list[tuple[str, int]] = []
        wanted = set(documents)
        for invoice, open_minor in self.invoices.items():
            mine = invoice in wanted and self.owners[invoice] == customer
            if mine and open_minor > 0 and amount > 0:
                part = min(amount, open_minor)
                applied.append((invoice, part))
                self.invoices[invoice] = open_minor - part
                amount -= part
        return applied
