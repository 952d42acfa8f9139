"""What happens to a seller in a year: acts at random, each told to the ledger too."""

from collections import Counter
from datetime import timedelta
from typing import Any, Final

from engine.money import format_amount
from tests.year_ledger import Item, Owner
from tests.year_seller import CUSTOMERS, RefusedError, Seller, minor

REFUSALS: Final[dict[str, frozenset[str]]] = {
    "credit": frozenset(
        {"overcredited", "nothing_to_credit", "sells_credit", "invoice_void"}
        | {"invoice_uncollectible", "invalid"}
    ),
    "coupon": frozenset({"currency_mismatch", "duplicate"}),
    "void_note": frozenset({"balance_used", "refund_paid", "invoice_uncollectible"}),
    "void_invoice": frozenset(
        {"invoice_paid", "invoice_credited", "credit_used", "credit_settled"}
    ),
    "write_off": frozenset({"credit_purchase"}),
    "give_back": frozenset({"payment_refunded", "balance_used"}),
    "refund_payment": frozenset({"nothing_to_refund", "exceeds_payment"}),
    "refund_balance": frozenset({"nothing_to_refund"}),
    "cancel_refund": frozenset({"refund_of_credit_note"}),
    "void_grant": frozenset({"purchase_unpaid", "already_ended", "grant_ended"}),
    "allocate": frozenset({"nothing_to_allocate"}),
    "edit_draft": frozenset({"already_issued", "not_found"}),
    "change": frozenset({"subscription_ended", "nothing_changes", "unknown_price"}),
}
"""What each act may be refused with; any other refusal is an error."""


