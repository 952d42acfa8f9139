"""Mails over encrypted connections to a real server with a certificate of its own."""

from datetime import timedelta

import msgspec
import pytest

from engine.mail_address import SmtpSecurity
from tests.mail_office import Office
from tests.mail_server import CERTIFICATE, Served, mail_server

pytestmark = pytest.mark.anyio
ENCRYPTED = [SmtpSecurity.STARTTLS, SmtpSecurity.TLS]
LOGIN = {"user": "billing@usance.example", "password": "right"}


@pytest.fixture
async def office(database) -> Office:
    made = await Office(database).open()
    await made.invoice()
    return made


def known_as(served: Served, **fields) -> Served:
    """The same server under other settings."""
    server = msgspec.structs.replace(served.server, **fields)
    return Served(server=server, mailbox=served.mailbox)


@pytest.mark.parametrize("security", ENCRYPTED)
async def test_a_server_that_is_trusted_gets_mails_and_the_login(office, security) -> None:
    async with mail_server(security) as served:
        trusted = known_as(served, ca_file=str(CERTIFICATE), **LOGIN)
        assert await office.work(trusted) == 1
    assert [email["status"] for email in await office.emails()] == ["sent"]
    assert len(served.mailbox.messages) == 1
    assert served.mailbox.logins == [(b"billing@usance.example", b"right")]


@pytest.mark.parametrize("security", ENCRYPTED)
async def test_a_server_that_nobody_vouches_for_gets_nothing(office, security) -> None:
    async with mail_server(security) as served:
        assert await office.work(known_as(served, **LOGIN)) == 1
    (email,) = await office.emails()
    assert email["status"] == "queued" and "certificate" in email["error"].lower()
    assert (served.mailbox.messages, served.mailbox.logins) == ([], [])


@pytest.mark.parametrize("security", ENCRYPTED)
async def test_a_certificate_of_another_name_is_no_certificate(office, security) -> None:
    async with mail_server(security) as served:
        other = known_as(served, host="127.0.0.1", ca_file=str(CERTIFICATE), **LOGIN)
        assert await office.work(other) == 1
    (email,) = await office.emails()
    assert email["status"] == "queued" and "127.0.0.1" in email["error"]
    assert (served.mailbox.messages, served.mailbox.logins) == ([], [])


async def test_a_server_that_offers_no_encryption_gets_nothing(office) -> None:
    async with mail_server() as served:
        asked = known_as(served, security=SmtpSecurity.STARTTLS, **LOGIN)
        assert await office.work(asked) == 1
        (email,) = await office.emails()
        assert email["status"] == "queued" and "STARTTLS" in email["error"]
        assert (served.mailbox.messages, served.mailbox.logins) == ([], [])


async def test_certificates_that_are_not_there_are_told_and_mails_wait(office) -> None:
    async with mail_server(SmtpSecurity.TLS) as served:
        nowhere = known_as(served, ca_file="/nowhere/ca.pem")
        assert await office.work(nowhere) == 1
        (email,) = await office.emails()
        assert email["status"] == "queued" and "USANCE_SMTP_CA_FILE" in email["error"]
        office.now += timedelta(minutes=1)
        assert await office.work(known_as(served, ca_file=str(CERTIFICATE))) == 1
    assert [each["status"] for each in await office.emails()] == ["sent"]
