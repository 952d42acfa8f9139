"""What is issued or posted stays as it is, whatever the application sends."""

import asyncio

import asyncpg
import pytest

from engine.postgres_address import role_dsn
from tests.books import AT, credit_note, entry, insert, invoice, line, postings
from tests.database.breaking import CHECKED, GUARDED, NOT_PERMITTED, TAKEN, accepts, refusal
from tests.database.conftest import PASSWORDS

FREE = {
    "invoices": {
        "status",
        "amount_due_minor",
        "balance_returned_minor",
        "paid_at",
        "voided_at",
        "written_off_at",
        "version",
    },
    "credit_notes": {"status", "voided_at", "version"},
}
ANOTHER = {
    "text": "concat({0}, 'x')",
    "integer": "coalesce({0}, 0) + 1",
    "bigint": "coalesce({0}, 0) + 1",
    "timestamp with time zone": "coalesce({0}, '2026-01-01') + interval '1 hour'",
}
APPEND_ONLY = [
    "line_items",
    "settlements",
    "journal_entries",
    "postings",
    "parties",
    "logos",
    "event_keys",
    "outbox",
    "usage_alert_triggers",
    "tax_answers",
]
NEXT = "version = version + 1"
PAID = f"status = 'paid', amount_due_minor = 0, paid_at = '{AT}', {NEXT}"
VOID = f"status = 'void', voided_at = '{AT}', {NEXT}"
WRITTEN_OFF = f"status = 'uncollectible', written_off_at = '{AT}', {NEXT}"
REOPENED = f"status = 'open', paid_at = NULL, voided_at = NULL, amount_due_minor = 1, {NEXT}"


async def columns_of(raw, table):
    return await raw.fetch(
        "SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    )


@pytest.mark.parametrize("table", sorted(FREE))
async def test_no_column_of_a_document_changes_but_the_named_ones(app, table):
    columns = {row["name"]: row["type"] for row in await columns_of(app, table)}
    assert FREE[table] < set(columns)
    for name in sorted(set(columns) - FREE[table]):
        other = ANOTHER[columns[name]].format(name)
        change = f"UPDATE {table} SET {name} = {other}, {NEXT}"
        assert await refusal(app, change) == GUARDED, name


async def test_the_named_columns_change(app):
    await accepts(app, f"UPDATE invoices SET amount_due_minor = 1, {NEXT} WHERE id = 'inv_1'")
    await accepts(app, f"UPDATE credit_notes SET {VOID}")


@pytest.mark.parametrize("table", sorted(FREE))
async def test_a_column_added_later_is_guarded(root, table):
    await root.execute(f"ALTER TABLE {table} ADD COLUMN memo text")
    await root.execute("SET LOCAL ROLE usance_app")
    assert await refusal(root, f"UPDATE {table} SET memo = 'x', {NEXT}") == GUARDED


@pytest.mark.parametrize("version", ["version", "version + 2", "version - 1", "0"])
async def test_a_change_counts_its_version(app, version):
    change = f"UPDATE invoices SET amount_due_minor = 1, version = {version}"
    assert await refusal(app, change) == GUARDED


@pytest.mark.parametrize(
    "path",
    [
        [PAID],
        [VOID],
        [WRITTEN_OFF],
        [PAID, REOPENED],
        [WRITTEN_OFF, PAID],
        [WRITTEN_OFF, REOPENED],
        [PAID, REOPENED, VOID],
    ],
)
async def test_an_invoice_moves_along_its_states(app, path):
    await accepts(app, *(f"UPDATE invoices SET {step} WHERE id = 'inv_1'" for step in path))


@pytest.mark.parametrize(
    "path",
    [
        [VOID, REOPENED],
        [VOID, f"status = 'paid', voided_at = NULL, amount_due_minor = 0, paid_at = now(), {NEXT}"],
        [PAID, f"status = 'void', paid_at = NULL, voided_at = now(), {NEXT}"],
        [PAID, f"status = 'uncollectible', paid_at = NULL, {NEXT}"],
        [WRITTEN_OFF, VOID],
        [f"status = 'draft', {NEXT}"],
        [VOID, f"status = 'uncollectible', voided_at = NULL, {NEXT}"],
    ],
)
async def test_an_invoice_leaves_no_state_another_way(app, path):
    steps = [f"UPDATE invoices SET {step} WHERE id = 'inv_1'" for step in path]
    await accepts(app, *steps[:-1])
    assert await refusal(app, *steps) == GUARDED


@pytest.mark.parametrize(
    "change",
    [
        "status = 'paid'",
        f"status = 'paid', paid_at = '{AT}'",
        "status = 'void'",
        "amount_due_minor = -1",
        "amount_due_minor = total_minor + 1",
        f"voided_at = '{AT}'",
    ],
)
async def test_a_state_agrees_with_its_dates_and_amounts(app, change):
    assert await refusal(app, f"UPDATE invoices SET {change}, {NEXT}") == CHECKED


async def test_a_void_credit_note_stays_void(app):
    back = f"UPDATE credit_notes SET status = 'issued', voided_at = NULL, {NEXT}"
    assert await refusal(app, f"UPDATE credit_notes SET {VOID}", back) == GUARDED


@pytest.mark.parametrize("table", [*FREE, *APPEND_ONLY, "number_series"])
async def test_nothing_is_deleted_or_truncated(app, root, table):
    for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        assert await refusal(app, statement) == NOT_PERMITTED
        assert await refusal(root, statement) == GUARDED


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_no_column_of_an_append_only_row_changes(app, root, table):
    for row in await columns_of(app, table):
        # An identity takes no value at all, not even its own.
        value = "DEFAULT" if row["name"] == "position" and table == "outbox" else row["name"]
        same = f"UPDATE {table} SET {row['name']} = {value}"
        assert await refusal(app, same) == NOT_PERMITTED
        assert await refusal(root, same) == GUARDED


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE invoices DISABLE TRIGGER guard",
        "ALTER TABLE invoices DISABLE TRIGGER ALL",
        "ALTER TABLE invoices DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE invoices NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE invoices ADD COLUMN memo text",
        "ALTER TABLE invoices DROP CONSTRAINT invoices_pkey",
        "DROP TRIGGER guard ON invoices",
        "DROP POLICY own_rows ON invoices",
        "CREATE POLICY mine ON invoices USING (true)",
        "DROP TABLE settlements",
        "CREATE OR REPLACE FUNCTION current_seller() RETURNS integer LANGUAGE sql RETURN 2",
        "CREATE TABLE public.mine (x integer)",
        "CREATE SCHEMA mine",
        "CREATE RULE quiet AS ON UPDATE TO invoices DO INSTEAD NOTHING",
        "SET session_replication_role = replica",
        "SET ROLE usance_owner",
        "SET ROLE usance_auditor",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION usance_owner",
        "GRANT usance_owner TO usance_app",
        "ALTER ROLE usance_app BYPASSRLS",
    ],
)
async def test_the_application_cannot_put_a_guard_aside(app, statement):
    assert await refusal(app, statement) == NOT_PERMITTED


