"""Mails go to a real server: once, again when it says so, and never when they must not."""

import asyncio
from datetime import datetime, timedelta

import msgspec
import pytest
from sqlalchemy import text

from dunning.notify import Postman
from dunning.send_emails import send_emails
from engine.db import Database
from invoicing.queue_emails import queue_emails
from plans.model import Mode
from tests.mail_office import EVERY, NOW, Office
from tests.mail_server import Served, mail_server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def office(database: Database) -> Office:
    return await Office(database).open()


async def test_an_invoice_goes_out_once_with_its_document(office) -> None:
    await office.call("PATCH", "/v1/seller", {
        "emails": {"kinds": EVERY, "reply_to": "ask@helios.example"},
    })  # fmt: skip
    await office.call("PATCH", "/v1/customers/acme", {"locale": "ar", "po_number": "PO-7"})
    invoice = await office.invoice(amount="1234.50")
    async with mail_server() as served:
        assert await office.work(served) == 1
        assert await office.work(served) == 0
    ((to, message, _),) = served.mailbox.messages
    assert to == ["ap@acme.example", "cfo@acme.example"]
    assert str(message["From"]) == "Helios <billing@usance.example>"
    assert str(message["Reply-To"]) == "ask@helios.example"
    assert invoice["number"] in str(message["Subject"])
    plain, page, document = message.walk(), None, None
    parts = {part.get_content_type(): part for part in plain}
    assert "PO-7" in parts["text/plain"].get_content()
    assert '<html lang="ar" dir="rtl">' in parts["text/html"].get_content()
    assert parts["application/pdf"].get_filename() == f"{invoice['number']}.pdf"
    assert parts["application/pdf"].get_content().startswith(b"%PDF-")
    (email,) = await office.emails()
    assert (email["status"], email["attempts"], email["document"]) == ("sent", 1, invoice["id"])
    assert email["message_id"] == str(message["Message-ID"])
    assert (page, document) == (None, None)


async def test_credit_notes_and_receipts_go_out_too(office) -> None:
    await office.invoice(amount="50.00")
    money = {"customer": "acme", "amount": "60.00", "currency": "USD", "method": "bank"}
    paid = await office.call("POST", "/v1/payments", money | {"reference": "RF18"})
    async with mail_server() as served:
        await office.work(served)
    kinds = [email["kind"] for email in await office.emails()]
    assert kinds == ["invoice", "receipt"]
    _, receipt, _ = served.mailbox.messages[1]
    names = [part.get_filename() for part in receipt.iter_attachments()]
    assert names == [f"{paid['id']}.pdf"]
    body = receipt.get_body(("plain",))
    assert body is not None and "INV-000001" in body.get_content() and "RF18" in body.get_content()


async def test_what_was_issued_before_mails_were_switched_on_is_not_sent(database) -> None:
    office = await Office(database).open(kinds=["credit_note"])
    await office.invoice()
    money = {"customer": "acme", "amount": "1.00", "currency": "USD", "method": "bank"}
    await office.call("POST", "/v1/payments", money)
    office.now += timedelta(seconds=1)
    await office.call("PATCH", "/v1/seller", {"emails": {"kinds": EVERY}})
    await office.invoice()
    async with mail_server() as served:
        await office.work(served)
    assert [email["kind"] for email in await office.emails()] == ["invoice"]


async def test_four_hundreds_wait_longer_and_longer_and_one_recipient_alone_is_tried(
    office,
) -> None:
    await office.invoice()
    async with mail_server() as served:
        served.mailbox.replies = {"cfo@acme.example": ["451 4.7.1 later"] * 2}
        assert await office.work(served) == 1
        (email,) = await office.emails()
        assert (email["status"], email["error"]) == ("queued", "451 4.7.1 later")
        assert email["next_attempt_at"] == "2026-03-10T12:01:00Z"
        assert [each["status"] for each in email["recipients"]] == ["sent", "queued"]
        assert await office.work(served) == 0
        office.now += timedelta(minutes=1)
        assert await office.work(served) == 1
        assert (await office.emails())[0]["next_attempt_at"] == "2026-03-10T12:06:00Z"
        office.now += timedelta(minutes=5)
        assert await office.work(served) == 1
    assert [to for to, _, _ in served.mailbox.messages] == [
        ["ap@acme.example"], ["cfo@acme.example"],
    ]  # fmt: skip
    first, second = (content for _, _, content in served.mailbox.messages)
    assert first == second
    (email,) = await office.emails()
    assert (email["status"], email["attempts"], email["next_attempt_at"]) == ("sent", 3, None)


