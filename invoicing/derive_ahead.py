"""Verb: derive the next portion of a billing run while one is posted, on another connection.

Posting is one backend's work, deriving is another's: side by side they take the time of one. What
is derived early may be out of date when it is posted. Posting finds that out under its lock, as
it does for all that was derived before its transaction.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from invoicing.blame import is_of_an_account
from invoicing.derive_portion import Portion
from invoicing.post_alike import Chunk


class DeriveAhead:
    """At most one portion, and the task that derives it."""

    def __init__(self) -> None:
        self._deriving: asyncio.Task[Portion | None] | None = None

    def begin(self, deriving: Coroutine[Any, Any, Portion | None]) -> None:
        """Begin with a portion; whoever began one takes or drops it."""
        assert self._deriving is None
        self._deriving = asyncio.create_task(deriving)

    def chunks(self) -> Sequence[Chunk]:
        """The chunks of the portion, where that is derived by now."""
        deriving = self._deriving
        if deriving is None or not deriving.done() or deriving.cancelled():
            return ()
        portion = None if deriving.exception() else deriving.result()
        return () if portion is None else portion.chunks

    async def take(self) -> Portion | None:
        """The portion; None where none was begun, or an account is in its way.

        Whoever derives it anew finds out which. Raises whatever else was in its way.
        """
        deriving, self._deriving = self._deriving, None
        if deriving is None:
            return None
        try:
            return await deriving
        except Exception as error:
            if is_of_an_account(error):
                return None
            raise

    async def drop(self) -> None:
        """Throw the portion away; nothing is being derived afterwards."""
        deriving, self._deriving = self._deriving, None
        if deriving is None:
            return
        deriving.cancel()
        await asyncio.wait({deriving})
        if not deriving.cancelled():
            deriving.exception()  # whatever it was: nobody wants the portion any more
