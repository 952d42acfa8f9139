"""The door to mail servers: hands a message over and says what became of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiosmtplib
from aiosmtplib import SMTPRecipientRefused, SMTPResponse

from engine.mail_address import SmtpSecurity, SmtpServer
from invoicing.emails import DETAIL_LENGTH, Delivery, Reply, one_line
from invoicing.mail_message import ascii_address

DEADLINE_SECONDS: Final = 30
_HERE: Final = "localhost"


class Postman:
    """One connection to the server, opened when a message is handed over and kept until closed.

    `unreachable` once the next message would fare no better: no connection, or no login.
    """

    def __init__(self, *, server: SmtpServer, deadline_seconds: int = DEADLINE_SECONDS) -> None:
        """`deadline_seconds` is for connecting, handing over and being answered, all together."""
        self.server = server
        self._deadline_seconds = deadline_seconds
        self.unreachable = False
        self._client: aiosmtplib.SMTP | None = None

    async def deliver(self, *, recipients: Sequence[str], content: bytes) -> Delivery:
        """Hand the message over for all recipients at once. Raises nothing of the network.

        A deadline or a lost connection leaves open whether the server has taken the message: it
        is then sent again with the same Message-ID.
        """
        sent_as = {ascii_address(address): address for address in recipients}
        connected = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                client = await self._connected()
                connected = True
                refused, _ = await client.sendmail(self.server.sender, list(sent_as), content)
        except asyncio.CancelledError:
            await self._drop()  # in the middle of a message there is no leave to take
            raise
        except aiosmtplib.SMTPRecipientsRefused as error:
            return Delivery(refused=_refusals(error.recipients, sent_as))
        except aiosmtplib.SMTPAuthenticationError as error:
            await self._drop()
            self.unreachable = True
            return Delivery(failure=_told(error.code, error.message))
        except (aiosmtplib.SMTPDataError, aiosmtplib.SMTPSenderRefused) as error:
            # 421 closes the connection; others leave it for the next message.
            if error.code == 421:
                await self._drop()
            permanent = error.code >= 500
            return Delivery(failure=_told(error.code, error.message), is_permanent=permanent)
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            await self._drop()
            said = one_line(str(error)) or f"no answer within {self._deadline_seconds} s"
            self.unreachable = not connected
            return Delivery(failure=said[:DETAIL_LENGTH])
        return Delivery(
            refused={
                sent_as[address]: Reply(code=reply.code, text=reply.message)
                for address, reply in refused.items()
            }
        )

    async def look(self) -> str | None:
        """Whether the server answers: None, or what is wrong."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._connected()
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            said = one_line(str(error)) or f"no answer within {self._deadline_seconds} s"
            return said[:DETAIL_LENGTH]
        finally:
            await self.close()
        return None

    async def close(self) -> None:
        """Take leave of the server."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await client.quit()
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            client.close()

    async def _connected(self) -> aiosmtplib.SMTP:
        if self._client is not None and self._client.is_connected:
            return self._client
        client = aiosmtplib.SMTP(
            hostname=self.server.host,
            port=self.server.port,
            username=self.server.user,
            password=self.server.password,
            use_tls=self.server.security is SmtpSecurity.TLS,
            start_tls=self.server.security is SmtpSecurity.STARTTLS,
            validate_certs=True,
            cert_bundle=_certificates(self.server),
            local_hostname=_HERE if self.server.is_local else None,
            timeout=self._deadline_seconds,
        )
        self._client = client
        await client.connect()
        return client

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _certificates(server: SmtpServer) -> str | None:
    """The file to trust, looked for by name: the library's own words leave the name out."""
    if server.ca_file is not None and not Path(server.ca_file).is_file():
        raise FileNotFoundError(f"USANCE_SMTP_CA_FILE names no file: {server.ca_file}")
    return server.ca_file


def _refusals(errors: Sequence[SMTPRecipientRefused], sent_as: dict[str, str]) -> dict[str, Reply]:
    return {
        sent_as[error.recipient]: Reply(code=error.code, text=error.message) for error in errors
    }


def _told(code: int, message: str | SMTPResponse) -> str:
    return Reply(code=code, text=str(message)).detail
