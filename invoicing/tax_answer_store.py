"""SQL of what an outside tax engine answered, by the hash of what it was asked."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.tax_provider import TaxAnswer, TaxQuestion
from plans.model import Party, TaxExempt

_FIND: Final = text("""
SELECT question_hash, answer FROM tax_answers
WHERE seller = current_seller() AND question_hash = ANY(:hashes)
""")
_INSERT: Final = text("""
INSERT INTO tax_answers (question_hash, url, question, answer, answered_at)
VALUES (:question_hash, :url, CAST(CAST(:question AS text) AS jsonb),
  CAST(CAST(:answer AS text) AS jsonb), :answered_at)
ON CONFLICT DO NOTHING
""")
_TAXED: Final = text("""
SELECT c.id, c.tax_exempt, p.body FROM customers c
  JOIN parties p ON p.seller = c.seller AND p.id = c.party
WHERE c.seller = current_seller() AND c.id = ANY(:customers)
""")


class TaxedCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is taxed: as documents name it, and whether it is at all."""

    party: Party
    exempt: TaxExempt


async def taxed_customers(
    *, connection: AsyncConnection, customers: Sequence[str]
) -> dict[str, TaxedCustomer]:
    """The customers (ids) as a tax engine is told of them."""
    rows = await connection.execute(_TAXED, {"customers": list(customers)})
    return {
        row.id: TaxedCustomer(
            party=msgspec.convert(row.body, Party), exempt=TaxExempt(row.tax_exempt)
        )
        for row in rows
    }


async def load_tax_answers(
    *, connection: AsyncConnection, hashes: Sequence[str]
) -> dict[str, TaxAnswer]:
    """The answers there are, by the hash of their question."""
    rows = await connection.execute(_FIND, {"hashes": list(hashes)})
    return {row.question_hash: msgspec.convert(row.answer, TaxAnswer) for row in rows}


async def save_tax_answers(
    *,
    connection: AsyncConnection,
    url: str,
    answers: Mapping[str, tuple[TaxQuestion, TaxAnswer]],
    now: datetime,
) -> None:
    """Keep answers for good; the first one to a question stays."""
    rows = [
        {
            "question_hash": name,
            "url": url,
            "question": msgspec.json.encode(question).decode(),
            "answer": msgspec.json.encode(answer).decode(),
            "answered_at": now,
        }
        for name, (question, answer) in answers.items()
    ]
    if rows:
        await connection.execute(_INSERT, rows)
