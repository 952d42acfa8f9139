"""What is wrong with the shape of a value, each mistake at its own field. Pure.

msgspec stops at the first mistake and tells its place in words of its own.
"""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec

from engine.errors import FieldError

_WRONG_TYPE: Final = "Expected `"


def mistakes(*, value: object, wanted: object, pointer: str = "") -> Iterator[FieldError]:
    """All that keeps `value`, decoded without types, from being `wanted` (an annotation).

    Each is told at the field itself; `pointer` is where the value stands.
    """
    yield from _mistakes(value, wanted, pointer)


def step(pointer: str, part: str | int) -> str:
    """The JSON pointer of a field or an entry below another."""
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
                yield from _mistakes(entry, inner, step(pointer, key))
    elif isinstance(value, list) and len(members) == 1:
        arguments = get_args(members[0])
        if get_origin(members[0]) in (list, tuple) and arguments[1:] in ((), (Ellipsis,)):
            for index, entry in enumerate(cast("list[object]", value)):
                yield from _mistakes(entry, arguments[0], step(pointer, index))


def _is_struct(wanted: object) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)


def _union_mistakes(
    given: dict[str, object], structs: list[Any], pointer: str
) -> Iterator[FieldError]:
    field = structs[0].__struct_config__.tag_field
    tags = {one.__struct_config__.tag: one for one in structs}
    where, tag = step(pointer, field), given.get(field)
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
            yield from _mistakes(given[name], field.type, step(pointer, name))
        elif field.required:
            detail = f"{name!r} is missing"
            yield FieldError(pointer=step(pointer, name), code="required", detail=detail)
    if config.forbid_unknown_fields:
        for name in given:
            if name not in fields and name != config.tag_field:
                detail = f"there is no field {name[:60]!r}"
                yield FieldError(pointer=step(pointer, name), code="unknown_field", detail=detail)
