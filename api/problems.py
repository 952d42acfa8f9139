"""Errors as `application/problem+json`; the only place that knows which kind is which status."""

import logging
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from engine.database_errors import anticipated
from engine.errors import BillingError, ErrorKind, FieldError
from invoicing.tax_provider import TaxUnknownError, provider_failed

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final = {
    ErrorKind.MALFORMED: HTTPStatus.BAD_REQUEST,
    ErrorKind.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorKind.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorKind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorKind.CONFLICT: HTTPStatus.CONFLICT,
    ErrorKind.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorKind.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorKind.TOO_MANY: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorKind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_HEADERS: Final[Mapping[ErrorKind, dict[str, str]]] = {
    ErrorKind.UNAUTHENTICATED: {"WWW-Authenticate": "Bearer"},
    ErrorKind.TOO_MANY: {"Retry-After": "1"},
    ErrorKind.UNAVAILABLE: {"Retry-After": "1"},
}
_MISSING: Final = re.compile(r"Missing required \w+ parameter '(\w+)'")
_TRANSPORT_CODES: Final = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
    415: "unsupported_media_type",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457, with a stable `code` and every field at fault."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: tuple[FieldError, ...] = ()


class RenderedProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem ready to be sent: status, headers besides the media type, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes


def render(
    *,
    status: int,
    code: str,
    detail: str,
    errors: tuple[FieldError, ...] = (),
    headers: dict[str, str] | None = None,
) -> RenderedProblem:
    """The bytes of one problem."""
    problem = Problem(
        type=f"urn:usance:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=errors,
    )
    body = msgspec.json.encode(problem)
    return RenderedProblem(status=status, headers=headers or {}, body=body)


def render_error(error: BillingError) -> RenderedProblem:
    """An expected failure."""
    return render(
        status=STATUS[error.kind],
        code=error.code,
        detail=error.detail,
        errors=error.errors,
        headers=_HEADERS.get(error.kind),
    )


def render_any(error: BaseException) -> RenderedProblem:
    """Whatever was raised: a failure of ours is logged and told without its insides."""
    if isinstance(error, BillingError):
        return render_error(error)
    if isinstance(error, HTTPException):
        return _render_http(error)
    known = anticipated(error)
    if known is not None:
        if known.kind is ErrorKind.UNAVAILABLE:
            logging.getLogger("usance.api").warning("unavailable: %r", error)
        return render_error(known)
    reference = secrets.token_hex(8)
    logging.getLogger("usance.api").error("failure %s", reference, exc_info=error)
    return render(
        status=500,
        code="internal_error",
        detail=f"something failed on our side; it is logged as {reference}",
    )


def _render_http(error: HTTPException) -> RenderedProblem:
    status = error.status_code
    code = _TRANSPORT_CODES.get(status, HTTPStatus(status).name.lower())
    headers = {str(name): str(value) for name, value in (error.headers or {}).items()}
    if status in {429, 503}:
        headers.setdefault("Retry-After", "1")
    if isinstance(error, ValidationException):
        return render(
            status=400,
            code="invalid_parameter",
            detail="a parameter of the address cannot stand",
            errors=_parameter_errors(error.extra) or _missing_parameter(error.detail),
            headers=headers,
        )
    detail = {
        404: "there is nothing at this address",
        405: "this address does not take this method",
        408: "the body took too long to arrive",
        413: "the body is too large",
    }.get(status, error.detail or HTTPStatus(status).phrase)
    return render(status=status, code=code, detail=detail, headers=headers)


def _parameter_errors(extra: object) -> tuple[FieldError, ...]:
    if not isinstance(extra, list):
        return ()
    return tuple(
        FieldError(
            pointer=f"/{entry.get('key', '')}",
            code="invalid",
            detail=str(entry.get("message", "invalid")),
        )
        for entry in cast("list[dict[str, Any]]", extra)
    )


def _missing_parameter(told: str) -> tuple[FieldError, ...]:
    """The parameter that is missing, of which the framework tells in words only."""
    found = _MISSING.match(told)
    if found is None:
        return ()
    return (FieldError(pointer=f"/{found[1]}", code="required", detail="is missing"),)


def answer_with_problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The exception handler of the whole application.

    What waits for a tax provider is left to the unit of work, which asks and begins again.
    """
    if isinstance(error, TaxUnknownError):
        request.state.tax_unknown = error
        error = provider_failed("the tax provider is asked first")
    rendered = render_any(error)
    return Response(
        rendered.body,
        status_code=rendered.status,
        headers=rendered.headers,
        media_type=MEDIA_TYPE,
    )
