import msgspec

from invoicing.assembly import assemble
from tests.agreements import ACME, SEATS, TOKENS, at, line


def drafts(*lines, **fields):
    values = {
        "seller_id": "sel_1",
        "customer": ACME,
        "billed_at": at("2026-01-01"),
        "issued_at": at("2026-01-03T12:00"),
        "default_terms_days": 30,
        "ordinal": 0,
        "differences": lines,
    }
    return assemble(**(values | fields))


def test_a_document_per_currency_in_the_order_of_currencies():
    found = drafts(line(5, currency="USD"), line(7, currency="EUR"), line(-9, currency="USD"))
    assert [(each.currency, each.total_minor) for each in found] == [("EUR", 7), ("USD", -4)]
    assert [each.is_credit_note for each in found] == [False, True]
    assert [each.id.partition("_")[0] for each in found] == ["inv", "cn"]
    assert len({each.id.partition("_")[2] for each in found}) == 2


def test_lines_follow_subscription_then_price_then_period():
    second = line(2, TOKENS, key="b")
    first = line(1, SEATS, key="a")
    (found,) = drafts(second, first)
    keys = [(each.contract, each.amount_minor) for each in found.lines]
    assert keys == [("a", 1), ("b", 2)]


def test_lines_that_cancel_each_other_make_an_invoice_of_nothing():
    (found,) = drafts(line(5), line(-5))
    assert (found.total_minor, found.is_credit_note, len(found.lines)) == (0, False, 2)


def test_a_refund_is_what_subscriptions_that_ended_and_asked_for_it_give_back():
    gone = {"refund_unused": True, "ends_at": at("2026-01-10")}
    asked = [line(-9, id="sub_1", **gone), line(2, id="sub_1", **gone), line(5, id="sub_2", **gone)]
    not_asked = [line(-20, id="sub_3", ends_at=at("2026-01-10"))]
    still_runs = [line(-30, id="sub_4", refund_unused=True, ends_at=at("2026-01-11"))]
    (found,) = drafts(*asked, *not_asked, *still_runs, billed_at=at("2026-01-10"))
    assert (found.total_minor, found.refundable_minor) == (-52, 7)


def test_payment_terms_are_the_shortest_that_anyone_agreed():
    customer = msgspec.structs.replace(ACME, net_terms_days=14)
    days = [
        (drafts(*lines, customer=who)[0].due_at - at("2026-01-03T12:00")).days
        for lines, who in (
            ([line(1)], ACME),
            ([line(1)], customer),
            ([line(1), line(2, net_terms_days=20)], customer),
            ([line(1, net_terms_days=45), line(2, net_terms_days=0)], customer),
        )
    ]
    assert days == [30, 14, 20, 0]


def test_ids_follow_from_the_work_and_from_nothing_else():
    (one,), (same,) = drafts(line(5)), drafts(line(9), issued_at=at("2026-05-05"))
    assert one.id == same.id
    others = [
        drafts(line(5), ordinal=1),
        drafts(line(5), seller_id="sel_2"),
        drafts(line(5), billed_at=at("2026-01-02")),
        drafts(line(5), customer=msgspec.structs.replace(ACME, id="cus_b")),
        drafts(line(5, currency="USD")),
    ]
    assert len({each.id for (each,) in others} | {one.id}) == 6
