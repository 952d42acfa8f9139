"""What a bookkeeper would note of a year: open items, money and balances, by plain arithmetic.

It hears what was issued and what was done, and works out the rest by itself: nothing of the
product's settling, journal or statements is asked.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

Owner = tuple[str, str]
"""A customer's key and a currency."""
BUCKETS: Final[tuple[str, ...]] = ("current", "1_30", "31_60", "61_90", "90_plus")


@dataclass
class Item:
    """An invoice: what is due of it, and where it stands."""

    id: str
    owner: Owner
    total: int
    prepaid: int
    due: int
    due_at: datetime
    due_on: date
    place: tuple[datetime, int]
    """When it was issued, and its number."""
    status: str = "open"
    balance_used: int = 0
    held_until: datetime | None = None
    """Until then it may be cancelled, and is no receivable."""

    @property
    def receivable(self) -> int:
        """What of it stands in accounts receivable."""
        return self.due if self.status == "open" and self.held_until is None else 0


@dataclass
class Money:
    """A payment: what it pays, in the order in which it came to pay it."""

    id: str
    owner: Owner
    amount: int
    parts: dict[str, int] = field(default_factory=dict)
    credited: int = 0
    unapplied: int = 0
    status: str = "succeeded"


@dataclass
class Note:
    """A credit note: what it took off invoices, and the rest."""

    id: str
    owner: Owner
    applied: dict[str, int]
    credited: int
    invoice: str | None
    status: str = "issued"


class Ledger:
    """Open items, money, balances, and what moved receivables, by customer and currency."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.money: dict[str, Money] = {}
        self.notes: dict[str, Note] = {}
        self.balance: Counter[Owner] = Counter()
        self.moved: dict[Owner, Counter[str]] = defaultdict(Counter)

    def issue(self, item: Item) -> None:
        """An invoice; prepaid credit and the customer's balance pay of it at once."""
        item.due = item.total - item.prepaid - item.balance_used
        item.status = "open" if item.due else "paid"
        self.items[item.id] = item
        self.balance[item.owner] -= item.balance_used
        self._move(item, "invoice", item.total)
        self._move(item, "prepaid_applied", -item.prepaid)
        self._move(item, "balance_applied", -item.balance_used)

    def hold(self, item: Item, until: datetime) -> None:
        """It may be cancelled until then, unless something paid of it."""
        if item.due == item.total:
            item.held_until = until
            self._move(item, "invoice", -item.total)

    def enter(self, item: Item) -> None:
        """It can be cancelled no longer."""
        if item.held_until is not None:
            item.held_until = None
            self._move(item, "invoice", item.total)

    def enter_due(self, now: datetime) -> None:
        """Time has passed."""
        for item in self.items.values():
            if item.held_until is not None and item.held_until <= now:
                self.enter(item)

    def credit(self, note: Note) -> None:
        """A credit note: less is due of the invoices it names, the rest is balance."""
        self.notes[note.id] = note
        self.balance[note.owner] += note.credited
        for invoice, amount in note.applied.items():
            item = self.items[invoice]
            self.enter(item)
            self._move(item, "credit_note", -amount)
            if item.status == "uncollectible":
                self._move(item, "write_off", amount)
            self._settle(item, amount)

    def uncredit(self, note: Note) -> None:
        """The note is void: what it took off is due again."""
        note.status = "void"
        self.balance[note.owner] -= note.credited
        for invoice, amount in note.applied.items():
            self._reopen(self.items[invoice], amount, "void")

    def oldest(self, owner: Owner, amount: int) -> dict[str, int]:
        """What money without a purpose pays: those due first first."""
        wanted = [one for one in self.items.values() if one.owner == owner and one.status == "open"]
        found: dict[str, int] = {}
        for item in sorted(wanted, key=lambda one: (one.due_at, *one.place)):
            part = min(amount, item.due)
            if part:
                found[item.id] = part
                amount -= part
        return found

    def receive(self, money: Money, parts: dict[str, int]) -> None:
        """Money came in and pays so much of invoices; its rest is balance, or waits."""
        self.money[money.id] = money
        rest = money.amount - sum(parts.values())
        money.credited = rest if parts else 0
        money.unapplied = rest - money.credited
        self.balance[money.owner] += money.credited
        self.apply(money, parts, "payment")

    def apply(self, money: Money, parts: dict[str, int], kind: str) -> None:
        """So much of the money pays invoices; written off ones are no receivables any more."""
        for invoice, amount in parts.items():
            item = self.items[invoice]
            self.enter(item)
            if item.status == "open":
                self._move(item, kind, -amount)
            self._settle(item, amount)
            money.parts[invoice] = money.parts.get(invoice, 0) + amount

    def take_back(self, money: Money, parts: dict[str, int], kind: str) -> None:
        """So much of what the money paid is due again."""
        for invoice, amount in parts.items():
            money.parts[invoice] -= amount
            self._reopen(self.items[invoice], amount, kind)
        money.parts = {invoice: amount for invoice, amount in money.parts.items() if amount}

    def come_back(self, money: Money) -> None:
        """The bank took the money: nothing of it is left."""
        self.take_back(money, dict(money.parts), "return")
        missing = max(money.credited - self.balance[money.owner], 0)
        self.balance[money.owner] -= money.credited - missing
        used = [one for one in self.items.values() if one.owner == money.owner]
        for item in sorted(used, key=lambda one: one.place, reverse=True):
            part = 0 if item.status == "void" else min(missing, item.balance_used)
            if part:
                item.balance_used -= part
                missing -= part
                self._reopen(item, part, "return")
        assert not missing, "the balance was paid out"
        money.credited = money.unapplied = 0
        money.status = "returned"

    def void(self, item: Item) -> None:
        """The invoice is taken back; what balance or credit had paid of it is balance."""
        if item.held_until is None:
            self._move(item, "void", -item.due)
        item.held_until = None
        self.balance[item.owner] += item.total - item.due - item.prepaid
        item.due, item.status = 0, "void"

    def write_off(self, item: Item) -> None:
        """Nobody expects the rest any more."""
        self.enter(item)
        self._move(item, "write_off", -item.due)
        item.status = "uncollectible"

    def receivables(self) -> Counter[Owner]:
        """What is owed on invoices."""
        found: Counter[Owner] = Counter()
        for item in self.items.values():
            found[item.owner] += item.receivable
        return +found

    def ageing(self, owner: Owner, *, on: date) -> dict[str, int]:
        """The same by how late it is at the end of that day."""
        found: dict[str, int] = dict.fromkeys(BUCKETS, 0)
        for item in self.items.values():
            if item.owner == owner:
                late = (on - item.due_on).days
                index = 0 if late <= 0 else min((late - 1) // 30 + 1, 4)
                found[BUCKETS[index]] += item.receivable
        return found

    def unapplied(self, owner: Owner) -> int:
        """What of its money waits."""
        return sum(one.unapplied for one in self.money.values() if one.owner == owner)

    def _settle(self, item: Item, amount: int) -> None:
        item.due -= amount
        assert item.due >= 0, f"{item.id} is paid more than once"
        if not item.due:
            item.status = "paid"

    def _reopen(self, item: Item, amount: int, kind: str) -> None:
        """It is open, and no longer written off: all that is due of it is a receivable again."""
        if item.status == "uncollectible":
            self._move(item, "write_off", item.due)
        self._move(item, kind, amount)
        item.due += amount
        item.status = "open"

    def _move(self, item: Item, kind: str, amount: int) -> None:
        if amount:
            self.moved[item.owner][kind] += amount
