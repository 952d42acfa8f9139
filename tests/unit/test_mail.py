"""The words of mails, what a reply means, reports that come back, and the server's address."""

from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from engine.errors import BillingError
from engine.mail_address import SmtpSecurity
from engine.settings import SettingError, load_settings
from invoicing.delivery_report import read_report
from invoicing.emails import Delivery, EmailStatus, Recipient, Reply, after_attempt
from invoicing.mail_facts import MailFacts
from invoicing.mail_message import Envelope, build_message
from invoicing.mail_templates import (
    Template,
    TemplateDraft,
    candidates,
    our_template,
    subject_of,
    template_errors,
    values_of,
    write_words,
)
from invoicing.mail_words import MAIL_WORDS
from invoicing.words.choose import LANGUAGES
from plans.mailing import EmailKind, is_address
from tests.mail_server import EMAIL, report

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)


def facts(**fields) -> MailFacts:
    told = {"document": "inv_1", "number": "INV-000001", "customer": "cus_1", "name": "Acme"}
    money = {"currency": "EUR", "total_minor": 123_450, "due_minor": 100_000, "due_at": AT}
    rest = {"locale": None, "emails": (), "bounced": {}, "issued_at": AT}
    return MailFacts(**told | money | rest | fields)


def written(template: Template, **fields):
    values = values_of(facts(**fields), seller="Helios", locale="en", timezone="UTC")
    subject = subject_of(template, values=values)
    return write_words(template, values=values, subject=subject, locale=template.locale)


def own(**fields) -> Template:
    words = {"subject": "s", "text": "t", "html": None} | fields
    return Template(kind=EmailKind.INVOICE, locale="en", own=True, placeholders=(), **words)


@pytest.mark.parametrize("kind", EmailKind)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_mail_and_only_known_blanks(language, kind) -> None:
    subject, text = MAIL_WORDS[language][kind]
    assert template_errors(TemplateDraft(subject=subject, text=text), kind=kind) == []
    assert "{total}" in text and "{customer}" in text and "{seller}" in subject + text
    mail = written(our_template(kind=kind, locale=language))
    assert "{" not in mail.text + mail.subject and mail.subject.strip()


def test_a_line_without_a_value_is_left_out() -> None:
    template = our_template(kind=EmailKind.INVOICE, locale="en")
    mail = written(template, due_minor=0, po_number=None)
    assert "Due on" not in mail.text and "PO number" not in mail.text
    assert "PO number: 7" in written(template, po_number="7").text


@pytest.mark.parametrize(
    "text",
    [
        "{seller.__class__}", "{0}", "{}", "{number!r}", "{total:>9}", "{secret}", "{invoices}",
        "{number[0]}",
    ],
)  # fmt: skip
def test_what_is_no_blank_is_refused_when_it_is_saved(text) -> None:
    for field in ("subject", "text", "html"):
        draft = TemplateDraft(**{"subject": "s", "text": "t"} | {field: text})
        (error,) = template_errors(draft, kind=EmailKind.INVOICE)
        assert (error.pointer, error.code) == (f"/{field}", "unknown_placeholder")


def test_braces_of_a_style_sheet_are_text() -> None:
    page = "<style>p { color: red }</style>{number}"
    assert template_errors(TemplateDraft(subject="s", text="t", html=page), kind="invoice") == []
    assert "p { color: red }</style>INV-000001" in written(own(html=page)).html


def test_a_value_is_only_text() -> None:
    template = own(subject="{customer}", text="{customer}", html="<b>{customer}</b>")
    mail = written(template, name="<script>{total}</script>\r\nBcc: x@y")
    assert "<b>&lt;script&gt;{total}&lt;/script&gt; Bcc: x@y</b>" in mail.html
    assert mail.text == "<script>{total}</script> Bcc: x@y\n"
    assert "\n" not in mail.subject
    assert template_errors(TemplateDraft(subject="a\nb", text="t"), kind=EmailKind.INVOICE)


@pytest.mark.parametrize(
    ("locale", "found"),
    [("de-AT", ("de-at", "de")), ("sv", ("sv", "en")), ("iw", ("iw", "he")), ("en", ("en",))],
)
def test_own_words_are_looked_for_from_near_to_far(locale, found) -> None:
    assert candidates(locale) == found


def test_no_name_makes_a_header() -> None:
    envelope = Envelope(
        sender="billing@usance.example", sender_name='Evil"\r\nBcc: <x@y>\r\n', reply_to=None,
        to=("käse@bücher.example",), message_id=f"<{EMAIL}@usance.example>", written_at=AT,
    )  # fmt: skip
    mail = written(own(subject="a\r\nBcc: x@y"))
    with pytest.raises(BillingError) as failure:
        build_message(envelope=envelope, written=mail, attachments=())
    assert failure.value.code == "address_unfit"
    fine = Envelope(**{name: getattr(envelope, name) for name in envelope.__struct_fields__} | {
        "to": ("ap@bücher.example",)})  # fmt: skip
    content = build_message(envelope=fine, written=mail, attachments=())
    assert content == build_message(envelope=fine, written=mail, attachments=())
    message = message_from_bytes(content, policy=default)
    assert message["To"] == "ap@xn--bcher-kva.example" and message["Bcc"] is None
    assert len(message["From"].addresses) == 1


