"""Bodies that make or change sellers, customers and plan versions, and how they apply."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.errors import BillingError, FieldError
from engine.money import CurrencyCode, Rounding, UnsignedText
from engine.period import Alignment
from plans.letterhead import LanguageTag
from plans.model import (
    Address,
    CustomerDraft,
    Entitlements,
    GraceHours,
    LastDay,
    Mode,
    Plan,
    PlanDraft,
    Proration,
    TaxExempt,
    TaxId,
    TaxRounding,
)
from plans.prices import Interval, Price
from plans.shape import Body, DaysText, Key, Name, ShortText

CountryCode = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")]
T = TypeVar("T")


class SellerDraft(Body, frozen=True, kw_only=True):
    """A new seller. A test seller's clock begins at `clock_at`, else at the present instant."""

    legal_name: Name
    mode: Mode = Mode.TEST
    country: CountryCode | None = None
    currency: CurrencyCode = "USD"
    timezone: ShortText = "UTC"
    address: Address | None = None
    tax_ids: tuple[TaxId, ...] = ()
    series: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9-]{0,20}\Z")] = "INV"
    rounding: Rounding = Rounding.HALF_UP
    proration: Proration = Proration.SECOND
    last_day: LastDay = LastDay.EXCLUDE
    tax_rounding: TaxRounding = TaxRounding.LINE
    net_terms_days: DaysText = 30
    grace_hours: GraceHours = 0
    clock_at: datetime | None = None


class CustomerPatch(Body, frozen=True, kw_only=True):
    """`PATCH /v1/customers/{customer}`: only what is named changes."""

    name: Name | UnsetType = UNSET
    emails: tuple[ShortText, ...] | UnsetType = UNSET
    currency: CurrencyCode | None | UnsetType = UNSET
    timezone: ShortText | None | UnsetType = UNSET
    country: CountryCode | None | UnsetType = UNSET
    address: Address | None | UnsetType = UNSET
    tax_ids: tuple[TaxId, ...] | UnsetType = UNSET
    net_terms_days: DaysText | None | UnsetType = UNSET
    po_number: ShortText | None | UnsetType = UNSET
    tax_rates: tuple[Key, ...] | UnsetType = UNSET
    tax_exempt: TaxExempt | UnsetType = UNSET
    parent: ShortText | None | UnsetType = UNSET
    invoice_group: Key | None | UnsetType = UNSET
    locale: LanguageTag | None | UnsetType = UNSET


class PlanVersionDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/plans/{plan}/versions`: what is not named stays as in the latest version."""

    key: Key | UnsetType = UNSET
    name: Name | None | UnsetType = UNSET
    currency: CurrencyCode | UnsetType = UNSET
    interval: Interval | UnsetType = UNSET
    alignment: Alignment | UnsetType = UNSET
    trial_days: DaysText | UnsetType = UNSET
    minimum_commitment: UnsignedText | None | UnsetType = UNSET
    prices: tuple[Price, ...]
    entitlements: Annotated[Entitlements, msgspec.Meta(max_length=200)] | UnsetType = UNSET


def given(value: T | UnsetType, otherwise: T) -> T:
    """The value of a patch, or what it leaves as it was."""
    return otherwise if isinstance(value, UnsetType) else value


def next_version(*, latest: Plan, draft: PlanVersionDraft) -> PlanDraft:
    """The whole body of the version after `latest`.

    Errors: `invalid_body` when the key or the currency is another one.
    """
    errors = [
        FieldError(pointer=f"/{field}", code="invalid", detail=f"this plan's {field} is {stated!r}")
        for field, stated in (("key", latest.key), ("currency", latest.currency))
        if given(getattr(draft, field), stated) != stated
    ]
    if errors:
        detail = "a version keeps its plan's key and currency"
        raise BillingError("invalid_body", detail, errors=tuple(errors))
    return PlanDraft(
        key=latest.key,
        name=given(draft.name, latest.name),
        currency=latest.currency,
        interval=given(draft.interval, latest.interval),
        alignment=given(draft.alignment, latest.alignment),
        trial_days=given(draft.trial_days, latest.trial_days),
        minimum_commitment=given(draft.minimum_commitment, latest.minimum_commitment),
        prices=draft.prices,
        entitlements=given(
            draft.entitlements,
            {
                feature: value if isinstance(value, bool) else Decimal(value)
                for feature, value in latest.entitlements.items()
            },
        ),
    )


def patched(*, draft: CustomerDraft, patch: CustomerPatch) -> CustomerDraft:
    """The customer's body with the patch applied."""
    changes = {
        name: value
        for name in patch.__struct_fields__
        if not isinstance(value := getattr(patch, name), UnsetType)
    }
    return msgspec.structs.replace(draft, **changes)
