"""Verb: keep the logo that a body brings, once it is sure that documents can be drawn with it."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import invalid_field
from invoicing.pdf import check_logo
from plans.letterhead import Branding, decode_logo, logo_id
from plans.seller_store import insert_logo, load_logo

_POINTER = "/branding/logo"


async def take_logo(*, connection: AsyncConnection, branding: Branding) -> Branding:
    """The branding with the id of its logo, kept for good: issued documents go on showing it.

    Errors: `invalid_body` with `logo_unreadable`, or `unknown_logo` for an id that is none.
    """
    if branding.logo is None:
        return branding
    if not branding.logo.startswith("data:"):
        if await load_logo(connection=connection, logo=branding.logo) is None:
            detail = f"no logo {branding.logo[:60]!r}"
            raise invalid_field(pointer=_POINTER, code="unknown_logo", detail=detail)
        return branding
    content = decode_logo(branding.logo)
    if content is None or not check_logo(content=content):
        detail = "a logo is a sound PNG of at most 200 kB and four million pixels, in base64"
        raise invalid_field(pointer=_POINTER, code="logo_unreadable", detail=detail)
    identity = logo_id(content)
    await insert_logo(connection=connection, logo=identity, content=content)
    return msgspec.structs.replace(branding, logo=identity)
