"""One seller's rows are not there for another, whoever asks and however."""

import asyncpg
import pytest

from tests.database.breaking import MISSING, NOT_PERMITTED, refusal, seller_tables
from tests.database.conftest import logged_in

# A global unique key tells a seller that somebody else's value exists: each needs a reason.
GLOBAL_KEYS = {
    ("sellers", ("seller",)),  # handed out by the database
    ("sellers", ("id",)),  # 74 random bits
    ("api_keys", ("hash",)),  # of 256 random bits; found before the seller is known
}
LOOK_UPS = {
    "sellers",
    "api_keys",
    "customers",
    "subscriptions",
    "due_instants",
    "credit_grants",
    "held_entries",
    "event_inbox",
    "usage_alerts",
    "usage_alert_marks",
    "emails",
    "billing_runs",
    "parked_accounts",
    "run_fallbacks",
}
WITHOUT_SELLER = {"alembic_version"}


async def granted(raw, table, privilege, role="usance_app"):
    return await raw.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table, privilege)


class TestCatalogue:
    async def test_every_table_has_a_seller(self, root):
        tables = await root.fetch(
            "SELECT relname FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm', 'f')"
        )
        assert {row[0] for row in tables} - set(await seller_tables(root)) == WITHOUT_SELLER

    async def test_views_see_what_their_reader_may_see(self, root):
        views = await root.fetch(
            "SELECT relname, reloptions FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'"
        )
        assert {row["relname"] for row in views} >= {"credit_grant_sums"}
        assert all("security_invoker=true" in (row["reloptions"] or ()) for row in views)

    async def test_row_level_security_is_enabled_and_forced(self, root):
        for table in await seller_tables(root):
            found = await root.fetchrow(
                "SELECT relrowsecurity, relforcerowsecurity FROM pg_class"
                " WHERE oid = $1::text::regclass",
                table,
            )
            assert tuple(found) == (True, True), table

    async def test_policies_are_the_three_kinds_we_know(self, root):
        own = "(seller = current_seller())"
        expected = set()
        for table in await seller_tables(root):
            expected |= {
                (table, "own_rows", "ALL", "public", own, own),
                (table, "audit", "SELECT", "usance_auditor", "true", None),
            }
        for table in LOOK_UPS:
            expected.add((table, "look_up", "SELECT", "usance_owner", "true", None))
        expected.add(("sellers", "make", "INSERT", "usance_owner", None, "true"))
        expected.add(("due_instants", "keep", "ALL", "usance_owner", "true", "true"))
        found = await root.fetch(
            "SELECT tablename, policyname, cmd, array_to_string(roles, ','), qual, with_check"
            " FROM pg_policies WHERE schemaname = 'public' AND permissive = 'PERMISSIVE'"
        )
        assert {tuple(row) for row in found} == expected

    async def test_unique_keys_begin_with_the_seller(self, root):
        keys = await root.fetch(
            "SELECT c.relname, array(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY"
            "  AS k(number, place) JOIN pg_attribute a ON a.attrelid = c.oid"
            "  AND a.attnum = k.number ORDER BY k.place) AS columns"
            " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
            " WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace"
            " AND c.relname <> 'alembic_version'"
        )
        found = {(row["relname"], tuple(row["columns"])) for row in keys}
        assert {key for key in found if key[1][0] != "seller"} | {
            ("sellers", ("seller",))
        } == GLOBAL_KEYS

    async def test_references_carry_the_seller(self, root):
        """A foreign key without it could point at another seller's row."""
        found = await root.fetch(
            "SELECT conrelid::regclass::text FROM pg_constraint c WHERE contype = 'f'"
            " AND NOT EXISTS (SELECT FROM pg_attribute a"
            "  WHERE a.attrelid = c.conrelid AND a.attnum = c.conkey[1] AND a.attname = 'seller')"
        )
        assert found == []

    async def test_only_the_roles_named_may_call_our_functions(self, root):
        found = await root.fetch(
            "SELECT p.proname, p.prosecdef, p.proconfig,"
            " has_function_privilege('usance_loader', p.oid, 'EXECUTE') AS loader,"
            " has_function_privilege('usance_auditor', p.oid, 'EXECUTE') AS auditor"
            " FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace"
        )
        assert {row["proname"] for row in found if row["loader"]} == {
            "current_seller",
            "write_events",  # with the caller's own rights: what the loader may insert anyway
        }
        assert {row["proname"] for row in found if row["auditor"]} == {"current_seller"}
        open_path = {row["proname"]: row["prosecdef"] for row in found if row["proconfig"] is None}
        assert open_path == {
            "current_seller": False,  # its body was bound when it was made
            "write_events": False,
            "postings_of": False,  # bound too
        }

    async def test_the_working_roles_are_weak(self, root):
        found = await root.fetch(
            "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,"
            " (SELECT count(*) FROM pg_class WHERE relowner = r.oid) AS owned"
            " FROM pg_roles r WHERE rolname LIKE 'usance\\_%' AND rolname <> 'usance_owner'"
        )
        assert {tuple(row) for row in found} == {
            ("usance_app", False, False, False, False, False, 0),
            ("usance_loader", False, False, False, False, True, 0),
            ("usance_auditor", False, False, False, False, False, 0),
        }
        members = await root.fetch(
            "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members"
            " WHERE roleid::regrole::text LIKE 'usance%' OR member::regrole::text LIKE 'usance%'"
        )
        assert {tuple(row) for row in members} == {("usance_loader", "usance_app")}