async def test_a_grant_to_itself_grants_nothing(app):
    grant = "GRANT UPDATE ON postings TO usance_app"  # only a warning
    assert await refusal(app, grant, "UPDATE postings SET amount_minor = 0") == NOT_PERMITTED


async def test_a_type_of_its_own_does_not_mislead_a_guard(app):
    own = ("CREATE DOMAIN pg_temp.text AS pg_catalog.varchar", "SET LOCAL search_path = pg_temp")
    change = f"UPDATE public.invoices SET total_minor = 1, {NEXT}"
    assert await refusal(app, *own, change) == GUARDED


class TestJournal:
    @pytest.mark.parametrize(
        "sides",
        [
            [("accounts_receivable", 100), ("contract_balance", -99)],
            [("accounts_receivable", 100)],
            [("accounts_receivable", 0)],
        ],
    )
    async def test_an_entry_balances_and_has_two_sides(self, app, sides):
        await insert(app, "journal_entries", entry("je_9", "inv_9"))
        with pytest.raises(asyncpg.CheckViolationError):
            await insert(app, "postings", *postings("je_9", "inv_9", *sides))

    async def test_each_currency_balances(self, app):
        await insert(app, "journal_entries", entry("je_9", "inv_9"))
        euros, dollars = postings(
            "je_9", "inv_9", ("accounts_receivable", 100), ("contract_balance", -100)
        )
        with pytest.raises(asyncpg.CheckViolationError):
            await insert(app, "postings", euros, dollars | {"currency": "USD"})

    async def test_an_entry_is_written_in_one_statement(self, app):
        await insert(app, "journal_entries", entry("je_9", "inv_9"))
        debit, credit = postings(
            "je_9", "inv_9", ("accounts_receivable", 100), ("contract_balance", -100)
        )
        for half in (debit, credit):
            with pytest.raises(asyncpg.CheckViolationError):
                async with app.transaction():
                    await insert(app, "postings", half)
        await insert(app, "postings", debit, credit)

    @pytest.mark.parametrize("first", [1, 2, 3, 0])
    async def test_nothing_is_added_to_an_entry(self, app, first):
        more = postings("je_1", "inv_1", ("accounts_receivable", 5), ("contract_balance", -5))
        for row in more:
            row["ordinal"] += first - 1
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.UniqueViolationError)):
            await insert(app, "postings", *more)

    async def test_a_document_posts_once_per_kind(self, app):
        with pytest.raises(asyncpg.UniqueViolationError):
            await insert(app, "journal_entries", entry("je_9", "inv_1"))