class Acts:
    """The acts; each gives whether there was anything to act on."""

    def __init__(self, seller: Seller) -> None:
        self.seller, self.random, self.ledger = seller, seller.random, seller.ledger
        self.done: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()

    async def some(self, weights: dict[str, int]) -> None:
        """One act at random."""
        (name,) = self.random.choices(list(weights), list(weights.values()))
        try:
            if await getattr(self, name)():
                self.done[name] += 1
        except RefusedError as refused:
            known = refused.codes & REFUSALS.get(name, frozenset())
            if not known:
                raise
            self.refused[name, min(known)] += 1
        await self.seller.listen()

    def owner(self) -> Owner:
        customer = self.random.choice(list(CUSTOMERS))
        return customer, self.random.choice(CUSTOMERS[customer][0])

    def _text(self, owner: Owner, low: int, high: int) -> str:
        return format_amount(self.random.randint(low, high), currency=owner[1])

    def item(self, *statuses: str) -> Item | None:
        every = [one for one in self.ledger.items.values() if one.status in statuses and one.total]
        return self.random.choice(every) if every else None

    def pays_for(self, owner: Owner) -> str:
        """Who pays for the customer."""
        return "head" if owner[0] in {"branch", "outpost"} else owner[0]

    async def use(self) -> bool:
        """Usage of now or of late."""
        if not self.seller.subscriptions:
            return False
        for _ in range(self.random.randint(1, 4)):
            customer = self.random.choice(list(self.seller.subscriptions.values()))
            late = self.random.random() < 0.3
            back = timedelta(minutes=self.random.randint(1, 30 * 1440)) if late else timedelta()
            await self.seller.client.post(
                "/v1/events",
                {
                    "id": self.seller.fresh("e"),
                    "type": "call",
                    "subject": customer,
                    "time": (self.seller.now - back).isoformat(),
                    "data": {"tokens": self.random.randint(1, 900)},
                },
            )
        return True

    async def subscribe(self) -> bool:
        """One more subscription."""
        owner = self.owner()
        plan = self.random.choice(["team", "team", "flow", "year"])
        body: dict[str, Any] = {"plan": f"{plan}-{owner[1]}", "key": self.seller.fresh("s")}
        if plan != "flow":
            body["quantities"] = {"seats": str(self.random.randint(1, 6))}
        if self.random.random() < 0.3:
            body["coupons"] = [self.random.choice(["always", "half"])]
        if self.random.random() < 0.2:
            body["spend_thresholds"] = [self._text(owner, 3000, 6000)]
        if self.random.random() < 0.2:
            body |= {"trial_days": 5, "invoice_group": "apart"}
        await self.seller.post("/v1/subscriptions", customer=owner[0], **body)
        self.seller.subscriptions[body["key"]] = owner[0]
        return True

    async def _of_subscription(self, path: str, **body: Any) -> str | None:
        if not self.seller.subscriptions:
            return None
        key = self.random.choice(list(self.seller.subscriptions))
        await self.seller.post(f"/v1/subscriptions/{key}/{path}", **body)
        return key

    async def change(self) -> bool:
        """Another plan or other quantities, now, back-dated or later."""
        effective = self.random.choice(["now", "now", "period_end"])
        seats = {"seats": str(self.random.randint(1, 9))}
        body: dict[str, Any] = {"effective": effective, "invoice_now": self.random.random() < 0.5}
        teams = list(self.seller.subscriptions)
        if not teams:
            return False
        key = self.random.choice(teams)
        found = await self.seller.get(f"/v1/subscriptions/{key}")
        plan, _, currency = found["plan"].partition("-")
        if plan == "flow" or self.random.random() < 0.3:
            other = "team" if plan == "flow" else "flow"
            body["plan"] = f"{other}-{currency}"
        else:
            body["quantities"] = seats
        await self.seller.post(f"/v1/subscriptions/{key}/change", **body)
        return True

    async def cancel(self) -> bool:
        """A subscription ends; what was paid in advance comes back, or is kept."""
        refund = self.random.choice(["credit", "refund", "none"])
        effective = self.random.choice(["now", "period_end"])
        key = await self._of_subscription("cancel", refund=refund, effective=effective)
        if key is not None:
            del self.seller.subscriptions[key]
        return key is not None

    async def coupon(self) -> bool:
        """A coupon for a running subscription."""
        coupon = self.random.choice(["always", "half", "once"])
        return await self._of_subscription("coupons", coupon=coupon) is not None

    async def promote(self) -> bool:
        """Credit is given."""
        owner = self.owner()
        body: dict[str, Any] = {"amount": self._text(owner, 500, 9000), "currency": owner[1]}
        if self.random.random() < 0.6:
            end = self.seller.now + timedelta(days=self.random.randint(5, 90))
            body |= {"expires_at": end.isoformat(), "rollover_fraction": "0.5"}
        if self.random.random() < 0.3:
            body["scope"] = {"meters": ["tokens"]}
        body |= {"key": self.seller.fresh("g"), "kind": "promotional"}
        await self.seller.post("/v1/credit_grants", customer=self.pays_for(owner), **body)
        return True

    async def prepay(self) -> bool:
        """Credit is sold, once or again and again."""
        owner = self.owner()
        amount = self._text(owner, 2000, 20000)
        available = self.random.choice(["on_issue", "on_payment"])
        body: dict[str, Any] = {"amount": amount, "currency": owner[1], "kind": "prepaid"}
        body["purchase"] = {"amount": self._text(owner, 1500, 20000), "available": available}
        way = self.random.random()
        if way < 0.3:
            end = self.seller.now + timedelta(days=self.random.randint(20, 90))
            body |= {"expires_at": end.isoformat(), "rollover_fraction": "0.25"}
        elif way < 0.4:
            end = self.seller.now + timedelta(days=75)
            body |= {"recurring": {"unit": "month", "count": 1}, "expires_at": end.isoformat()}
        elif way < 0.5:
            body["top_up"] = {"below": amount, "amount": amount}
            body["purchase"]["available"] = "on_payment"
        key = self.seller.fresh("g")
        await self.seller.post("/v1/credit_grants", customer=self.pays_for(owner), key=key, **body)
        return True

    async def void_grant(self) -> bool:
        """What is left of credit ends: the share that was paid is balance, or is kept."""
        grants = (await self.seller.get("/v1/credit_grants?limit=200"))["data"]
        left = [one for one in grants if one["status"] == "active"]
        if not left:
            return False
        grant = self.random.choice(left)
        before = await self._balance((grant["customer"], grant["currency"]))
        settle = self.random.choice(["credit", "forfeit"])
        await self.seller.post(f"/v1/credit_grants/{grant['key']}/void", settle=settle)
        owner = (grant["customer"], grant["currency"])
        self.ledger.balance[owner] += await self._balance(owner) - before
        return True

    async def _balance(self, owner: Owner) -> int:
        found = await self.seller.get(f"/v1/customers/{owner[0]}")
        return minor(found["balances"].get(owner[1], "0"), owner)

    async def one_off(self) -> bool:
        """An invoice by hand."""
        owner = self.owner()
        lines: list[dict[str, Any]] = []
        for index in range(self.random.randint(1, 3)):
            line: dict[str, Any] = {"key": f"work{index}", "amount": self._text(owner, 1, 30000)}
            if self.random.random() < 0.3:
                line["tax_rates"] = [self.random.choice(["vat", "inside", "sales"])]
            if self.random.random() < 0.5:
                end = self.seller.now + timedelta(days=self.random.randint(1, 120))
                line["period"] = [self.seller.now.isoformat(), end.isoformat()]
                line["revenue"] = {"method": "ratable_daily"}
            lines.append(line)
        until = self.seller.now + timedelta(days=self.random.randint(1, 60))
        body: dict[str, Any] = {"customer": owner[0], "currency": owner[1], "lines": lines}
        if self.random.random() < 0.4:
            for line in lines:
                line.pop("period", None)
            body |= {"cancellable": True, "cancellable_until": until.isoformat()}
        made = await self.seller.post("/v1/invoices", **body)
        await self.seller.listen()
        if "cancellable" in body:
            self.ledger.hold(self.ledger.items[made["id"]], until)
        return True

    async def _draft(self) -> dict[str, Any] | None:
        drafts = (await self.seller.get("/v1/invoices?status=draft&limit=200"))["data"]
        return self.random.choice(drafts) if drafts else None

    async def edit_draft(self) -> bool:
        """A line more on a document that waits."""
        draft = await self._draft()
        if draft is None:
            return False
        owner = (draft["customer"], draft["currency"])
        amount = self._text(owner, -1500, 1500)
        body = {"key": "by-hand", "amount": amount, "reason": "agreed on the telephone"}
        await self.seller.post(f"/v1/invoices/{draft['id']}/lines", **body)
        return True

    async def finalize(self) -> bool:
        """A document that waits is issued at once."""
        draft = await self._draft()
        if draft is not None:
            await self.seller.post(f"/v1/invoices/{draft['id']}/finalize")
        return draft is not None

    async def credit(self) -> bool:
        """Lines of an invoice are credited by hand."""
        item = self.item("open", "paid")
        if item is None:
            return False
        lines = (await self.seller.get(f"/v1/invoices/{item.id}"))["lines"]
        wanted = []
        for line in self.random.sample(lines, min(len(lines), 2)):
            most = max(minor(line["amount"], item.owner), 1)
            amount = most if self.random.random() < 0.2 else self.random.randint(1, most)
            told = format_amount(amount, currency=item.owner[1])
            wanted.append({"line": line["id"], "amount": told})
        reason = self.random.choice(["goodwill", "billing_error", "unused_service"])
        settle = self.random.choice(["credit", "refund"])
        await self.seller.post(
            "/v1/credit_notes", invoice=item.id, lines=wanted, reason=reason, settle=settle
        )
        return True

    async def void_note(self) -> bool:
        """A note by hand is taken back."""
        notes = [
            one for one in self.ledger.notes.values() if one.invoice and one.status == "issued"
        ]
        if not notes:
            return False
        note = self.random.choice(notes)
        await self.seller.post(f"/v1/credit_notes/{note.id}/void")
        self.ledger.uncredit(note)
        return True

    async def void_invoice(self) -> bool:
        """An open invoice is taken back."""
        item = self.item("open")
        if item is None:
            return False
        await self.seller.post(f"/v1/invoices/{item.id}/void")
        self.ledger.void(item)
        return True

    async def write_off(self) -> bool:
        """The oldest open invoice, mostly, is given up."""
        item = self.item("open")
        if item is None:
            return False
        await self.seller.post(f"/v1/invoices/{item.id}/write_off")
        self.ledger.write_off(item)
        return True
