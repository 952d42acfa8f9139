"""All that was posted of a document is found, whichever entry did it, and by index."""

from invoicing.journal_store import postings_of_line
from invoicing.loss_store import losses_left
from invoicing.refund import cancel_refund
from invoicing.statement_store import OF_CUSTOMER
from tests.billing_world import at, shop
from tests.database.test_payments import bill, pay
from tests.database.test_refunds import end, give_back, take
from tests.database.test_void_invoice import void
from tests.database.test_write_off import give_up

__all__ = ["shop"]

NAMED = "SELECT DISTINCT document FROM postings"
EVERY = "SELECT entry, ordinal FROM postings WHERE document = '{}' ORDER BY 1, 2"
FOUND = "SELECT entry, ordinal FROM postings_of('{}') ORDER BY 1, 2"
ACCOUNT = """SELECT entry, ordinal, document FROM postings WHERE customer = '{}'
AND account IN ('accounts_receivable', 'customer_balance', 'unapplied_cash') ORDER BY 1, 2"""
ELSEWHERE = "SELECT count(*) FROM postings WHERE entry <> 'je_' || substr(document, 5)"
LOSSES = """
SELECT p.document, p.account, p.contract, p.line, sum(p.amount_minor)::bigint
FROM postings p JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry
WHERE p.account IN ('credit_loss', 'contract_balance') AND e.kind NOT IN ('issued', 'voided')
GROUP BY 1, 2, 3, 4 HAVING sum(p.amount_minor) <> 0 ORDER BY 1, 2, 3, 4"""
OF_LINES = "SELECT line, entry FROM postings WHERE line <> '' ORDER BY line, entry, ordinal"


async def filled(shop):
    """Books with documents that are paid, credited, written off, void and paid back."""
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await shop.cancel("s1", now=at("2026-01-05"), effective="2026-01-08T12:00:00Z")
    await shop.bill(at("2026-01-10"))  # a credit note
    await pay(shop, "1.00")
    lost, back, gone = [await bill(shop, amount) for amount in ("10.00", "20.00", "30.00")]
    await give_up(shop, lost, at("2026-01-12"))
    await pay(shop, "4.00", allocations=[{"invoice": lost, "amount": "4.00"}])
    payment = await pay(shop, "20.00", allocations=[{"invoice": back, "amount": "20.00"}])
    refund = await give_back(shop, payment=payment, amount="5.00")
    await end(shop, cancel_refund, refund)
    await take(shop, payment)
    await void(shop, gone, at("2026-01-13"))
    return lost


async def test_each_posting_is_found_once_by_its_document(shop):
    await filled(shop)
    documents = await shop.rows(NAMED)
    assert {document.split("_")[0] for (document,) in documents} == {"inv", "cn", "pay", "ref"}
    for (document,) in documents:
        every = await shop.rows(EVERY.format(document))
        assert every
        assert await shop.rows(FOUND.format(document)) == every


async def test_each_posting_of_an_account_is_found_once(shop):
    await filled(shop)
    customers = await shop.rows("SELECT DISTINCT customer FROM postings")
    assert customers
    for (customer,) in customers:
        every = await shop.rows(ACCOUNT.format(customer))
        assert {document.split("_")[0] for _, _, document in every} == {"inv", "cn"}
        assert await shop.rows(of_account(customer, "p.entry, p.ordinal, p.document")) == every


def of_account(customer, columns):
    found = OF_CUSTOMER.replace(":customer", f"'{customer}'").replace(":currency", "NULL")
    return f"SELECT {columns} {found} ORDER BY 1, 2"


async def test_a_document_s_own_entry_has_its_id(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    assert await shop.rows(ELSEWHERE) == [(0,)]


async def test_losses_are_what_all_entries_but_issues_and_voids_moved(shop):
    lost = await filled(shop)
    invoices = [row[0] for row in await shop.rows("SELECT id FROM invoices")]
    async with shop.database.transaction(seller=shop.seller) as connection:
        left = await losses_left(connection=connection, invoices=invoices)
    assert list(left) == [lost]
    assert await shop.rows(LOSSES) == [
        (document, each.account, each.contract, each.line, each.amount_minor)
        for document, losses in left.items()
        for each in losses
    ]


async def test_a_line_tells_the_postings_of_every_entry(shop):
    await filled(shop)
    entries = {}
    for line, entry in await shop.rows(OF_LINES):
        entries.setdefault(line, []).append(entry)
    assert any(len(each) > 2 for each in entries.values())  # issued, written off, paid still
    async with shop.database.transaction(seller=shop.seller) as connection:
        for line, of_line in entries.items():
            first, postings = await postings_of_line(connection=connection, line=line)
            assert (first, len(postings)) == (of_line[0], len(of_line))


LINES = """
INSERT INTO line_items (id, document, ordinal, price_key, sequence, amount_minor, reason)
SELECT 'li_' || n, 'inv_' || n, 1, 'fee', 1, 5, 'initial' FROM generate_series(1, 3000) n"""
POSTINGS = """
INSERT INTO postings (entry, ordinal, account, customer, document, line, currency, amount_minor)
SELECT 'je_' || n, place, 'accounts_receivable', 'cus_' || n, 'inv_' || n, 'li_' || n, 'EUR',
  3 - 2 * place
FROM generate_series(1, 3000) n, generate_series(1, 2) place"""
LOOKUPS = {
    "document": "SELECT * FROM postings_of('inv_7')",
    "line": "SELECT p.* FROM line_items l CROSS JOIN LATERAL postings_of(l.document) p"
    " WHERE l.seller = current_seller() AND l.id = 'li_7' AND p.line = l.id",
    "documents": "SELECT p.* FROM unnest(ARRAY['inv_7', 'inv_8']) AS i (id)"
    " CROSS JOIN LATERAL postings_of(i.id) p",
}


async def test_they_are_found_by_index(shop):
    """The policies of row-level security are on, which let few conditions be one of an index."""
    plans = {}
    async with shop.database.transaction(seller=shop.seller) as connection:
        for statement in (LINES, POSTINGS, "SELECT refresh_statistics()"):
            await connection.exec_driver_sql(statement)
        looked_up = LOOKUPS | {"account": of_account("cus_7", "p.entry, p.ordinal")}
        for name, query in looked_up.items():
            answer = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {query}")
            plans[name] = answer.scalar_one()
    for name, plan in plans.items():
        conditions = dict(_conditions(plan[0]["Plan"]))
        assert "entry" in conditions["postings_pkey"]
        if name == "account":
            assert "customer" in conditions["postings_account"]
        else:
            assert "document" in conditions["postings_elsewhere"]


def _conditions(node):
    """The index conditions of a plan, by index."""
    if "Index Name" in node:
        yield node["Index Name"], node.get("Index Cond", "")
    for each in node.get("Plans", ()):
        yield from _conditions(each)