@pytest.mark.parametrize(
    ("code", "text", "permanent", "blames"),
    [
        (550, "5.1.1 no such user", True, True), (550, "no such user", True, True),
        (553, "5.2.1 disabled", True, True), (552, "5.2.2 mailbox full", True, False),
        (554, "5.7.1 relay access denied", True, False), (550, "5.7.26 no SPF", True, False),
        (451, "4.1.1 later", False, False), (452, "too many", False, False),
        (554, "no thanks", True, False),
    ],
)  # fmt: skip
def test_a_reply_blames_the_address_only_when_there_is_none(code, text, permanent, blames) -> None:
    reply = Reply(code=code, text=text)
    assert (reply.is_permanent, reply.blames_address) == (permanent, blames)


def test_who_has_the_mail_is_not_tried_again() -> None:
    there = (Recipient(address="a@x", status=EmailStatus.SENT), Recipient(address="b@x"))
    gone = Delivery(refused={"B@x": Reply(code=550, text="5.1.1 no")})
    fate = after_attempt(recipients=there, delivery=gone, attempts=1, now=AT)
    assert [each.status.value for each in fate.recipients] == ["sent", "bounced"]
    assert (fate.status.value, fate.next_attempt_at, fate.blamed) == (
        "bounced", None, {"b@x": "550 5.1.1 no"},
    )  # fmt: skip
    last = after_attempt(recipients=there, delivery=Delivery(failure="gone"), attempts=9, now=AT)
    assert [each.status.value for each in last.recipients] == ["sent", "failed"]


@pytest.mark.parametrize(
    "address",
    [
        "a", "a@", "@b", "a@b@c", "a b@c", "a,b@c", "a@b\r\nRCPT TO:<x@y>", "<a@b>", "a@b\u2028",
        '"a"@b',
    ],
)  # fmt: skip
def test_what_is_no_address(address) -> None:
    assert not is_address(address)


def test_a_report_says_which_mail_and_which_address() -> None:
    read = read_report(report())
    assert read.email == EMAIL
    assert dict(read.failed) == {"ap@acme.example": "5.1.1 smtp; 550 no such user"}
    assert list(read_report(report(original=False)).failed) == ["box@inner.example"]
    assert read_report(report(action="delayed")).failed == {}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "no_delivery_report"), (b"Subject: hi\r\n\r\nhello", "no_delivery_report"),
        (report(message_id="<other@elsewhere>"), "unknown_message"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 3_000, "no_delivery_report"),
    ],
)  # fmt: skip
def test_other_messages_are_no_reports(content, code) -> None:
    with pytest.raises(BillingError) as failure:
        read_report(content)
    assert failure.value.code == code


def settings(**environ: str):
    return load_settings(environ=environ, is_root=False, user_data=Path("/data"))


def test_the_mail_server_is_named_by_an_address() -> None:
    url = "smtp+starttls://billing%40a.example:p%3Aw@mail.a.example"
    found = settings(USANCE_SMTP_URL=url)
    server = found.smtp
    assert server is not None
    assert (server.host, server.port, server.security) == (
        "mail.a.example", 587, SmtpSecurity.STARTTLS,
    )  # fmt: skip
    assert (server.user, server.password) == ("billing@a.example", "p:w")
    assert server.sender == "billing@a.example" and "p:w" not in repr(found)
    plain = settings(USANCE_SMTP_URL="smtp://relay:2525", USANCE_SMTP_FROM="b@a.example").smtp
    assert plain is not None and (plain.port, plain.user) == (2525, None)
    assert settings().smtp is None
    assert server.ca_file is None
    trusting = settings(USANCE_SMTP_URL=url, USANCE_SMTP_CA_FILE="/etc/ca.pem").smtp
    assert trusting is not None and trusting.ca_file == "/etc/ca.pem"


@pytest.mark.parametrize(
    "url",
    [
        "mail.example", "http://mail.example", "smtp://", "smtp://mail:port", "smtps://u@mail",
        "smtp://u%40a.example:secret@mail.example", "smtps://user:secret@mail.example",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url) -> None:
    with pytest.raises(SettingError) as failure:
        settings(USANCE_SMTP_URL=url)
    assert failure.value.variable == "USANCE_SMTP_URL" and "secret" not in str(failure.value)


def test_certificates_for_a_plain_connection_are_a_slip() -> None:
    with pytest.raises(SettingError) as failure:
        settings(
            USANCE_SMTP_URL="smtp://relay", USANCE_SMTP_FROM="b@a.example",
            USANCE_SMTP_CA_FILE="/etc/ca.pem",
        )  # fmt: skip
    assert "USANCE_SMTP_CA_FILE" in str(failure.value)
