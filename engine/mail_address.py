"""The mail server's address in the environment. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec


class SmtpSecurity(StrEnum):
    """How the connection to the mail server is kept private."""

    NONE = "none"
    STARTTLS = "starttls"
    TLS = "tls"


_SCHEMES: Final[Mapping[str, tuple[SmtpSecurity, int]]] = MappingProxyType(
    {
        "smtp": (SmtpSecurity.NONE, 25),
        "smtp+starttls": (SmtpSecurity.STARTTLS, 587),
        "smtps": (SmtpSecurity.TLS, 465),
    }
)
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
FORM: Final = "must look like smtp+starttls://user:password@host:587, smtps://… or smtp://host:25"


class SmtpServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where mails are handed over, and whom they are from.

    `ca_file` names certificates (PEM) that are trusted besides those of the machine.
    """

    host: str
    port: int
    security: SmtpSecurity
    sender: str
    user: str | None = None
    password: str | None = None
    ca_file: str | None = None

    def __repr__(self) -> str:
        """Without the password."""
        return f"SmtpServer({self.security.value} {self.host}:{self.port} as {self.sender})"

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return self.host in _LOCAL

    @property
    def domain(self) -> str:
        """What Message-IDs end in."""
        return self.sender.rpartition("@")[2]


def read_smtp(*, url: str, sender: str | None, ca_file: str | None = None) -> SmtpServer | str:
    """The server that the variables name, or a sentence that says what is wrong with them.

    The sentence never repeats the address: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return FORM
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.path.strip("/") or parts.query:
        return FORM
    security, usual = _SCHEMES[parts.scheme]
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    if (user is None) != (password is None):
        return "names a user without a password, or a password without a user"
    said = sender or user or ""
    if not said.isascii() or said.count("@") != 1 or not said.isprintable() or " " in said:
        return "needs USANCE_SMTP_FROM beside it: the address that mails are from"
    found = SmtpServer(
        host=parts.hostname,
        port=port or usual,
        security=security,
        sender=said,
        user=user,
        password=password,
        ca_file=ca_file,
    )
    if user is not None and security is SmtpSecurity.NONE and not found.is_local:
        return "would send the password in the clear: say smtp+starttls:// or smtps://"
    if ca_file is not None and security is SmtpSecurity.NONE:
        return "is not encrypted, so USANCE_SMTP_CA_FILE would check nothing"
    return found
