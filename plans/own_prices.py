"""Prices of a subscription's own: a listed price with some of its fields replaced. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from engine.errors import FieldError
from engine.mistakes import mistakes
from engine.period import Alignment
from plans.prices import Price, PriceBase
from plans.timeline import pointer_part
from plans.validation import price_errors

FIXED: Final = ("key", "kind", "meter")


def own_price(
    *,
    price: Price,
    fields: Mapping[str, Any],
    currency: str,
    alignment: Alignment,
    pointer: str,
) -> Price | list[FieldError]:
    """The price with the fields replaced, or what is wrong with them.

    Another `model` takes only what all models have in common from the price as it was.
    """
    body: dict[str, Any] = msgspec.to_builtins(price)
    errors = [
        FieldError(
            pointer=f"{pointer}/{name}",
            code="contradictory",
            detail=f"the {name} of a price stays: {body[name]!r}",
        )
        for name in FIXED
        if name in fields and fields[name] != body[name]
    ]
    if errors:
        return errors
    if fields.get("model", body["model"]) != body["model"]:
        body = {name: body[name] for name in PriceBase.__struct_fields__}
    whole = {**body, **fields}
    try:
        found = msgspec.convert(whole, Price)
    except msgspec.ValidationError as error:
        return list(mistakes(value=whole, wanted=Price, pointer=pointer)) or [
            FieldError(pointer=pointer, code="invalid", detail=str(error))
        ]
    return price_errors(price=found, currency=currency, alignment=alignment, pointer=pointer) or (
        found
    )


def override_pointer(*, pointer: str, key: str) -> str:
    """Where the override of a price stands in the body."""
    return f"{pointer}/overrides/{pointer_part(key)}"
