"""Other prices for a plan, as a body states them. Pure."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from engine.money import UnsignedText
from plans.agreement import Overrides
from plans.prices import Price
from plans.shape import Body, Key

Version = Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)]


class PriceListDraft(Body, frozen=True, kw_only=True):
    """Other prices for a plan, in all its versions or in one.

    They are those of another plan or version (`with_plan`, `with_version`), or `prices` told
    whole; `overrides` replaces fields of single prices, by their keys, as a subscription's own do.
    """

    plan: Key
    plan_version: Version | None = None
    with_plan: Key | None = None
    with_version: Version | None = None
    prices: Annotated[tuple[Price, ...], msgspec.Meta(max_length=200)] | None = None
    overrides: Overrides = msgspec.field(default_factory=dict)
    minimum_commitment: UnsignedText | None | UnsetType = UNSET
