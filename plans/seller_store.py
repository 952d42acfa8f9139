"""SQL for sellers, their API keys, their accounts and the parties that documents print."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.journal import Account
from plans.api_keys import ApiKey, ApiKeyPatch, FoundKey
from plans.catalog import party_id
from plans.model import Party, Seller

_SELLER: Final = text("""
SELECT id, legal_name, mode, country, currency, timezone, address, tax_ids, series, rounding,
  proration, last_day, net_terms_days, tax_rounding, grace_hours, run_approval, branding,
  payment_details, default_locale, tax_provider, emails, created_at, clock_at
FROM sellers WHERE seller = current_seller()
""")
_UPDATE_SELLER: Final = text("""
UPDATE sellers SET legal_name = :legal_name, country = :country, currency = :currency,
  timezone = :timezone, address = CAST(CAST(:address AS text) AS jsonb),
  tax_ids = CAST(CAST(:tax_ids AS text) AS jsonb), series = :series, rounding = :rounding,
  proration = :proration, last_day = :last_day, net_terms_days = :net_terms_days,
  tax_rounding = :tax_rounding, grace_hours = :grace_hours,
  run_approval = :run_approval,
  branding = CAST(CAST(:branding AS text) AS jsonb),
  payment_details = CAST(CAST(:payment_details AS text) AS jsonb),
  default_locale = :default_locale, emails = CAST(CAST(:emails AS text) AS jsonb),
  tax_provider = CAST(CAST(:tax_provider AS text) AS jsonb), party = :party
WHERE seller = current_seller()
""")
_FIND_KEY: Final = text("SELECT * FROM find_api_key(:digest)")
_KEY_COLUMNS: Final = (
    "id, name, start, scopes, created_at, expires_at, revoked_at, events_per_second"
)
_KEYS: Final = text(f"""
SELECT {_KEY_COLUMNS} FROM api_keys WHERE seller = current_seller()
  AND (CAST(:after AS text) IS NULL OR id > :after) ORDER BY id LIMIT :limit
""")
_INSERT_KEY: Final = text("""
INSERT INTO api_keys (id, name, hash, start, scopes, created_at, expires_at, events_per_second)
VALUES (:id, :name, :hash, :start, :scopes, :created_at, :expires_at, :events_per_second)
""")
_LOCK_KEY: Final = text(f"""
SELECT {_KEY_COLUMNS} FROM api_keys WHERE seller = current_seller() AND id = :id FOR UPDATE
""")
_CHANGE_KEY: Final = text("""
UPDATE api_keys SET name = :name, events_per_second = :events_per_second
WHERE seller = current_seller() AND id = :id
""")
_REVOKE_NAMED: Final = text("""
UPDATE api_keys SET revoked_at = :now
WHERE seller = current_seller() AND name = :name AND revoked_at IS NULL
""")
_REVOKE_KEY: Final = text(f"""
UPDATE api_keys SET revoked_at = coalesce(revoked_at, :now)
WHERE seller = current_seller() AND id = :id RETURNING {_KEY_COLUMNS}
""")
_INSERT_PARTY: Final = text("""
INSERT INTO parties (id, body) VALUES (:id, CAST(CAST(:body AS text) AS jsonb))
ON CONFLICT DO NOTHING
""")
_INSERT_LOGO: Final = text(
    "INSERT INTO logos (id, content) VALUES (:id, :content) ON CONFLICT DO NOTHING"
)
_LOGO: Final = text("SELECT content FROM logos WHERE seller = current_seller() AND id = :id")
_INSERT_ACCOUNT: Final = text("""
INSERT INTO accounts (code, type, normal_side) VALUES (:code, :type, :normal_side)
ON CONFLICT DO NOTHING
""")
_HAS_POSTINGS: Final = text(
    "SELECT EXISTS (SELECT FROM journal_entries WHERE seller = current_seller())"
)


async def find_api_key(*, connection: AsyncConnection, digest: bytes) -> FoundKey | None:
    """The key with that SHA-256, revoked and expired ones too, before any seller is named."""
    row = (await connection.execute(_FIND_KEY, {"digest": digest})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), FoundKey)


async def create_seller_row(*, connection: AsyncConnection, body: Mapping[str, object]) -> int:
    """Insert a seller and go on in its name; give its number."""
    encoded = msgspec.json.encode(body).decode()
    made = await connection.execute(
        text("SELECT create_seller(CAST(CAST(:body AS text) AS jsonb))"), {"body": encoded}
    )
    seller = int(made.scalar_one())
    await connection.execute(
        text("SELECT set_config('app.seller', :seller, true)"), {"seller": str(seller)}
    )
    return seller


async def load_seller(*, connection: AsyncConnection) -> Seller:
    """The seller in whose name the transaction runs."""
    row = (await connection.execute(_SELLER)).mappings().one()
    return msgspec.convert(dict(row), Seller)


async def save_seller(*, connection: AsyncConnection, seller: Seller, party: str) -> None:
    """Write every changeable field; `party` is the id of what documents print from now on."""
    fields: dict[str, Any] = msgspec.to_builtins(seller)
    encoded = ("address", "tax_ids", "branding", "payment_details", "tax_provider", "emails")
    for name in encoded:
        fields[name] = msgspec.json.encode(fields[name]).decode()
    await connection.execute(_UPDATE_SELLER, {**fields, "party": party})


async def has_postings(*, connection: AsyncConnection) -> bool:
    """Whether the seller's journal has an entry."""
    return bool((await connection.execute(_HAS_POSTINGS)).scalar_one())


