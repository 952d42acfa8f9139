"""Verb: hash what documents print of sellers and customers again. Reads only."""

from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.audit_parties_store import stream_logos, stream_parties
from plans.catalog import party_id
from plans.letterhead import logo_id
from plans.model import Party

_party: Final = msgspec.json.Decoder(Party)


async def altered_contents(*, connection: AsyncConnection) -> list[str]:
    """The ids of the parties and logos that are not those of their content.

    Of the transaction's seller; works in a snapshot, by the page.
    """
    found: list[str] = []
    async for rows in stream_parties(connection=connection):
        found += [row["id"] for row in rows if not _is_of(row)]
    async for rows in stream_logos(connection=connection):
        found += [row["id"] for row in rows if logo_id(row["content"]) != row["id"]]
    return found


def _is_of(row: Any) -> bool:
    try:
        return party_id(_party.decode(row["body"])) == row["id"]
    except msgspec.MsgspecError:
        return False