async def test_without_a_seller_nothing_is_seen_and_nothing_is_written(nobody):
    for table in await seller_tables(nobody):
        assert await nobody.fetchval(f"SELECT count(*) FROM {table}") == 0, table
        if await granted(nobody, table, "UPDATE"):
            assert await nobody.execute(f"UPDATE {table} SET seller = DEFAULT") == "UPDATE 0"
    new = "INSERT INTO parties (id, body) VALUES ('x', '{}')"
    assert await refusal(nobody, new) in {MISSING, NOT_PERMITTED}


async def test_another_sellers_rows_are_not_there(app):
    for table in await seller_tables(app):
        assert await app.fetchval(f"SELECT count(*) FROM {table} WHERE seller = 1") > 0, table
        assert await app.fetchval(f"SELECT count(*) FROM {table} WHERE seller = 2") == 0, table
        for privilege, change in (
            ("UPDATE", f"UPDATE {table} SET seller = DEFAULT WHERE seller = 2"),
            ("DELETE", f"DELETE FROM {table} WHERE seller = 2"),
        ):
            if await granted(app, table, privilege):
                assert (await app.execute(change)).endswith(" 0"), change


async def test_no_row_is_written_for_another_seller(app):
    for table in await seller_tables(app):
        if not await granted(app, table, "INSERT"):
            continue
        columns = await app.fetchval(
            "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE"
            " attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped"
            " AND attidentity = ''",
            table,
        )
        copy = (
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM"
            f" (SELECT (jsonb_populate_record(t, '{{\"seller\": 2}}')).* FROM {table} t) AS theirs"
        )
        assert await refusal(app, copy) == NOT_PERMITTED, table


@pytest.mark.parametrize("table", ["customers", "subscriptions", "billing_runs"])
async def test_no_row_is_given_to_another_seller(app, table):
    assert await refusal(app, f"UPDATE {table} SET seller = 2") == NOT_PERMITTED


async def test_row_level_security_cannot_be_switched_off(app):
    off = "SET LOCAL row_security = off"
    assert await refusal(app, off, "SELECT FROM invoices") == NOT_PERMITTED


async def test_the_owner_is_bound_too(root):
    await root.execute("SET LOCAL ROLE usance_owner")
    for table in await seller_tables(root):
        seen = await root.fetchval(f"SELECT count(*) FROM {table} WHERE seller = 2")
        assert (seen > 0) == (table in LOOK_UPS), table
    assert await root.execute("UPDATE sellers SET legal_name = 'x' WHERE seller = 2") == "UPDATE 0"
    assert await root.execute("DELETE FROM api_keys WHERE seller = 2") == "DELETE 0"


