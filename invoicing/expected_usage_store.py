"""SQL that foresees from the work list what usage will be asked for."""

from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.columns import SINCE, decode_words
from engine.db import driver
from invoicing.work_store import JOIN_AS_BEFORE, LIST_IN_ORDER, Place

# A row of 24 bytes each: of many thousands a row of a result costs more than all that is in it. A
# subscription that another customer pays for is never derived with others, and has no number there.
EXPECTED: Final = """
SELECT string_agg(int8send(number) || timestamptz_send(derived_through_at)
  || timestamptz_send(next_due_at), '')
FROM (
  SELECT number, derived_through_at, next_due_at FROM due_instants
  WHERE seller = current_seller() AND next_due_at <= $1 AND number IS NOT NULL
    AND ($2::timestamptz IS NULL OR (next_due_at, key) > ($2, $3::text))
  ORDER BY next_due_at, key LIMIT $4
) d
"""
_Ints = NDArray[np.int64]


async def list_expected(
    *, connection: AsyncConnection, due_by: datetime, after: Place | None, limit: int
) -> tuple[_Ints, _Ints, _Ints]:
    """(customer numbers, derived through, next due) of subscriptions due by an instant.

    In microseconds since 1970. The first `limit` in the order of (due instant, key), beyond `after`
    if that is given, themselves in no order; derived through their start those that never were.
    """
    raw = await driver(connection)
    place = (None, None) if after is None else (after.due_at, after.key)
    await raw.execute(LIST_IN_ORDER)
    told = await raw.fetchval(EXPECTED, due_by, *place, limit)
    await raw.execute(JOIN_AS_BEFORE)
    customer, start, end = decode_words(told, columns=3)
    return customer, start + SINCE, end + SINCE
