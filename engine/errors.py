"""Expected failures: one exception type, a stable code, and the fields at fault.

The HTTP status of a kind lives only in `api/problems.py`.
"""

from enum import StrEnum

import msgspec


class ErrorKind(StrEnum):
    """What sort of failure it is, from the caller's point of view."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    UNAVAILABLE = "unavailable"


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a body that cannot stand: RFC 6901 pointer, stable code, a sentence."""

    pointer: str
    code: str
    detail: str


class BillingError(Exception):
    """An anticipated failure that the caller can understand and act on."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        kind: ErrorKind = ErrorKind.INVALID,
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        """Keep the stable `code`, the sentence and the fields at fault."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.kind = kind
        self.errors = errors


def invalid_field(*, pointer: str, code: str, detail: str) -> BillingError:
    """One wrong field as a whole error."""
    error = FieldError(pointer=pointer, code=code, detail=detail)
    return BillingError("invalid_body", detail, errors=(error,))


def not_found(*, noun: str, reference: str) -> BillingError:
    """The same answer for an object that is not there and one of another seller."""
    return BillingError("not_found", f"no {noun} {reference!r}", kind=ErrorKind.NOT_FOUND)
