"""The routes of mails: words of the seller's own, messages to look at, reports that come back."""

from email import message_from_bytes
from email.policy import default

import pytest

from tests.api.world import World
from tests.mail_server import report

WORDS = "/v1/email_templates/invoice"


async def made(world: World) -> dict:
    await world.send("PATCH", "/v1/seller", json={"emails": {"kinds": [], "send_in_test": True}})
    body = {"customer": "acme", "lines": [{"key": "fee", "amount": "9.00"}]}
    invoice = (await world.send("POST", "/v1/invoices", json=body)).json()
    answer = await world.send("POST", f"/v1/invoices/{invoice['id']}/send", json={})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_own_words_stand_in_the_place_of_ours(world) -> None:
    ours = (await world.send("GET", f"{WORDS}/de")).json()
    assert ours["own"] is False and "due_on" in ours["placeholders"]
    own = {"subject": "Nr. {number}", "text": "Hallo {customer}", "html": "<b>{customer}</b>"}
    kept = await world.send("PUT", f"{WORDS}/de", json=own)
    assert kept.status_code == 200 and kept.json()["own"] is True
    await world.send("PATCH", "/v1/customers/acme", json={"locale": "de-AT", "name": "A & <B>"})
    email = await made(world)
    assert (email["subject"], email["status"]) == ("Nr. INV-000001", "queued")
    shown = await world.send("GET", f"/v1/emails/{email['id']}.eml")
    assert shown.headers["content-type"] == "message/rfc822"
    message = message_from_bytes(shown.content, policy=default)
    page = message.get_body(("html",)).get_content()
    assert "<b>A &amp; &lt;B&gt;</b>" in page and 'dir="ltr"' in page
    assert [part.get_filename() for part in message.iter_attachments()] == ["INV-000001.pdf"]
    theirs = await world.send("GET", f"{WORDS}/de", key=world.theirs.keys["admin"])
    assert theirs.json()["own"] is False
    assert (await world.send("DELETE", f"{WORDS}/de")).status_code == 204
    assert (await world.send("GET", f"{WORDS}/de")).json() == ours
    assert (await world.send("DELETE", f"{WORDS}/de")).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{WORDS}/de", {"subject": "{nobody}", "text": "t"}, 422),
        (f"{WORDS}/de", {"subject": "a\nb", "text": "t"}, 422),
        (f"{WORDS}/xx", {"subject": "s", "text": "t"}, 422),
        ("/v1/email_templates/letter/de", {"subject": "s", "text": "t"}, 404),
    ],
)
async def test_words_that_cannot_stand_are_refused(world, path, body, status) -> None:
    answer = await world.send("PUT", path, json=body)
    assert answer.status_code == status, answer.text


async def test_a_report_of_a_mail_server_marks_the_address(world) -> None:
    email = await made(world)
    content = report(message_id=f"<{email['id']}@usance.example>")
    head = {"content-type": "message/rfc822"}
    send = {"content": content, "headers": head}
    strange = await world.send("POST", "/v1/email_bounces", key=world.theirs.keys["admin"], **send)
    assert strange.status_code == 404
    answer = await world.send("POST", "/v1/email_bounces", **send)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "bounced"
    customer = (await world.send("GET", "/v1/customers/acme")).json()
    assert customer["bounced_emails"] == {"ap@acme.example": "5.1.1 smtp; 550 no such user"}
    again = await world.send("POST", "/v1/email_bounces", **send)
    assert again.json() == answer.json()
    nothing = await world.send("POST", "/v1/email_bounces", content=b"hello", headers=head)
    assert (nothing.status_code, nothing.json()["code"]) == (422, "no_delivery_report")


async def test_answers_must_reach_the_seller(world) -> None:
    wrong = {"emails": {"kinds": ["invoice"], "reply_to": "a@b\nBcc: c@d"}}
    answer = await world.send("PATCH", "/v1/seller", json=wrong)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/emails/reply_to"
