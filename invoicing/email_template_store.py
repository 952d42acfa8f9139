"""SQL of the seller's own words for mails."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.mail_templates import PLACEHOLDERS, Template, TemplateDraft
from plans.mailing import EmailKind

_FIND: Final = text("""
SELECT locale, subject, text, html FROM email_templates
WHERE seller = current_seller() AND kind = :kind AND locale = ANY(:locales)
ORDER BY array_position(CAST(:locales AS text[]), locale) LIMIT 1
""")
_SAVE: Final = text("""
INSERT INTO email_templates (kind, locale, subject, text, html, updated_at)
VALUES (:kind, :locale, :subject, :text, :html, :now)
ON CONFLICT (seller, kind, locale) DO UPDATE SET subject = excluded.subject, text = excluded.text,
  html = excluded.html, updated_at = excluded.updated_at
""")
_DELETE: Final = text("""
DELETE FROM email_templates WHERE seller = current_seller() AND kind = :kind AND locale = :locale
""")


async def find_template(
    *, connection: AsyncConnection, kind: EmailKind, locales: Sequence[str]
) -> Template | None:
    """The seller's own words in the first of these locales that has them."""
    of = {"kind": kind.value, "locales": list(locales)}
    row = (await connection.execute(_FIND, of)).one_or_none()
    if row is None:
        return None
    return Template(
        kind=kind,
        locale=row.locale,
        subject=row.subject,
        text=row.text,
        html=row.html,
        own=True,
        placeholders=tuple(sorted(PLACEHOLDERS[kind])),
    )


async def save_template(
    *,
    connection: AsyncConnection,
    kind: EmailKind,
    locale: str,
    draft: TemplateDraft,
    now: datetime,
) -> None:
    """Keep the seller's words in the place of those it had."""
    fields = {"subject": draft.subject, "text": draft.text, "html": draft.html}
    await connection.execute(_SAVE, fields | {"kind": kind.value, "locale": locale, "now": now})


async def delete_template(*, connection: AsyncConnection, kind: EmailKind, locale: str) -> bool:
    """Forget the seller's words; whether there were any."""
    done = await connection.execute(_DELETE, {"kind": kind.value, "locale": locale})
    return bool(done.rowcount)
