"""Laws of credit: who pays first, how much, of which lines, and that nothing is lost on the way."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.ids import DerivedIds
from engine.journal import CONTRACT_BALANCE, PREPAID_CREDITS
from engine.money import Rounding
from engine.period import Period
from invoicing.assembly import BilledCustomer, Draft, summed
from invoicing.credits import (
    PREPAID,
    PROMOTIONAL,
    PostedDraw,
    UsableGrant,
    Wallet,
    draw_prepaid,
    draw_promotional,
)
from invoicing.difference import PostedLine
from invoicing.lines import Line
from invoicing.model import Reason

DUE = datetime(2026, 2, 1, tzinfo=UTC)
INTERVALS = ("pri_a", "pri_b")
ACME = BilledCustomer(
    id="cus_a", key="acme", number=1, party="pty", net_terms_days=None, po_number=None
)
amounts = st.integers(0, 10_000)
keys = st.sampled_from(["a", "b", "c"])
scopes = st.lists(keys, unique=True, max_size=2).map(tuple)


@st.composite
def lines(draw):
    """A charge or something given back; now and then credit that is sold."""
    amount = draw(st.integers(-3_000, 10_000))
    sells = draw(st.booleans()) and draw(st.booleans())
    taxed = draw(st.integers(0, 2_000)) if amount > 0 and not sells else 0
    return Line(
        key=draw(keys), contract="s", amount_minor=abs(amount) if sells else amount,
        quantity_nanos=None, period=None, reason=Reason.INITIAL,
        account=PREPAID_CREDITS if sells else CONTRACT_BALANCE,
        price_interval=draw(st.sampled_from(INTERVALS)), charge_start_at=DUE,
        meter=draw(st.none() | keys), tax_minor=taxed,
        discount_minor=draw(st.integers(0, max(amount, 0))) if not sells else 0,
    )  # fmt: skip


@st.composite
def grants(draw):
    """Living and ended ones, of both kinds, in the order in which they are used."""
    found = []
    for number in range(draw(st.integers(0, 5))):
        left = draw(amounts)
        ended = draw(st.booleans()) and draw(st.booleans())
        kept = draw(st.lists(st.integers(0, left), min_size=2, max_size=2)) if ended else []
        grant = UsableGrant(
            id=f"crg_{number}", customer=draw(st.sampled_from(["cus_a", "cus_a", "cus_b"])),
            currency=draw(st.sampled_from(["EUR", "EUR", "USD"])),
            kind=draw(st.sampled_from([PROMOTIONAL, PREPAID])),
            effective_at=DUE + timedelta(days=draw(st.sampled_from([-9, -9, 0, 1]))),
            expires_at=draw(st.sampled_from([None, DUE, DUE + timedelta(1), DUE - timedelta(1)])),
            ended_at=DUE - timedelta(1) if ended else None,
            is_successor=draw(st.booleans()), prices=draw(scopes), meters=draw(scopes),
            left_minor=left,
            reserved=dict(zip([(name, DUE) for name in INTERVALS], kept, strict=False)),
        )  # fmt: skip
        found.append(grant)
    return found


def document(found) -> Draft:
    draft = Draft(
        parts=(), ids=DerivedIds(body=0), customer=ACME, currency="EUR", billed_at=DUE,
        issued_at=DUE, due_at=DUE, lines=tuple(found), subtotal_minor=0, total_minor=0,
    )  # fmt: skip
    return summed(draft)


def lives(grant: UsableGrant) -> bool:
    """Whether it may pay of a document due at DUE, told anew from the rules."""
    if (grant.customer, grant.currency) != ("cus_a", "EUR"):
        return False
    if grant.ended_at is not None:
        return True
    ended = grant.expires_at is not None and grant.expires_at < DUE
    begun = grant.effective_at < DUE if grant.is_successor else grant.effective_at <= DUE
    return begun and not ended


def covers(grant: UsableGrant, line: Line) -> bool:
    if line.account == PREPAID_CREDITS:
        return False
    return not (grant.prices or grant.meters) or line.key in grant.prices or (
        line.meter in grant.meters
    )  # fmt: skip


def billed(found, wallet) -> Draft:
    """The document with its draws, promotional ones first, as `complete` does it."""
    draft = document(found)
    drawn, draws = draw_promotional(
        draft=draft, lines=draft.lines, wallet=wallet, posted={}, rounding=Rounding.HALF_UP
    )
    draft = summed(msgspec.structs.replace(draft, lines=tuple(drawn), draws=tuple(draws)))
    return draw_prepaid(draft=draft, wallet=wallet)


@given(st.lists(lines(), max_size=6), grants())
def test_no_draw_is_more_than_its_grant_its_line_or_the_document(found, given_grants) -> None:
    wallet = Wallet(given_grants)
    done = billed(found, wallet)
    by_grant = {grant.id: grant for grant in given_grants}
    for grant in given_grants:
        drawn = sum(draw.amount_minor for draw in done.draws if draw.grant == grant.id)
        assert 0 <= drawn == grant.left_minor - wallet.left[grant.id]
        assert wallet.left[grant.id] >= 0
        if grant.ended_at is not None:
            assert drawn <= sum(grant.reserved.values())
    for index, line in enumerate(done.lines):
        mine = [draw for draw in done.draws if draw.line == index]
        assert all(draw.amount_minor > 0 for draw in mine)
        given_away = sum(draw.amount_minor for draw in mine if draw.kind == PROMOTIONAL)
        assert given_away == line.promotional_minor
        assert given_away <= max(line.amount_minor - line.discount_minor, 0)
        assert sum(d.amount_minor for d in mine if d.kind == PREPAID) <= max(line.gross_minor, 0)
        for draw in mine:
            assert lives(by_grant[draw.grant])
            assert covers(by_grant[draw.grant], line)
            assert by_grant[draw.grant].kind == draw.kind
    net = sum(line.amount_minor - line.discount_minor for line in found)
    assert done.promotional_minor <= max(net, 0)
    prepaid = sum(draw.amount_minor for draw in done.draws if draw.kind == PREPAID)
    assert prepaid <= max(done.total_minor, 0)


@given(st.lists(lines(), max_size=6), grants())
def test_an_earlier_grant_is_empty_before_a_later_one_pays(found, given_grants) -> None:
    wallet = Wallet(given_grants)
    done = billed(found, wallet)
    living = [g for g in given_grants if lives(g) and g.ended_at is None]
    ranked = sorted(living, key=lambda grant: grant.kind == PREPAID)
    for place, later in enumerate(ranked):
        for draw in done.draws:
            if draw.grant != later.id:
                continue
            for earlier in ranked[:place]:
                if covers(earlier, done.lines[draw.line]) and earlier.kind == later.kind:
                    assert wallet.left[earlier.id] == 0


@given(st.lists(lines(), max_size=6), grants())
def test_prepaid_pays_only_what_promotional_credit_left(found, given_grants) -> None:
    """A line without tax that prepaid credit paid had no promotional credit left for it."""
    wallet = Wallet(given_grants)
    done = billed(found, wallet)
    gifts = [g for g in given_grants if lives(g) and g.ended_at is None and g.kind == PROMOTIONAL]
    room = sum(line.amount_minor - line.discount_minor for line in found) - done.promotional_minor
    for index, line in enumerate(done.lines):
        if room > 0 and line.taxable_minor > 0:
            assert all(wallet.left[gift.id] == 0 for gift in gifts if covers(gift, line)), index


@given(st.lists(lines(), min_size=1, max_size=6), st.integers(1, 20_000), scopes)
def test_one_grant_is_spread_by_largest_remainder(found, left, scope) -> None:
    grant = UsableGrant(
        id="crg_0", customer="cus_a", currency="EUR", kind=PROMOTIONAL, effective_at=DUE,
        expires_at=None, prices=scope, left_minor=left,
    )  # fmt: skip
    done = billed(found, Wallet([grant]))
    bases = {
        index: line.amount_minor - line.discount_minor
        for index, line in enumerate(found)
        if line.amount_minor > line.discount_minor and covers(grant, line)
    }
    net = sum(line.amount_minor - line.discount_minor for line in found)
    taken = max(min(left, sum(bases.values()), net), 0)
    shares = {draw.line: draw.amount_minor for draw in done.draws}
    assert sum(shares.values()) == taken
    if not taken:
        return
    exact = {index: Fraction(taken * base, sum(bases.values())) for index, base in bases.items()}
    rounded_up = [i for i in bases if shares.get(i, 0) > exact[i]]
    rounded_down = [i for i in bases if shares.get(i, 0) < exact[i]]
    assert all(abs(shares.get(index, 0) - exact[index]) < 1 for index in bases)
    for up in rounded_up:
        for down in rounded_down:
            assert (exact[up] % 1, -up) > (exact[down] % 1, -down)


@given(st.lists(lines(), max_size=4), st.lists(lines(), max_size=4), grants())
def test_two_documents_never_draw_more_than_there_is(first, second, given_grants) -> None:
    wallet = Wallet(given_grants)
    done = [*billed(first, wallet).draws, *billed(second, wallet).draws]
    for grant in given_grants:
        drawn = sum(draw.amount_minor for draw in done if draw.grant == grant.id)
        assert drawn == grant.left_minor - wallet.left[grant.id] <= grant.left_minor


@given(st.integers(1, 10_000), st.data())
def test_what_is_given_back_is_the_share_and_in_the_end_all_of_it(charged, data) -> None:
    """A charge paid in part by two grants is given back in pieces."""
    parts = [data.draw(st.integers(0, charged // 2)) for _ in range(2)]
    posted = {
        "li_1": [PostedDraw(credit_grant=f"g{i}", amount_minor=p) for i, p in enumerate(parts)]
    }
    wallet = Wallet(
        [
            UsableGrant(
                id=f"g{i}", customer="cus_a", currency="EUR", kind=PROMOTIONAL, effective_at=DUE,
                expires_at=None, left_minor=0,
            )
            for i in range(2)
        ]
    )  # fmt: skip
    standing = PostedLine(
        id="li_1", document="inv_1", group="", sequence=1, amount_minor=charged,
        reason=Reason.INITIAL,
        quantity_nanos=0, counts=True, price_interval="pri_a", charge_start_at=DUE,
        period=Period(DUE, DUE + timedelta(1)), issued_at=DUE, voided_at=None,
    )  # fmt: skip
    back = data.draw(st.integers(1, charged))
    line = Line(
        key="a", contract="s", amount_minor=-back, quantity_nanos=None, period=None,
        reason=Reason.PRORATION, price_interval="pri_a", charge_start_at=DUE, adjusted=(standing,),
    )  # fmt: skip
    _, draws = draw_promotional(
        draft=document([line]), lines=[line], wallet=wallet, posted=posted,
        rounding=Rounding.HALF_UP,
    )  # fmt: skip
    returned = {draw.grant: -draw.amount_minor for draw in draws}
    for index, part in enumerate(parts):
        name = f"g{index}"
        assert wallet.left[name] == returned.get(name, 0) <= part
        if back == charged:
            assert returned.get(name, 0) == part
        else:
            assert abs(returned.get(name, 0) - Fraction(part * back, charged)) <= 1