async def test_one_address_of_two_does_not_exist(office) -> None:
    await office.invoice()
    async with mail_server() as served:
        served.mailbox.replies = {"cfo@acme.example": ["550 5.1.1 no such user"]}
        await office.work(served)
        (email,) = await office.emails()
        assert email["status"] == "bounced"
        assert [each["status"] for each in email["recipients"]] == ["sent", "bounced"]
        customer = await office.call("GET", "/v1/customers/acme")
        assert customer["bounced_emails"] == {"cfo@acme.example": "550 5.1.1 no such user"}
        await office.invoice()
        await office.work(served)
    assert served.mailbox.messages[1][0] == ["ap@acme.example"]
    kept = {"emails": ["ap@acme.example", "new@acme.example"]}
    assert (await office.call("PATCH", "/v1/customers/acme", kept))["bounced_emails"] == {}


async def test_a_policy_against_the_sender_blames_no_address(office) -> None:
    await office.invoice()
    async with mail_server() as served:
        refused = ["554 5.7.1 relay access denied"]
        served.mailbox.replies = {"ap@acme.example": refused, "cfo@acme.example": [*refused]}
        await office.work(served)
    assert (await office.emails())[0]["status"] == "bounced"
    assert (await office.call("GET", "/v1/customers/acme"))["bounced_emails"] == {}


async def test_a_refused_message_has_failed_and_says_why(office) -> None:
    await office.invoice()
    async with mail_server() as served:
        served.mailbox.data_replies = ["552 5.3.4 too large"]
        await office.work(served)
    (email,) = await office.emails()
    assert (email["status"], email["error"]) == ("failed", "552 5.3.4 too large")
    assert (await office.call("GET", "/v1/customers/acme"))["bounced_emails"] == {}


async def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_message_id(office) -> None:
    await office.invoice()
    async with mail_server() as served:
        served.mailbox.drop_data = 1
        await office.work(served)
        assert (await office.emails())[0]["status"] == "queued"
        office.now += timedelta(minutes=1)
        await office.work(served)
    first, second = (content for _, _, content in served.mailbox.messages)
    assert first == second
    assert (await office.emails())[0]["status"] == "sent"


async def test_a_server_that_does_not_answer_is_left_at_the_deadline(office) -> None:
    await office.invoice()
    await queue_emails(database=office.database, seller=office.seller, now=NOW)
    async with mail_server() as served:
        served.mailbox.hang = asyncio.Event()
        postman = Postman(server=served.server, deadline_seconds=1)
        sent = await send_emails(
            database=office.database, seller=office.seller, postman=postman,
            clock=lambda: NOW, limit=5,
        )  # fmt: skip
        await postman.close()
    (email,) = await office.emails()
    assert (sent, email["status"], email["error"]) == (1, "queued", "no answer within 1 s")


async def test_a_server_that_is_not_there_is_tried_for_two_days(office) -> None:
    await office.invoice()
    async with mail_server() as served:
        nowhere = served
    tried = 0
    while (await office.work(nowhere)) or (await office.emails())[0]["status"] == "queued":
        tried += 1
        found = (await office.emails())[0]["next_attempt_at"]
        office.now = datetime.fromisoformat(found) if found else office.now
    (email,) = await office.emails()
    assert (tried, email["attempts"], email["status"]) == (9, 9, "failed")
    assert office.now - NOW > timedelta(days=1)


async def test_a_worker_that_dies_after_the_server_took_it_sends_it_again_later(office) -> None:
    await office.invoice()
    await queue_emails(database=office.database, seller=office.seller, now=NOW)
    async with mail_server() as served:
        served.mailbox.hang = asyncio.Event()
        dying = asyncio.create_task(office.work(served))
        await served.mailbox.asked.wait()
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        served.mailbox.hang.set()
        served.mailbox.hang = None
        assert await office.work(served) == 0
        office.now += timedelta(minutes=5)
        assert await office.work(served) == 1
    (email,) = await office.emails()
    assert (email["status"], email["attempts"]) == ("sent", 2)
    ids = {str(message["Message-ID"]) for _, message, _ in served.mailbox.messages}
    assert ids == {email["message_id"]}


async def test_two_workers_send_each_mail_once(office) -> None:
    for _ in range(6):
        await office.invoice()
    async with mail_server() as served:
        await asyncio.gather(office.work(served), office.work(served), office.work(served))
    assert len(served.mailbox.messages) == 6
    assert len({str(message["Message-ID"]) for _, message, _ in served.mailbox.messages}) == 6


async def test_without_a_server_nothing_waits_and_everything_is_seen(office) -> None:
    invoice = await office.invoice()
    assert await office.work(None) == 0
    (email,) = await office.emails()
    assert (email["status"], email["reason"]) == ("held", "no_smtp_server")
    async with mail_server() as served:
        assert await office.work(served) == 0
        await office.call("POST", f"/v1/invoices/{invoice['id']}/send", {})
        assert await office.work(served) == 1


async def test_a_test_seller_sends_only_when_it_may(database) -> None:
    office = await Office(database).open(mode=Mode.TEST)
    await office.invoice()
    async with mail_server() as served:
        assert await office.work(served) == 0
        on = {"emails": {"kinds": EVERY, "send_in_test": True}}
        await office.call("PATCH", "/v1/seller", on)
        await office.invoice()
        assert await office.work(served) == 1
    assert [email["status"] for email in await office.emails()] == ["held", "sent"]


