"""The shape of one invariant. Pure."""

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A question whose answer is a row (seller, object, detail) for each violation."""

    name: str
    sentence: str
    """The invariant in words."""
    sql: str
    given: str = ""
    """A common table expression that `sql` reads: checks with the same one share one reading."""
