"""`/v1/seller`: the business in whose name the key acts."""

from datetime import datetime

import msgspec
from litestar import get, patch
from litestar.di import NamedDependency
from litestar.params import JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.queue_emails import begin_emails
from invoicing.take_logo import take_logo
from plans.change_seller import change_seller
from plans.letterhead import Branding
from plans.model import Seller, SellerPatch
from plans.tax_providers import shown


@get(
    "/v1/seller",
    operation_id="getSeller",
    summary="The seller",
    tags=["Seller"],
    opt={"scope": "read"},
)
async def get_seller(seller: NamedDependency[Seller]) -> Seller:
    """The business that this API key acts for, and its billing choices."""
    return _answer(seller)


@patch(
    "/v1/seller",
    operation_id="changeSeller",
    summary="Change the seller",
    description=(
        "Changes what the body names. Currency, rounding, proration and last_day are settled by"
        " the first posted document (409 `settled_terms`). Documents already issued keep the"
        " branding and payment details they printed. `branding` is replaced whole: its `logo` is"
        " the id answered before, or a PNG of at most 200 kB as `data:image/png;base64,…`."
        " `emails` says which documents go out by e-mail, from now on."
    ),
    tags=["Seller"],
    opt={"scope": "admin"},
)
async def patch_seller(
    data: JSONBody[SellerPatch],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> Seller:
    """Change what the body names."""
    if isinstance(data.branding, Branding):
        kept = await take_logo(connection=connection, branding=data.branding)
        data = msgspec.structs.replace(data, branding=kept)
    changed = await change_seller(connection=connection, patch=data)
    await begin_emails(connection=connection, before=seller.emails, after=changed.emails, now=now)
    return _answer(changed)


def _answer(seller: Seller) -> Seller:
    """The seller without what is secret."""
    return msgspec.structs.replace(seller, tax_provider=shown(seller.tax_provider))


ROUTES = (get_seller, patch_seller)
