"""Request bodies: strict JSON into structs, with every error of a body at once.

msgspec stops at the first mistake. So a body that fails is decoded again without types and
compared with them field by field, each mistake with its JSON pointer.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin

import msgspec
from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from engine.errors import BillingError, ErrorKind, FieldError

T = TypeVar("T")
EARLIEST_YEAR: Final = 1970
LATEST_YEAR: Final = 2999
# An instant finer than a microsecond, whole in its quotes: what is finer is cut, never rounded up
# into the next day.
_FINER: Final = re.compile(
    rb'("\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d\.\d{6})\d+([Zz]|[+-]\d\d:?\d\d)(?=")'
)
_WRONG_TYPE: Final = "Expected `"


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
    errors = (*_mistakes(untyped, wanted, ""), *_unfit_values(untyped, ""))
    if not errors:
        errors = (FieldError(pointer="", code="invalid", detail=str(first)),)
    return _invalid(errors)


def _step(pointer: str, part: str | int) -> str:
    return f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"


def _mistakes(value: object, wanted: object, pointer: str) -> Iterator[FieldError]:
    """Every way in which `value` is not `wanted`, deepest first found."""
    if msgspec.Raw in _members(wanted):
        return
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        inner = list(_inner_mistakes(value, wanted, pointer))
        yield from inner or [_leaf(pointer, error)]


def _leaf(pointer: str, error: msgspec.ValidationError) -> FieldError:
    text = str(error).partition(" - at `$")[0]
    code = "wrong_type" if text.startswith(_WRONG_TYPE) and ", got " in text else "invalid"
    return FieldError(pointer=pointer, code=code, detail=text)


def _members(wanted: object) -> list[object]:
    """The types that an annotation stands for, without null and not-given."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    if get_origin(wanted) in (Union, UnionType):
        found = [member for part in get_args(wanted) for member in _members(part)]
        return [one for one in found if one is not NoneType and one is not msgspec.UnsetType]
    return [wanted]


def _inner_mistakes(value: object, wanted: object, pointer: str) -> Iterator[FieldError]:
    members = _members(wanted)
    if isinstance(value, dict):
        given = cast("dict[str, object]", value)
        structs = [one for one in members if _is_struct(one)]
        if len(structs) > 1:
            yield from _union_mistakes(given, structs, pointer)
        elif structs:
            yield from _struct_mistakes(given, structs[0], pointer)
        elif len(members) == 1 and get_origin(members[0]) is dict:
            inner = get_args(members[0])[1]
            for key, entry in given.items():
                yield from _mistakes(entry, inner, _step(pointer, key))
    elif isinstance(value, list) and len(members) == 1:
        arguments = get_args(members[0])
        if get_origin(members[0]) in (list, tuple) and arguments[1:] in ((), (Ellipsis,)):
            for index, entry in enumerate(cast("list[object]", value)):
                yield from _mistakes(entry, arguments[0], _step(pointer, index))


def _is_struct(wanted: object) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)


def _union_mistakes(
    given: dict[str, object], structs: list[Any], pointer: str
) -> Iterator[FieldError]:
    field = structs[0].__struct_config__.tag_field
    tags = {one.__struct_config__.tag: one for one in structs}
    where, tag = _step(pointer, field), given.get(field)
    if field not in given:
        yield FieldError(pointer=where, code="required", detail=f"{field!r} is missing")
    elif not isinstance(tag, str) or tag not in tags:
        detail = f"must be one of {', '.join(map(str, tags))}"
        yield FieldError(pointer=where, code="invalid", detail=detail)
    else:
        yield from _struct_mistakes(given, tags[tag], pointer)


def _struct_mistakes(given: dict[str, object], wanted: Any, pointer: str) -> Iterator[FieldError]:
    config = wanted.__struct_config__
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    for name, field in fields.items():
        if name in given:
            yield from _mistakes(given[name], field.type, _step(pointer, name))
        elif field.required:
            detail = f"{name!r} is missing"
            yield FieldError(pointer=_step(pointer, name), code="required", detail=detail)
    if config.forbid_unknown_fields:
        for name in given:
            if name not in fields and name != config.tag_field:
                detail = f"there is no field {name[:60]!r}"
                yield FieldError(pointer=_step(pointer, name), code="unknown_field", detail=detail)


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
            yield from _unfit_values(entry, _step(pointer, key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(cast("list[object]", value)):
            yield from _unfit_values(entry, _step(pointer, index))
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _unfit_values(getattr(value, name), _step(pointer, name))


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