async def test_mails_switched_off_or_of_a_void_document_do_not_go(office) -> None:
    first, second = await office.invoice(), await office.invoice()
    await queue_emails(database=office.database, seller=office.seller, now=NOW)
    await office.call("POST", f"/v1/invoices/{first['id']}/void", {})
    async with mail_server() as served:
        await office.work(served)
        assert len(served.mailbox.messages) == 1
        third = await office.invoice()
        await queue_emails(database=office.database, seller=office.seller, now=NOW)
        await office.call("PATCH", "/v1/seller", {"emails": None})
        await office.work(served)
        assert len(served.mailbox.messages) == 1
    reasons = {email["document"]: email["reason"] for email in await office.emails()}
    assert reasons == {
        first["id"]: "document_void", second["id"]: None, third["id"]: "switched_off",
    }  # fmt: skip


async def test_names_with_line_breaks_make_no_headers(database) -> None:
    office = await Office(database).open()
    name = "Evil\r\nBcc: thief@evil.example\r\n\r\nHello"
    await office.call("PATCH", "/v1/seller", {"legal_name": name})
    await office.customer("evil", name=name, emails=["x@evil.example"], po_number="1\r\nTo: a@b.c")
    words = {
        "subject": "{customer} {seller}",
        "text": "{customer}\n{po_number}",
        "html": "{seller}",
    }
    await office.call("PUT", "/v1/email_templates/invoice/en", words)
    await office.invoice("evil")
    async with mail_server() as served:
        await office.work(served)
    ((to, message, content),) = served.mailbox.messages
    assert to == ["x@evil.example"]
    assert message["Bcc"] is None and len(message.get_all("To")) == 1
    head = content.partition(b"\r\n\r\n")[0]
    assert not any(line.lower().startswith(b"bcc") for line in head.splitlines())


async def test_sellers_see_and_send_their_own_mails_alone(database) -> None:
    ours, theirs = await Office(database).open(), await Office(database).open()
    await ours.invoice()
    await theirs.invoice(amount="99.00")
    async with mail_server() as served:
        assert await ours.work(served) == 2
    (mine,), (other,) = await ours.emails(), await theirs.emails()
    assert mine["id"] != other["id"]
    refused = await theirs.client.get(f"/v1/emails/{mine['id']}")
    assert refused.status == 404


async def test_a_login_is_made_and_a_wrong_one_is_told_without_the_password(office) -> None:
    await office.invoice()
    async with mail_server() as served:
        login = {"user": "billing@usance.example", "password": "wrong-secret"}
        server = msgspec.structs.replace(served.server, **login)
        wrong = Served(server=server, mailbox=served.mailbox)
        assert await office.work(wrong) == 1
        (email,) = await office.emails()
        assert email["status"] == "queued" and "wrong-secret" not in email["error"]
        assert email["error"].startswith("535 ")
        office.now += timedelta(minutes=1)
        server = msgspec.structs.replace(server, password="right")
        assert await office.work(Served(server=server, mailbox=served.mailbox)) == 1
    assert len(served.mailbox.messages) == 1


async def test_mails_of_many_documents_are_found_in_turn(office, monkeypatch) -> None:
    monkeypatch.setattr("invoicing.queue_emails.AT_ONCE", 2)
    for _ in range(5):
        await office.invoice()
    found = await queue_emails(database=office.database, seller=office.seller, now=NOW)
    again = await queue_emails(database=office.database, seller=office.seller, now=NOW)
    assert (found, again) == (5, 0)
    async with office.database.transaction(seller=office.seller) as connection:
        rows = await connection.execute(text("SELECT source, position FROM email_positions"))
        assert ("INV", 5) in {tuple(row) for row in rows}


async def test_a_bounce_that_is_quicker_than_the_servers_answer_stays(office) -> None:
    await office.invoice()
    await queue_emails(database=office.database, seller=office.seller, now=NOW)
    (email,) = await office.emails()
    async with mail_server() as served:
        served.mailbox.hang = asyncio.Event()
        sending = asyncio.create_task(office.work(served))
        await served.mailbox.asked.wait()
        told = {"address": "cfo@acme.example", "reason": "550 5.1.1 no such user"}
        bounced = await office.call("POST", f"/v1/emails/{email['id']}/bounce", told)
        served.mailbox.hang.set()
        assert await sending == 1
        assert await office.work(served) == 0
    assert [each["status"] for each in bounced["recipients"]] == ["queued", "bounced"]
    (email,) = await office.emails()
    assert [each["status"] for each in email["recipients"]] == ["sent", "bounced"]
    assert (email["status"], email["attempts"]) == ("bounced", 1)
    customer = await office.call("GET", "/v1/customers/acme")
    assert set(customer["bounced_emails"]) == {"cfo@acme.example"}
