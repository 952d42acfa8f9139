"""What billing reads of usage is what the raw events say; anything else is told by its batch."""

import random

from engine.db import driver
from metering.backfill import close_backfill, open_backfill, reverse_backfill
from metering.fold_usage import fold_usage
from metering.model import BackfillDraft
from metering.verify_usage import DifferingUsage, verify_usage
from tests.database.test_correct_event import amend, void
from tests.database.test_fold_usage import SMALL, some_events, some_meters
from tests.database.test_rederive_alike import planted
from tests.metering_world import NOW, event, world

__all__ = ["world"]
ONE = "(SELECT min(chunk) FROM event_chunks WHERE octet_length(quantities) > 0 AND events > 1)"
EARLY = "'\\x0100000000000000'"
# What is done to the columns or the payloads of seller 1.
DAMAGE = [
    (f"UPDATE event_chunks SET times = overlay(times PLACING {EARLY} FROM 1) WHERE chunk = {ONE}"),
    (
        "UPDATE event_chunks SET quantities = set_byte(quantities, 0,"
        f" 255 - get_byte(quantities, 0)) WHERE chunk = {ONE}"
    ),
    "UPDATE event_chunks SET digits = digits + 1 WHERE octet_length(quantities) > 0",
    f"DELETE FROM event_chunks WHERE chunk = {ONE}",
    (
        "INSERT INTO event_chunks OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(c,"
        f" jsonb_build_object('chunk', 1000000))).* FROM event_chunks c WHERE chunk = {ONE}"
    ),
    (
        "UPDATE event_chunks SET codes = overlay(codes PLACING set_byte('\\x00000000', 0,"
        " 1 - get_byte(codes, 0)) FROM 1) WHERE chunk = (SELECT min(chunk) FROM event_chunks"
        " WHERE get_byte(codes, 0) < 2 AND groups LIKE '%],[%')"
    ),
    (
        "UPDATE event_measures SET quantities = set_byte(quantities, 0,"
        " 255 - get_byte(quantities, 0)) WHERE octet_length(quantities) > 0"
    ),
    "DELETE FROM event_voids",
]
FIRST = "(SELECT min(batch) FROM event_batches)"
ROOM = "(SELECT min(batch) FROM event_batches WHERE events > 2)"
# What is done beside the columns and the payloads | what is told of it.
BESIDE = [
    (
        f"UPDATE event_keys SET key = gen_random_uuid() WHERE batch = {ROOM} AND ordinal = 1",
        "identities, other than",
    ),
    (
        f"UPDATE event_keys SET ordinal = 1 - ordinal WHERE batch = {ROOM} AND ordinal < 2",
        "identities, other than",
    ),
    (
        f"UPDATE event_keys SET stream = stream + 1000 WHERE batch = {ROOM} AND ordinal = 1",
        "identities, other than",
    ),
    (
        (
            "UPDATE event_keys k SET batch = o.batch, ordinal = o.ordinal FROM event_keys o"
            f" WHERE k.ordinal = 0 AND o.ordinal = 0 AND k.batch <> o.batch"
            f" AND k.batch IN ({FIRST}, {ROOM} + 1) AND o.batch IN ({FIRST}, {ROOM} + 1)"
        ),
        "identities, other than",
    ),
    (
        (
            "UPDATE event_voids SET replacement = (SELECT min(replacement) + max(replacement)"
            " FROM event_voids) - replacement WHERE replacement IN ((SELECT min(replacement)"
            " FROM event_voids), (SELECT max(replacement) FROM event_voids))"
        ),
        "takes the place of another event",
    ),
    (
        "UPDATE event_voids SET replacement = NULL WHERE replacement IS NOT NULL",
        "identities, other than",
    ),
    (
        f"UPDATE event_batches SET first_at = first_at - interval '1 us' WHERE batch = {ROOM}",
        "first or last time",
    ),
    (
        f"UPDATE event_batches SET last_at = last_at + interval '1 us' WHERE batch = {ROOM}",
        "first or last time",
    ),
    (
        (
            "UPDATE event_batches SET ends = set_byte(ends, 0, get_byte(ends, 0) # 1)"
            f" WHERE batch = {ROOM}"
        ),
        "where its events end",
    ),
    (
        (
            "UPDATE event_batches SET ends = overlay(ends PLACING substring(ends FROM 5 FOR 4)"
            f" FROM 1) WHERE batch = {ROOM}"
        ),
        "where its events end",
    ),
    (
        "UPDATE event_measures SET first_at = first_at + interval '1 us'",
        "a batch lies elsewhere",
    ),
    (
        "UPDATE event_measures SET last_at = last_at - interval '1 day'",
        "a batch lies elsewhere",
    ),
    *(
        (f"UPDATE event_chunks SET {change} WHERE chunk = {ONE}", "a chunk lies elsewhere")
        for change in (
            "first_at = first_at + interval '1 hour'",
            "last_at = last_at - interval '1 hour'",
            "first_customer = first_customer + 1",
            "last_customer = last_customer - 1",
            "low_micros = low_micros + 1",
            "high_micros = high_micros - 1",
        )
    ),
]
UNREADABLE = [
    f"UPDATE event_batches SET payload = '\\x5b7b5d' WHERE batch = {FIRST}",
    f"UPDATE event_batches SET payload = '\\x5b5d' WHERE batch = {FIRST}",
]


