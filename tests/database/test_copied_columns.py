"""What columns are encoded as for COPY is what PostgreSQL stores."""

from decimal import Decimal

import numpy as np

from engine.columns import encode_copy, numerics

NANOS = [
    0,
    1,
    -1,
    999_999_999,
    10**9,
    10**13,
    -(10**13),
    123_456_789_012_345_678,
    10_000_000_100_000_000,
    2**63 - 1,
    -(2**63) + 1,
]


async def test_numerics_are_stored_as_if_inserted(root):
    table = "(place bigint, value numeric(24, 9))"
    async with root.transaction():
        await root.execute(f"CREATE TEMP TABLE copied {table} ON COMMIT DROP")
        await root.execute(f"CREATE TEMP TABLE inserted {table} ON COMMIT DROP")
        columns = [np.arange(len(NANOS)), numerics(np.array(NANOS))]
        await root.copy_to_table("copied", source=memoryview(encode_copy(columns)), format="binary")
        values = [(place, Decimal(nanos).scaleb(-9)) for place, nanos in enumerate(NANOS)]
        await root.executemany("INSERT INTO inserted VALUES ($1, $2)", values)
        stored = "SELECT value::text, pg_column_size(value) FROM {} ORDER BY place"
        found = await root.fetch(stored.format("copied"))
        assert found == await root.fetch(stored.format("inserted"))
    assert [row[0] for row in found] == [f"{Decimal(nanos).scaleb(-9):.9f}" for nanos in NANOS]
