"""The hook before every handler: refuses what no column could hold, replays what was answered."""

import hashlib
import re
from datetime import datetime
from typing import Any, Final, cast

from litestar import Request, Response

from api.auth import Principal
from api.bodies import malformed
from api.idempotency_store import Kept, find_answer
from api.unit_of_work import STATE, Remembered, UnitOfWork
from engine.errors import BillingError, ErrorKind, FieldError

OWN_TRANSACTIONS: Final = "own_transactions"
"""The option of routes that work for long, in transactions of their own."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")


async def before_handler(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    """The kept answer of a repeated POST; None lets the handler run.

    Errors: `malformed_json` for an empty body, `invalid_parameter` for characters that cannot be
    stored and for a name that the route does not have, `not_found` for a path with such
    characters, `invalid_idempotency_key`, `idempotency_mismatch` for the same key on another
    request, and `idempotency_in_progress` while a long one is being worked on.
    """
    _refuse_unfit_address(request)
    _refuse_unknown_parameters(request)
    if request.route_handler.parsed_data_field is not None and not await request.body():
        raise malformed("malformed_json", "the body is no JSON: it is empty")
    key = request.headers.get("idempotency-key")
    options = request.route_handler.opt
    if key is None or request.method != "POST" or not options.get("idempotent", True):
        return None
    principal = cast("Principal | None", getattr(request.state, "principal", None))
    if principal is None:
        return None
    if _KEY.match(key) is None:
        detail = "an Idempotency-Key is 1 to 255 printable ASCII characters"
        raise malformed("invalid_idempotency_key", detail)
    unit = unit_of(request)
    now = cast("datetime", request.app.state.clock())
    remembered = Remembered(
        key=key,
        request_hash=_hash(request, await request.body()),
        now=now,
        secret_fields=tuple(options.get("secret_fields", ())),
    )
    if options.get(OWN_TRANSACTIONS, False):
        found = await unit.claim(seller=principal.seller, remembered=remembered)
    else:
        connection = await unit.connection(seller=principal.seller)
        found = await find_answer(connection=connection, key=key, now=now)
        unit.remembered = remembered if found is None else None
    return None if found is None else _again(found, remembered)


def _again(found: Kept, remembered: Remembered) -> Response[bytes]:
    """The answer that was kept. Raises `idempotency_mismatch` for another request."""
    answer = found.answer
    if answer is None or found.request_hash != remembered.request_hash:
        detail = "this Idempotency-Key was used for another request"
        raise BillingError("idempotency_mismatch", detail, kind=ErrorKind.CONFLICT)
    return Response(
        answer.body,
        status_code=answer.status,
        media_type=answer.media_type,
        headers={"Idempotency-Replayed": "true"},
    )


def _refuse_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """A filter that is misspelt must not answer with everything."""
    known = cast("frozenset[str]", request.app.state.query_names[request.route_handler])
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        errors = tuple(
            FieldError(
                pointer=f"/{name}", code="unknown_parameter", detail="this route has no such"
            )
            for name in dict.fromkeys(unknown)
        )
        detail = f"{unknown[0][:100]!r} is no parameter of this route"
        raise BillingError("invalid_parameter", detail, kind=ErrorKind.MALFORMED, errors=errors)


def unit_of(request: Request[Any, Any, Any]) -> UnitOfWork:
    """The unit of work that the middleware made for this request."""
    return cast("UnitOfWork", getattr(request.state, STATE))


def _hash(request: Request[Any, Any, Any], body: bytes) -> bytes:
    digest = hashlib.sha256()
    query = request.scope["query_string"]
    for part in (request.method.encode(), request.scope["path"].encode(), query, body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _refuse_unfit_address(request: Request[Any, Any, Any]) -> None:
    path = request.scope["path"]
    if not _is_storable(path):
        detail = "there is nothing at this address"
        raise BillingError("not_found", detail, kind=ErrorKind.NOT_FOUND)
    for name, value in request.query_params.multi_items():
        if not (_is_storable(str(name)) and _is_storable(str(value))):
            raise malformed("invalid_parameter", "a parameter holds characters that are not text")


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