async def some_usage(world):
    """Usage of every kind of meter, some of it folded, void or of a backfill."""
    chance = random.Random(5)
    await some_meters(world, "m")
    for customer in ("acme", "birch"):
        await world.customer(customer)
    for turn in range(24):
        if turn == 16:
            await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
        body = some_events(chance, f"t{turn}")
        await world.send(body)
        if turn % 8 == 7:
            await void(world, body[0]["id"])
        if turn % 8 == 6:
            await amend(world, body[0]["id"], subject="birch")
    await settle(world, "old", some_events(chance, "b"), reverse_backfill)


async def settle(world, name, body, *verbs):
    async with world.database.transaction(seller=world.seller) as connection:
        draft = BackfillDraft(key=name)
        await open_backfill(connection=connection, draft=draft, now=NOW, wall_now=NOW)
    await world.send([each | {"backfill": name} for each in body])
    for verb in (close_backfill, *verbs):
        async with world.database.transaction(seller=world.seller) as connection:
            await verb(connection=connection, reference=name, now=NOW)


async def test_damage_is_told(world, database_url):
    await some_usage(world)
    assert world.seller == 1
    async with planted(database_url) as connection:
        sound = await verify_usage(connection=connection)
    assert sound.events > 100
    assert sound.differing == ()
    for damage in DAMAGE:
        async with planted(database_url, damage) as connection:
            found = await verify_usage(connection=connection)
        measured = [one for one in found.differing if isinstance(one, DifferingUsage)]
        assert measured, damage
        assert all(one.meter.startswith("m-") for one in measured)
    for damage, told in BESIDE:
        async with planted(database_url, damage) as connection:
            found = await verify_usage(connection=connection)
        assert found.differing, damage
        details = [one for one in found.differing if told in getattr(one, "detail", "")]
        assert details == list(found.differing), (damage, found.differing)
    for damage in UNREADABLE:
        async with planted(database_url, damage) as connection:
            found = await verify_usage(connection=connection)
        first = found.differing[0]
        assert (first.meter, first.first_batch, first.events) == ("", first.last_batch, 0), damage


async def test_a_wrong_value_is_told_by_its_batch(world, database_url):
    await world.meter("tokens")
    await world.customer("acme")
    for turn in range(9):
        await world.send([event(f"{turn}-{place}", value=place) for place in range(5)])
    wrong = (
        "UPDATE event_measures SET quantities = set_byte(quantities, 8, 7) WHERE batch ="
        " (SELECT batch FROM event_batches ORDER BY batch OFFSET 3 LIMIT 1)"
    )
    async with planted(database_url, wrong) as connection:
        found = (await verify_usage(connection=connection)).differing
    async with world.database.transaction(seller=world.seller) as connection:
        raw = await driver(connection)
        batches = [row[0] for row in await raw.fetch("SELECT batch FROM event_batches ORDER BY 1")]
    assert [(one.meter, one.first_batch, one.last_batch) for one in found] == [
        ("tokens", batches[3], batches[3])
    ]
    assert (found[0].events, found[0].measured) == (5, 5)


async def test_who_has_no_usage_has_nothing_to_verify(world):
    async with world.database.transaction(seller=world.seller, snapshot=True) as connection:
        found = await verify_usage(connection=connection)
    assert (found.events, found.differing) == (0, ())
