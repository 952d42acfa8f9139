"""Ids of many documents at once are those that are given one by one."""

from datetime import UTC, datetime

import numpy as np

from engine.id_columns import IdColumns
from invoicing.alike import document_bodies
from invoicing.assembly import document_ids

SELLER = "sel_one"
DOCUMENTS = [
    ("cus_b", datetime(2026, 2, 1, tzinfo=UTC), "EUR"),
    ("cus_a", datetime(2026, 2, 1, 0, 0, 0, 999, tzinfo=UTC), "JPY"),
    ("cus_ü", datetime(2026, 1, 1, tzinfo=UTC), "EUR"),
]


def test_the_ids_of_documents_and_their_parts() -> None:
    customers, instants, currencies = zip(*DOCUMENTS, strict=True)
    columns = IdColumns(
        bodies=document_bodies(
            seller=SELLER, customers=customers, instants=instants, currencies=currencies
        )
    )
    single = [
        document_ids(
            seller_id=SELLER, customer=who, billed_at=at, currency=currency, group="", ordinal=0
        )[1]
        for who, at, currency in DOCUMENTS
    ]
    found = [bytes(row).decode() for row in columns.find("inv")]
    assert found == [ids.find("inv") for ids in single]
    of, ordinal = np.array([2, 0, 2]), np.array([1, 7, 65_535])
    parts = [bytes(row).decode() for row in columns.find("li", of=of, ordinal=ordinal)]
    assert parts == [
        single[document].find("li", part)
        for document, part in zip(of.tolist(), ordinal.tolist(), strict=True)
    ]
    assert [found[at] for at in columns.in_order.tolist()] == sorted(found)
