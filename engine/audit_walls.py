"""Invariants of the database itself: settings, isolation of sellers, guards, roles."""

from typing import Final

from engine.audit_check import Check

_GUARDS: Final[dict[str, tuple[str, ...]]] = {
    "invoices": ("guard", "guard_truncate", "number"),
    "credit_notes": ("guard", "guard_truncate", "number"),
    "payments": ("guard", "guard_truncate"),
    "refunds": ("guard", "guard_truncate"),
    "line_items": ("guard", "guard_truncate", "whole"),
    "settlements": ("guard", "guard_truncate"),
    "journal_entries": ("guard", "guard_truncate"),
    "postings": ("guard", "guard_truncate", "balance"),
    "parties": ("guard", "guard_truncate"),
    "logos": ("guard", "guard_truncate"),
    "event_keys": ("guard", "guard_truncate"),
    "event_voids": ("guard", "guard_truncate"),
    "event_void_positions": ("guard", "guard_truncate"),
    "usage_alert_triggers": ("guard", "guard_truncate"),
    "tax_answers": ("guard", "guard_truncate"),
    "outbox": ("guard", "guard_truncate", "in_turn"),
    "subscriptions": ("bill_key", "same_bill_key", "due_inserted", "due_updated", "due_deleted"),
    "number_series": ("guard", "guard_truncate", "gapless"),
}
_EXPECTED: Final = ", ".join(
    f"('{table}', '{name}')" for table, names in _GUARDS.items() for name in names
)
_GUARDED: Final = ", ".join(f"'{table}'" for table in _GUARDS)

WALL_CHECKS: Final[tuple[Check, ...]] = (
    Check(
        name="durability",
        sentence="A commit that was answered survives a crash.",
        sql="""
SELECT CAST(NULL AS integer), name, 'is ' || setting FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'
UNION ALL
SELECT NULL, 'setting of a role or database', chosen
FROM pg_db_role_setting, unnest(setconfig) AS chosen
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND (chosen = 'synchronous_commit=off' OR chosen LIKE 'session_replication_role=%')""",
    ),
    Check(
        name="row_level_security",
        sentence="Every table of sellers' rows shows and takes the rows of the seller named only.",
        sql="""
SELECT CAST(NULL AS integer), CAST(c.relname AS text),
  format('enabled %s, forced %s, policy %s with check %s', c.relrowsecurity,
    c.relforcerowsecurity, p.qual, p.with_check)
FROM pg_class c
  LEFT JOIN pg_policies p ON p.schemaname = 'public' AND p.tablename = c.relname
    AND p.policyname = 'own_rows' AND p.cmd = 'ALL'
WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind IN ('r', 'p')
  AND c.relname <> 'alembic_version'
  AND (NOT c.relrowsecurity OR NOT c.relforcerowsecurity
    OR p.qual IS DISTINCT FROM '(seller = current_seller())'
    OR p.with_check IS DISTINCT FROM '(seller = current_seller())')
UNION ALL
SELECT NULL, CAST(tablename AS text), 'policy ' || policyname || ' lets the application see more'
FROM pg_policies
WHERE schemaname = 'public' AND permissive = 'PERMISSIVE' AND policyname <> 'own_rows'
  AND roles && CAST(ARRAY['public', 'usance_app', 'usance_loader'] AS name[])""",
    ),
    Check(
        name="guards",
        sentence="Every guard is in place and enabled.",
        sql=f"""
SELECT CAST(NULL AS integer), e.relation || ' ' || e.guard,
  CASE WHEN t.tgname IS NULL THEN 'missing' ELSE 'not enabled' END
FROM (VALUES {_EXPECTED}) AS e (relation, guard)
  LEFT JOIN pg_trigger t ON t.tgrelid = to_regclass('public.' || e.relation)
    AND t.tgname = e.guard AND NOT t.tgisinternal
WHERE t.tgname IS NULL OR t.tgenabled NOT IN ('O', 'A')""",
    ),
    Check(
        name="roles",
        sentence="No working role can pass the walls: not by right, ownership or membership.",
        sql=f"""
SELECT CAST(NULL AS integer), CAST(r.rolname AS text),
  format('superuser %s, creates roles %s, bypasses row-level security %s', r.rolsuper,
    r.rolcreaterole, r.rolbypassrls)
FROM pg_roles r
WHERE r.rolname IN ('usance_app', 'usance_auditor', 'usance_loader', 'usance_owner')
  AND (r.rolsuper OR r.rolcreaterole OR r.rolreplication
    OR r.rolbypassrls <> (r.rolname = 'usance_loader'))
UNION ALL
SELECT NULL, CAST(r.rolname AS text), 'owns ' || c.relname
FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
WHERE r.rolname IN ('usance_app', 'usance_auditor', 'usance_loader')
  AND c.relpersistence = 'p'
UNION ALL
SELECT NULL, CAST(m.rolname AS text), 'may become ' || g.rolname
FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
WHERE m.rolname IN ('usance_app', 'usance_auditor', 'usance_loader')
  AND (m.rolname, g.rolname) <> ('usance_app', 'usance_loader')
UNION ALL
SELECT NULL, coalesce(r.rolname, 'everybody'), format('may %s %s', g.privilege_type, c.relname)
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
  LEFT JOIN pg_roles r ON r.oid = g.grantee
WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind IN ('r', 'p') AND (
  g.grantee = 0 OR r.rolname = 'usance_loader'
  OR (r.rolname = 'usance_auditor' AND g.privilege_type <> 'SELECT')
  OR (r.rolname = 'usance_app' AND (
    g.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    OR (g.privilege_type = 'DELETE' AND c.relname = ANY (CAST(ARRAY[{_GUARDED}] AS name[]))))))
UNION ALL
SELECT NULL, CAST(r.rolname AS text),
  format('may %s %s.%s', g.privilege_type, c.relname, t.attname)
FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
  CROSS JOIN LATERAL aclexplode(t.attacl) AS g JOIN pg_roles r ON r.oid = g.grantee
WHERE c.relnamespace = CAST('public' AS regnamespace) AND r.rolname = 'usance_loader'
  AND (g.privilege_type <> 'INSERT' OR t.attname = 'seller')""",
    ),
)