class TestLoader:
    """The application may become the loader, who passes row-level security and sees nothing."""

    async def test_it_reads_and_changes_nothing(self, app):
        await app.execute("SET LOCAL ROLE usance_loader")
        for table in await seller_tables(app):
            for statement in (
                f"SELECT count(*) FROM {table}",
                f"UPDATE {table} SET seller = DEFAULT",
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
                f"COPY {table} TO STDOUT",
            ):
                assert await refusal(app, statement) == NOT_PERMITTED, statement

    async def test_it_never_chooses_the_seller(self, app, root):
        for table in await seller_tables(root):
            chosen = await root.fetchval(
                "SELECT has_column_privilege('usance_loader', $1::text, 'seller', 'INSERT')", table
            )
            assert not chosen, table
        await app.execute("SET LOCAL ROLE usance_loader")
        theirs = "INSERT INTO parties (seller, id, body) VALUES (2, 'x', '{}')"
        assert await refusal(app, theirs) == NOT_PERMITTED

    @pytest.mark.parametrize("seller", [1, 2])
    async def test_its_copy_belongs_to_the_sessions_seller(self, books, seller):
        async with logged_in(books, role="usance_app", seller=seller) as raw:
            await raw.execute("SET LOCAL ROLE usance_loader")
            await raw.copy_records_to_table("parties", columns=["id", "body"], records=[("x", "1")])
            await raw.execute("RESET ROLE")
            assert await raw.fetchval("SELECT seller FROM parties WHERE id = 'x'") == seller

    async def test_its_copy_fails_without_a_seller(self, nobody):
        await nobody.execute("SET LOCAL ROLE usance_loader")
        with pytest.raises(asyncpg.NotNullViolationError):
            await nobody.copy_records_to_table(
                "parties", columns=["id", "body"], records=[("x", "1")]
            )

    async def test_the_guards_hold_for_it(self, app):
        await app.execute("SET LOCAL ROLE usance_loader")
        with pytest.raises(asyncpg.CheckViolationError):
            await app.copy_records_to_table(
                "postings",
                columns=[
                    "entry",
                    "ordinal",
                    "account",
                    "customer",
                    "document",
                    "currency",
                    "amount_minor",
                ],
                records=[("je_9", n, "cash", "cus_a", "inv_9", "EUR", 5) for n in (1, 2)],
            )


class TestAuditor:
    async def test_it_reads_all_sellers(self, auditor):
        for table in await seller_tables(auditor):
            sellers = await auditor.fetch(f"SELECT DISTINCT seller FROM {table} ORDER BY 1")
            assert [row[0] for row in sellers] == [1, 2], table

    async def test_it_writes_nothing(self, auditor):
        for table in await seller_tables(auditor):
            for statement in (
                f"INSERT INTO {table} DEFAULT VALUES",
                f"UPDATE {table} SET seller = DEFAULT",
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
            ):
                assert await refusal(auditor, statement) == NOT_PERMITTED, statement


class TestLookUps:
    """What the application learns before it has named a seller."""

    async def test_a_key_is_found_by_its_hash_only(self, nobody):
        found = await nobody.fetch("SELECT * FROM find_api_key($1)", (1).to_bytes(32, "big"))
        assert [tuple(row)[:4] for row in found] == [(1, "sel_a", "live", "key_a")]
        for wrong in (b"", (3).to_bytes(32, "big"), None):
            assert await nobody.fetch("SELECT * FROM find_api_key($1)", wrong) == []

    async def test_a_seller_is_found_by_its_id_without_its_particulars(self, nobody):
        found = await nobody.fetch("SELECT * FROM find_seller('sel_b')")
        assert [dict(row) for row in found] == [
            {"seller": 2, "id": "sel_b", "mode": "live", "clock_at": None}
        ]
        assert await nobody.fetch("SELECT * FROM find_seller('sel_c')") == []

    async def test_sellers_are_listed_for_the_worker(self, nobody):
        found = await nobody.fetch("SELECT * FROM list_sellers()")
        assert [row["id"] for row in found] == ["sel_a", "sel_b"]
        assert set(found[0].keys()) == {"seller", "id", "legal_name", "mode", "clock_at"}

    async def test_due_sellers_are_those_with_work(self, nobody):
        due = "SELECT id FROM due_sellers($1::text::timestamptz)"
        assert [row[0] for row in await nobody.fetch(due, "2026-02-01")] == ["sel_a", "sel_b"]
        assert await nobody.fetch(due, "2026-01-31") == []
