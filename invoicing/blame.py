"""Who is to blame for a failure: an account, which is set aside, or the ways to the database. Pure.

Work is done for many accounts at once; what fails for one must harm no other.
"""

from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind

REFUSED: Final = ("22", "23")
"""SQLSTATE classes of rows that may not be as they are: data exceptions, constraints."""

IMPOSSIBLE: Final = "impossible"

DAMAGED: Final = "XX"
"""SQLSTATE class of what the server itself cannot read."""


def is_of_an_account(error: Exception) -> bool:
    """Whether some account is at fault, and not the database or the ways to it."""
    if isinstance(
        error,
        BillingError | AssertionError | ArithmeticError | LookupError | ValueError | TypeError,
    ):
        return True
    state = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return isinstance(state, str) and state.startswith(REFUSED)


def is_of_what_is_stored(error: Exception) -> bool:
    """Whether rows that cannot be read or understood are at fault, for whoever only reads."""
    if isinstance(error, BillingError):
        return error.kind is not ErrorKind.UNAVAILABLE
    if is_of_an_account(error) or isinstance(error, msgspec.MsgspecError):
        return True
    state = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return isinstance(state, str) and state.startswith(DAMAGED)


def reason_of(error: Exception) -> tuple[str, str]:
    """A code and a sentence; what nobody foresaw is `impossible`."""
    if isinstance(error, BillingError):
        return error.code, error.detail
    lines = str(error).splitlines()
    return IMPOSSIBLE, f"{type(error).__name__}: {lines[0] if lines else ''}"