class TestDocuments:
    @pytest.mark.parametrize("ordinal", [1, 2, 3, 0])
    async def test_no_line_is_added_to_a_document(self, app, ordinal):
        late = line("li_9", "inv_1", ordinal, charge_group="late")
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.UniqueViolationError)):
            await insert(app, "line_items", late)

    async def test_a_charge_key_and_sequence_is_posted_once(self, app):
        with pytest.raises(asyncpg.UniqueViolationError):
            await insert(app, "line_items", line("li_9", "inv_9", 1))

    async def test_a_later_line_names_what_it_adjusts(self, app):
        with pytest.raises(asyncpg.CheckViolationError):
            await insert(app, "line_items", line("li_9", "inv_9", 1, sequence=2))


TAKE = "UPDATE number_series SET next_sequence = next_sequence + {0} WHERE series = 'INV'"


class TestNumbers:
    @pytest.mark.parametrize(
        "change",
        [
            "next_sequence = next_sequence - 1",
            "series = 'X'",
            "last_issued_at = last_issued_at - interval '1 second'",
            "last_issued_at = NULL",
        ],
    )
    async def test_a_series_only_moves_up(self, app, change):
        assert await refusal(app, f"UPDATE number_series SET {change}") == GUARDED

    async def test_a_number_is_taken_from_its_series_first(self, app):
        for row in (invoice(3), invoice(0), invoice(1, id="inv_9", series="NEW")):
            with pytest.raises(asyncpg.CheckViolationError, match="was not taken"):
                async with app.transaction():
                    await insert(app, "invoices", row)
        with pytest.raises(asyncpg.CheckViolationError, match="was not taken"):
            async with app.transaction():
                await insert(app, "credit_notes", credit_note(2))

    async def test_a_number_is_used_once(self, app):
        with pytest.raises(asyncpg.UniqueViolationError):
            await insert(app, "invoices", invoice(2, id="inv_9"))

    @pytest.mark.parametrize("taken", [1, 5])
    async def test_a_number_taken_and_not_used_ends_the_transaction(self, app, taken):
        assert await refusal(app, TAKE.format(taken)) == CHECKED

    async def test_a_series_cannot_begin_with_a_gap(self, app):
        begin = "INSERT INTO number_series (series, next_sequence) VALUES ('NEW', {0})"
        assert await refusal(app, begin.format(2)) == CHECKED
        await accepts(app, begin.format(1))

    async def test_numbers_taken_in_pieces_are_all_used(self, app):
        await app.execute(TAKE.format(2))
        await insert(app, "invoices", invoice(3), invoice(4))
        await app.execute(TAKE.format(1))
        assert await refusal(app, "SELECT 1") == CHECKED
        await insert(app, "invoices", invoice(5))
        await accepts(app, "SELECT 1")

    async def test_the_check_at_commit_holds_for_the_loader_too(self, app):
        await app.execute(TAKE.format(2))
        await app.execute("SET LOCAL ROLE usance_loader")
        await insert(app, "invoices", invoice(3))
        assert await refusal(app, "SELECT 1") == CHECKED
        await insert(app, "invoices", invoice(4))
        await accepts(app, "SELECT 1")

    async def test_concurrent_allocation_leaves_no_gap_and_no_repeat(self, books):
        """Eight sessions, each rolls every third chunk back; series `RACE` of seller 2."""
        dsn = role_dsn(admin_dsn=books, user="usance_app", password=PASSWORDS["usance_app"])
        sessions = await asyncio.gather(*(asyncpg.connect(dsn, timeout=60) for _ in range(8)))
        try:
            done = await asyncio.gather(
                *(allocate(raw, number) for number, raw in enumerate(sessions))
            )
        finally:
            await asyncio.gather(*(raw.close() for raw in sessions))
        used = sorted(sequence for chunk in done for sequence in chunk)
        assert used == list(range(1, len(used) + 1))
        assert len(used) == 8 * sum(size for size in range(1, 13) if size % 3)


async def allocate(raw, session):
    """Twelve chunks of 1..12 invoices; gives the numbers that were committed."""
    kept = []
    await raw.execute("SELECT set_config('app.seller', '2', false)")
    for size in range(1, 13):
        transaction = raw.transaction()
        await transaction.start()
        end = await raw.fetchval(
            "INSERT INTO number_series (series, next_sequence) VALUES ('RACE', $1 + 1)"
            " ON CONFLICT (seller, series) DO UPDATE SET"
            " next_sequence = number_series.next_sequence + $1 RETURNING next_sequence",
            size,
        )
        numbers = range(end - size, end)
        made = [
            invoice(n, id=f"race_{session}_{n}", series="RACE", number=f"RACE-{n}") for n in numbers
        ]
        await insert(raw, "invoices", *made)
        if size % 3:
            await transaction.commit()
            kept += numbers
        else:
            await transaction.rollback()
    return kept


async def test_taken_is_a_code_of_its_own(app):
    twice = "INSERT INTO number_series (series) VALUES ('INV')"
    assert await refusal(app, twice) == TAKEN
