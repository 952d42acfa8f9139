"""What money does in a year: it comes, waits, is matched, goes back, and is taken back."""

from typing import Any

from engine.money import format_amount
from tests.year_acts import Acts
from tests.year_ledger import Money, Owner
from tests.year_seller import minor


class MoneyActs(Acts):
    """Money that comes and goes."""

    async def _receive(self, owner: Owner, amount: int, parts: dict[str, int] | None) -> None:
        """A payment; where it goes must be where the ledger thinks it does."""
        body: dict[str, Any] = {}
        if parts is not None:
            told = {key: format_amount(part, currency=owner[1]) for key, part in parts.items()}
            body["allocations"] = [{"invoice": key, "amount": part} for key, part in told.items()]
        else:
            parts = self.ledger.oldest(owner, amount)
        made = await self.seller.post(
            "/v1/payments",
            customer=owner[0],
            amount=format_amount(amount, currency=owner[1]),
            currency=owner[1],
            method=self.random.choice(["bank", "manual"]),
            **body,
        )
        money = Money(id=made["id"], owner=owner, amount=amount)
        self.ledger.receive(money, parts)
        self._agrees(money, made)

    def _agrees(self, money: Money, told: dict[str, Any]) -> None:
        parts = {
            part["invoice"]: minor(part["amount"], money.owner) for part in told["allocations"]
        }
        assert parts == money.parts
        rest = tuple(minor(told[name], money.owner) for name in ("credited", "unapplied"))
        assert rest == (money.credited, money.unapplied)

    async def pay(self) -> bool:
        """What is due, a part of it, or more, without a word what for."""
        item = self.item("open")
        if item is None:
            return False
        due = max(self.ledger.receivables()[item.owner], item.due)
        most = self.random.choice([item.due, item.due, due, due + self.random.randint(1, 3000)])
        amount = most if self.random.random() < 0.7 else self.random.randint(1, most)
        await self._receive(item.owner, amount, None)
        return True

    async def pay_named(self) -> bool:
        """Money for invoices that it names, with or without a rest."""
        item = self.item("open")
        if item is None:
            return False
        parts = {item.id: self.random.randint(1, item.due)}
        rest = self.random.choice([0, 0, self.random.randint(1, 2000)])
        await self._receive(item.owner, sum(parts.values()) + rest, parts)
        return True

    async def recover(self) -> bool:
        """Money for an invoice that was given up."""
        item = self.item("uncollectible")
        if item is None:
            return False
        amount = item.due if self.random.random() < 0.5 else self.random.randint(1, item.due)
        await self._receive(item.owner, amount, {item.id: amount})
        return True

    async def deposit(self) -> bool:
        """Money that nobody knows the purpose of."""
        customer, currency = self.owner()
        owner = (self.pays_for((customer, currency)), currency)
        await self._receive(owner, self.random.randint(100, 20000), {})
        return True

    def _money(self, *, waiting: bool = False) -> Money | None:
        every = [one for one in self.ledger.money.values() if one.status == "succeeded"]
        every = [one for one in every if one.unapplied] if waiting else every
        return self.random.choice(every) if every else None

    async def allocate(self) -> bool:
        """Money that waits is matched."""
        money = self._money(waiting=True)
        if money is None:
            return False
        parts = self.ledger.oldest(money.owner, money.unapplied)
        told = await self.seller.post(f"/v1/payments/{money.id}/allocate")
        self.ledger.apply(money, parts, "payment")
        money.unapplied -= sum(parts.values())
        self._agrees(money, told)
        return True

    async def give_back(self) -> bool:
        """The bank takes a payment back."""
        money = self._money()
        if money is None:
            return False
        told = await self.seller.post(f"/v1/payments/{money.id}/return", code="R01")
        self.ledger.come_back(money)
        self._agrees(money, told)
        return True

    async def refund_payment(self) -> bool:
        """Money goes back: what it had paid is due again."""
        money = self._money()
        if money is None:
            return False
        body: dict[str, Any] = {"confirmed": self.random.random() < 0.5}
        if self.random.random() < 0.6:
            left = max(money.unapplied + sum(money.parts.values()), 1)
            amount = self.random.randint(1, left)
            body["amount"] = format_amount(amount, currency=money.owner[1])
        made = await self.seller.post("/v1/refunds", payment=money.id, **body)
        amount = minor(made["amount"], money.owner)
        await self._moved(money, amount)
        return True

    async def _moved(self, money: Money, amount: int) -> None:
        """So much of the payment went back, or came again below zero: look what of it does what."""
        told = await self.seller.get(f"/v1/payments/{money.id}")
        parts = {
            part["invoice"]: minor(part["amount"], money.owner) for part in told["allocations"]
        }
        before = dict(money.parts)
        every = before.keys() | parts.keys()
        taken = {key: before.get(key, 0) - parts.get(key, 0) for key in every}
        waited = money.unapplied - minor(told["unapplied"], money.owner)
        assert sum(taken.values()) + waited == amount
        back = {key: part for key, part in taken.items() if part > 0}
        again = {key: -part for key, part in taken.items() if part < 0}
        assert not (back and again)
        self.ledger.take_back(money, back, "refund")
        self.ledger.apply(money, again, "refund")
        money.unapplied -= waited

    async def refund_balance(self) -> bool:
        """A customer's balance is paid out."""
        owners = [owner for owner, amount in self.ledger.balance.items() if amount > 0]
        if not owners:
            return False
        owner = self.random.choice(owners)
        made = await self.seller.post("/v1/refunds", customer=owner[0], currency=owner[1])
        assert minor(made["amount"], owner) == self.ledger.balance[owner]
        self.ledger.balance[owner] = 0
        return True

    async def _refund(self) -> dict[str, Any] | None:
        pending = (await self.seller.get("/v1/refunds?status=pending&limit=200"))["data"]
        return self.random.choice(pending) if pending else None

    async def confirm_refund(self) -> bool:
        """Money that is owed back went."""
        found = await self._refund()
        if found is not None:
            await self.seller.post(f"/v1/refunds/{found['id']}/confirm")
        return found is not None

    async def cancel_refund(self) -> bool:
        """It does not go."""
        found = await self._refund()
        if found is None:
            return False
        await self.seller.post(f"/v1/refunds/{found['id']}/cancel")
        owner = (found["customer"], found["currency"])
        if found["payment"] is None:
            self.ledger.balance[owner] += minor(found["amount"], owner)
        else:
            money = self.ledger.money[found["payment"]]
            await self._moved(money, -minor(found["amount"], owner))
        return True
