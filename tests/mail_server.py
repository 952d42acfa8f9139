"""A real mail server in the test's own loop, which answers as it is told, and its reports."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from engine.mail_address import SmtpSecurity, SmtpServer

# A key and its own certificate, for `localhost` and nothing else, valid for a hundred years.
CERTIFICATE = Path(__file__).with_name("mail_certificate.pem")
EMAIL = "eml_01kf2a3b4c5d6e7f8g9h0jkmnp"


@dataclass
class Mailbox:
    """What the server was given, and what it says: `replies` by address, used up in order."""

    messages: list[tuple[list[str], EmailMessage, bytes]] = field(default_factory=list)
    replies: dict[str, list[str]] = field(default_factory=dict)
    data_replies: list[str] = field(default_factory=list)
    drop_data: int = 0
    hang: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 named by the library
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        said = self.replies.get(address)
        if said:
            return said.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 same
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        self.asked.set()
        if self.hang is not None:
            await self.hang.wait()
        if self.data_replies:
            return self.data_replies.pop(0)
        content = envelope.content
        assert isinstance(content, bytes)
        read = message_from_bytes(content, policy=default)
        assert isinstance(read, EmailMessage)
        self.messages.append((list(envelope.rcpt_tos), read, content))
        if self.drop_data:
            # The mail is taken, and the answer is lost.
            self.drop_data -= 1
            assert server.transport is not None
            server.transport.abort()
        return "250 taken"


@dataclass
class Served:
    """A running server: its address for the product, and its mailbox."""

    server: SmtpServer
    mailbox: Mailbox


@asynccontextmanager
async def mail_server(
    security: SmtpSecurity = SmtpSecurity.NONE, **options: Any
) -> AsyncIterator[Served]:
    """A server on loopback for the length of the block, encrypted with a certificate of its own."""
    mailbox = Mailbox()
    context = None
    if security is not SmtpSecurity.NONE:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
    if security is SmtpSecurity.STARTTLS:
        options |= {"tls_context": context, "require_starttls": True}
    loop = asyncio.get_running_loop()

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        mailbox.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    def protocol() -> SMTP:
        return SMTP(
            mailbox,
            hostname="localhost",
            loop=loop,
            authenticator=authenticate,
            auth_require_tls=False,
            **options,
        )

    directly = context if security is SmtpSecurity.TLS else None
    listening = await loop.create_server(protocol, "127.0.0.1", 0, ssl=directly)
    port = listening.sockets[0].getsockname()[1]
    host = "127.0.0.1" if context is None else "localhost"
    server = SmtpServer(host=host, port=port, security=security, sender="billing@usance.example")
    try:
        yield Served(server=server, mailbox=mailbox)
    finally:
        if mailbox.hang is not None:
            mailbox.hang.set()
        listening.close()
        await listening.wait_closed()


def report(*, action="failed", original=True, message_id=f"<{EMAIL}@usance.example>") -> bytes:
    """A report as a mail server writes it."""
    original_line = "Original-Recipient: rfc822;ap@acme.example\r\n" if original else ""
    return (
        "From: MAILER-DAEMON@mx.example\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nNot delivered.\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example\r\n\r\n"
        f"{original_line}Final-Recipient: rfc822; box@inner.example\r\nAction: {action}\r\n"
        "Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 no such\r\n user\r\n\r\n"
        "--b\r\nContent-Type: text/rfc822-headers\r\n\r\n"
        f"Subject: Invoice\r\nMessage-ID: {message_id}\r\n\r\n--b--\r\n"
    ).encode()
