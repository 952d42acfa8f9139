"""An engine outside that says what documents are taxed, as a seller names it. Pure."""

import ipaddress
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from engine.errors import FieldError
from plans.shape import Body

HIDDEN: Final = "***"
_HTTPS: Final = "https"


class TaxProviderTerms(Body, frozen=True, kw_only=True):
    """An engine that is asked over HTTP; without one the seller's own tax rates hold.

    `authorization` is sent as that header and never shown again: it is answered as `***`, and a
    body that says `***` keeps it.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    authorization: Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{1,500}\Z")] | None = None
    deadline_seconds: Annotated[int, msgspec.Meta(ge=1, le=30)] = 10


def tax_provider_errors(terms: TaxProviderTerms | None) -> list[FieldError]:
    """Whether the address is one that could be called; where it leads is looked at when it is."""
    detail = None if terms is None else _fault(terms.url)
    if detail is None:
        return []
    return [FieldError(pointer="/tax_provider/url", code="invalid", detail=detail)]


def _fault(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "this is no address"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "an address is written in plain ASCII"
    if parts.scheme not in {_HTTPS, "http"} or not host:
        return "the address begins with https://"
    if parts.username is not None or parts.password is not None:
        return "what is secret goes into `authorization`"
    return "an address has no fragment" if parts.fragment else None


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, and none of our own network."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_global and not (found.is_multicast or found.is_reserved)


def shown(terms: TaxProviderTerms | None) -> TaxProviderTerms | None:
    """As it is answered."""
    if terms is None or terms.authorization is None:
        return terms
    return msgspec.structs.replace(terms, authorization=HIDDEN)


def kept(
    given: TaxProviderTerms | None, *, present: TaxProviderTerms | None
) -> TaxProviderTerms | None:
    """As it is stored: a secret that is not told again stays, but only for the same address."""
    if given is None or given.authorization != HIDDEN:
        return given
    same = present is not None and present.url == given.url
    secret = present.authorization if present is not None and same else None
    return msgspec.structs.replace(given, authorization=secret)