async def save_party(*, connection: AsyncConnection, party: Party) -> str:
    """Keep what documents print; give its id."""
    identity = party_id(party)
    body = msgspec.json.encode(party, order="sorted").decode()
    await connection.execute(_INSERT_PARTY, {"id": identity, "body": body})
    return identity


async def insert_logo(*, connection: AsyncConnection, logo: str, content: bytes) -> None:
    """Keep a picture by the id of its content."""
    await connection.execute(_INSERT_LOGO, {"id": logo, "content": content})


async def load_logo(*, connection: AsyncConnection, logo: str) -> bytes | None:
    """The picture with that id, or None."""
    return (await connection.execute(_LOGO, {"id": logo})).scalar_one_or_none()


async def insert_accounts(*, connection: AsyncConnection, accounts: Sequence[Account]) -> None:
    """Add the accounts that are missing."""
    await connection.execute(_INSERT_ACCOUNT, [msgspec.to_builtins(one) for one in accounts])


async def insert_api_key(*, connection: AsyncConnection, key: ApiKey, digest: bytes) -> None:
    """Keep a key by the hash of its secret."""
    await connection.execute(
        _INSERT_KEY,
        {
            "id": key.id,
            "name": key.name,
            "hash": digest,
            "start": key.start,
            "scopes": [scope.value for scope in key.scopes],
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "events_per_second": key.events_per_second,
        },
    )


async def list_api_keys(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[ApiKey]:
    """Up to `limit` keys after the id `after`, revoked ones too."""
    rows = await connection.execute(_KEYS, {"after": after, "limit": limit})
    return [msgspec.convert(dict(row), ApiKey) for row in rows.mappings()]


async def revoke_named_keys(*, connection: AsyncConnection, name: str, now: datetime) -> None:
    """Revoke every key of that name that still works."""
    await connection.execute(_REVOKE_NAMED, {"name": name, "now": now})


async def revoke_api_key(
    *, connection: AsyncConnection, key_id: str, now: datetime
) -> ApiKey | None:
    """Revoke a key; revoking again keeps the first instant. None when there is none."""
    rows = await connection.execute(_REVOKE_KEY, {"id": key_id, "now": now})
    row = rows.mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), ApiKey)


async def change_api_key(
    *, connection: AsyncConnection, key_id: str, patch: ApiKeyPatch
) -> ApiKey | None:
    """Write what the patch names. None when there is no such key."""
    row = (await connection.execute(_LOCK_KEY, {"id": key_id})).mappings().one_or_none()
    if row is None:
        return None
    named = {
        name: value
        for name, value in msgspec.structs.asdict(patch).items()
        if value is not msgspec.UNSET
    }
    key = msgspec.structs.replace(msgspec.convert(dict(row), ApiKey), **named)
    values = {"id": key.id, "name": key.name, "events_per_second": key.events_per_second}
    await connection.execute(_CHANGE_KEY, values)
    return key
