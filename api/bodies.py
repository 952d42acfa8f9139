"""Request bodies: strict JSON into structs, with every error of a body at once.

msgspec stops at the first mistake. So a body that fails is decoded again without types and
compared with them field by field (`engine.mistakes`), each mistake with its JSON pointer.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, TypeVar, cast

import msgspec
from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from engine.errors import BillingError, ErrorKind, FieldError
from engine.mistakes import mistakes, step

T = TypeVar("T")
EARLIEST_YEAR: Final = 1970
LATEST_YEAR: Final = 2999
# An instant finer than a microsecond, whole in its quotes: what is finer is cut, never rounded up
# into the next day.
_FINER: Final = re.compile(
    rb'("\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d\.\d{6})\d+([Zz]|[+-]\d\d:?\d\d)(?=")'
)


def malformed(code: str, detail: str) -> BillingError:
    """A body that cannot be read at all."""
    return BillingError(code, detail, kind=ErrorKind.MALFORMED)


def decode_body(body: bytes, *, decoder: msgspec.json.Decoder[T], wanted: object) -> T:
    """The struct in `body`; `wanted` is its annotation.

    Errors: `malformed_json`, `too_deep`, and `invalid_body` with all fields at fault.
    """
    body = _FINER.sub(rb"\1\2", body)
    try:
        decoded = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _every_error(body, wanted, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed("malformed_json", f"the body is no JSON: {error}") from None
    except RecursionError:
        raise malformed("too_deep", "the body is nested too deep") from None
    errors = tuple(_unfit_values(decoded, ""))
    if errors:
        raise _invalid(errors)
    return decoded


def _invalid(errors: tuple[FieldError, ...]) -> BillingError:
    first = errors[0]
    rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    where = first.pointer or "the body"
    return BillingError("invalid_body", f"{where}: {first.detail}{rest}", errors=errors)


def _every_error(body: bytes, wanted: object, first: msgspec.ValidationError) -> BillingError:
    try:
        untyped = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return malformed("malformed_json", f"the body is no JSON: {error}")
    except RecursionError:
        return malformed("too_deep", "the body is nested too deep")
    errors = (*mistakes(value=untyped, wanted=wanted), *_unfit_values(untyped, ""))
    if not errors:
        errors = (FieldError(pointer="", code="invalid", detail=str(first)),)
    return _invalid(errors)


def _unfit_values(value: object, pointer: str) -> Iterator[FieldError]:
    """Texts and instants that no column could hold."""
    if isinstance(value, str):
        if "\0" in value:
            detail = "the character U+0000 cannot be stored"
            yield FieldError(pointer=pointer, code="invalid", detail=detail)
    elif isinstance(value, datetime):
        if value.tzinfo is None:
            detail = "an instant needs its offset: Z or +hh:mm"
            yield FieldError(pointer=pointer, code="invalid", detail=detail)
        elif not EARLIEST_YEAR <= value.year <= LATEST_YEAR:
            detail = f"the year must lie in {EARLIEST_YEAR}–{LATEST_YEAR}"
            yield FieldError(pointer=pointer, code="invalid", detail=detail)
    elif isinstance(value, dict):
        for key, entry in cast("dict[str, object]", value).items():
            yield from _unfit_values(key, pointer)
            yield from _unfit_values(entry, step(pointer, key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(cast("list[object]", value)):
            yield from _unfit_values(entry, step(pointer, index))
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _unfit_values(getattr(value, name), step(pointer, name))


class StrictBody(AbstractDTO[Any]):
    """Hands every handler's `data` through `decode_body`; answers are encoded as they are."""

    _decoders: Final[dict[str, tuple[msgspec.json.Decoder[Any], Any]]] = {}

    def decode_bytes(self, value: bytes) -> Any:
        """The typed body of the request."""
        media_type = self.asgi_connection.headers.get("content-type", "")
        kind = media_type.partition(";")[0].strip().lower()
        if kind != "application/json" and not (
            kind.startswith("application/") and kind.endswith("+json")
        ):
            detail = f"send application/json, not {kind[:80] or 'a body without content-type'}"
            raise HTTPException(detail=detail, status_code=415)
        handler = cast("Any", self.asgi_connection).route_handler
        decoder, wanted = self._decoders[handler.handler_id]
        return decode_body(value, decoder=decoder, wanted=wanted)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Keep one decoder for each handler."""
        del backend_cls
        wanted = field_definition.annotation
        cls._decoders[handler_id] = (msgspec.json.Decoder(wanted), wanted)

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:
        """Every type."""
        del field_definition
        return True

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        """The schema of the type itself."""
        del handler_id
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Any:
        """Unused: nothing is transferred field by field."""
        del model_type
        return iter(())

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        """Unused: nothing is transferred field by field."""
        del field_definition
        return False
