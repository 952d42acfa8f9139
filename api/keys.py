"""`/v1/api_keys`: the keys of the seller."""

from datetime import datetime

from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.pagination import Page, PageRequest
from engine.errors import not_found
from plans.api_keys import ApiKey, ApiKeyDraft, ApiKeyPatch, IssuedApiKey
from plans.issue_key import issue_key
from plans.seller_store import change_api_key, list_api_keys, revoke_api_key


@post(
    "/v1/api_keys",
    operation_id="createApiKey",
    summary="Make an API key",
    description=(
        "The answer holds the secret, this one time. A repeat with the same Idempotency-Key"
        " answers the same key with `secret` null. `events_per_second` bounds what the key may send"
        " to `POST /v1/events` in the long run, in each process that serves."
    ),
    tags=["API keys"],
    opt={"scope": "admin", "secret_fields": ["secret"]},
)
async def create_api_key(
    data: JSONBody[ApiKeyDraft],
    connection: NamedDependency[AsyncConnection],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> IssuedApiKey:
    """Make a key in the mode of the seller."""
    return await issue_key(connection=connection, mode=principal.mode, draft=data, now=wall_now)


@get(
    "/v1/api_keys",
    operation_id="listApiKeys",
    summary="List API keys",
    tags=["API keys"],
    opt={"scope": "admin"},
)
async def get_api_keys(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[ApiKey]:
    """All keys, revoked ones too, without their secrets."""
    found = await list_api_keys(connection=connection, limit=page.fetched, after=page.after)
    return page.page(found, ids=[one.id for one in found])


@patch(
    "/v1/api_keys/{key_id:str}",
    operation_id="changeApiKey",
    summary="Change an API key",
    description=(
        "Its name, and what it may send to `POST /v1/events`: each process that serves goes by the"
        " new rate a second later. `events_per_second: null` ends the limit."
    ),
    tags=["API keys"],
    opt={"scope": "admin"},
)
async def patch_api_key(
    key_id: FromPath[str],
    data: JSONBody[ApiKeyPatch],
    connection: NamedDependency[AsyncConnection],
) -> ApiKey:
    """Change what the body names."""
    key = await change_api_key(connection=connection, key_id=key_id, patch=data)
    if key is None:
        raise not_found(noun="API key", reference=key_id)
    return key


@delete(
    "/v1/api_keys/{key_id:str}",
    operation_id="revokeApiKey",
    summary="Revoke an API key",
    description="From this answer on the key is refused. Revoking it again changes nothing.",
    tags=["API keys"],
    status_code=200,
    opt={"scope": "admin"},
)
async def delete_api_key(
    key_id: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    wall_now: NamedDependency[datetime],
) -> ApiKey:
    """Revoke a key at once."""
    key = await revoke_api_key(connection=connection, key_id=key_id, now=wall_now)
    if key is None:
        raise not_found(noun="API key", reference=key_id)
    return key


ROUTES = (create_api_key, get_api_keys, patch_api_key, delete_api_key)
