-- What the database refuses, whoever asks.

-- Issued documents change in nothing but the columns named in the trigger: the rest is compared as a whole, so a
-- column added later is guarded without a word.
CREATE FUNCTION guard_document() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  free text[] := string_to_array(TG_ARGV[0], ' ');
  legal text[] := string_to_array(TG_ARGV[1], ' ');
BEGIN
  IF TG_OP <> 'UPDATE' THEN
    RAISE EXCEPTION '% of % is refused: issued documents stay', TG_OP, TG_TABLE_NAME
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF (to_jsonb(NEW) - free) IS DISTINCT FROM (to_jsonb(OLD) - free) THEN
    RAISE EXCEPTION '%: an issued document does not change', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.version <> OLD.version + 1 THEN
    RAISE EXCEPTION '%: version % must follow %', TG_TABLE_NAME, NEW.version, OLD.version
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.status <> OLD.status AND NOT (OLD.status || '>' || NEW.status = ANY (legal)) THEN
    RAISE EXCEPTION '%: % cannot become %', TG_TABLE_NAME, OLD.status, NEW.status
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  RAISE EXCEPTION '% of % is refused: it is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION guard_document(
  'status amount_due_minor balance_returned_minor paid_at voided_at written_off_at version',
  'open>paid open>uncollectible open>void paid>open uncollectible>paid uncollectible>open');
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON credit_notes FOR EACH ROW EXECUTE FUNCTION guard_document(
  'status voided_at version', 'issued>void');
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON payments FOR EACH ROW EXECUTE FUNCTION guard_document(
  'status returned_at return_code credited_minor unapplied_minor refunded_minor version', 'succeeded>returned');
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON refunds FOR EACH ROW EXECUTE FUNCTION guard_document(
  'status confirmed_at version', 'pending>succeeded pending>void');

DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['line_items', 'settlements', 'journal_entries', 'postings', 'parties', 'logos', 'event_keys',
    'event_voids', 'event_void_positions', 'outbox', 'line_taxes', 'line_discounts', 'credit_draws', 'audit_log', 'credit_moves', 'usage_alert_triggers', 'tax_answers']
  LOOP
    EXECUTE format('CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['invoices', 'credit_notes', 'payments', 'refunds', 'line_items', 'settlements', 'journal_entries', 'postings',
    'parties', 'logos', 'event_keys', 'event_voids', 'event_void_positions', 'outbox', 'number_series', 'line_taxes',
    'line_discounts', 'credit_draws', 'audit_log', 'credit_moves', 'usage_alert_triggers', 'tax_answers']
  LOOP
    EXECUTE format('CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
  END LOOP;
END $$;

-- Who tells the outbox something waits until whoever told it something before, of the same seller, has committed: before
-- the statement takes its numbers. The lock is the last one a transaction takes.
CREATE FUNCTION tell_in_turn() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('outbox ' || current_seller(), 0));
  RETURN NULL;
END $$;
CREATE TRIGGER in_turn BEFORE INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION tell_in_turn();

-- A statement that adds postings must leave each entry it touches balanced per currency; all postings of
-- an entry come in one statement, so that none can be added to it later.
CREATE FUNCTION check_balance() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE bad record;
BEGIN
  -- One look finds that all is well, where an entry has one currency; the rest says what is not.
  PERFORM FROM added GROUP BY seller, entry, currency
    HAVING sum(amount_minor) <> 0 OR count(*) < 2 OR min(ordinal) <> 1 OR max(ordinal) <> count(*) LIMIT 1;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  SELECT seller, entry, currency, sum(amount_minor) AS amount
    INTO bad FROM added GROUP BY seller, entry, currency
    HAVING sum(amount_minor) <> 0 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'journal entry % does not balance: % % too much', bad.entry, bad.amount, bad.currency
      USING ERRCODE = 'check_violation';
  END IF;
  SELECT seller, entry INTO bad FROM added GROUP BY seller, entry HAVING count(*) < 2 OR min(ordinal) <> 1
    OR max(ordinal) <> count(*) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'journal entry % is not written as a whole', bad.entry USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER balance AFTER INSERT ON postings REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_balance();

-- The lines of a document come in one statement, numbered 1..n: none can be added to it later.
CREATE FUNCTION check_lines() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE bad record;
BEGIN
  SELECT document INTO bad FROM added GROUP BY seller, document
    HAVING min(ordinal) <> 1 OR max(ordinal) <> count(*) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'document % is not written as a whole', bad.document USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER whole AFTER INSERT ON line_items REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_lines();

-- Numbers have no gap. A series only moves up; a document carries a number that its series has given out before;
-- and when a transaction ends, every number it took from a series is on a document.
CREATE FUNCTION guard_series() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'a number series stays' USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.next_sequence < OLD.next_sequence OR NEW.series <> OLD.series OR NEW.seller <> OLD.seller
    OR (OLD.last_issued_at IS NOT NULL AND (NEW.last_issued_at < OLD.last_issued_at) IS NOT FALSE) THEN
    RAISE EXCEPTION 'a number series only moves up' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON number_series FOR EACH ROW EXECUTE FUNCTION guard_series();

CREATE FUNCTION check_number() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE bad record;
BEGIN
  SELECT a.series, a.sequence INTO bad FROM added a
    LEFT JOIN number_series n ON n.seller = a.seller AND n.series = a.series
    WHERE a.sequence < 1 OR n.next_sequence IS NULL OR a.sequence >= n.next_sequence LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'number % was not taken from series %', bad.sequence, bad.series USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER number AFTER INSERT ON invoices REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_number();
CREATE TRIGGER number AFTER INSERT ON credit_notes REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_number();

CREATE FUNCTION check_series() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  first_taken integer := CASE WHEN TG_OP = 'INSERT' THEN 1 ELSE OLD.next_sequence END;
  used integer;
BEGIN
  SELECT count(*) INTO used FROM (
    SELECT sequence FROM invoices
      WHERE seller = NEW.seller AND series = NEW.series AND sequence >= first_taken AND sequence < NEW.next_sequence
    UNION SELECT sequence FROM credit_notes
      WHERE seller = NEW.seller AND series = NEW.series AND sequence >= first_taken AND sequence < NEW.next_sequence
  ) AS numbered;
  IF used <> NEW.next_sequence - first_taken THEN
    RAISE EXCEPTION 'series % gave out % numbers and % are on documents', NEW.series, NEW.next_sequence - first_taken, used
      USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER gapless AFTER INSERT OR UPDATE OF next_sequence ON number_series
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_series();

-- Whom a subscription bills, and whose usage, follows its customer and its payer: both are looked up when it is made. Whoever
-- changes one writes the other, and is refused where they do not agree: with a trigger that could change them before an update,
-- PostgreSQL locks each row that a billing run moves, and logs that, before it writes it.
CREATE FUNCTION find_bill_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  SELECT key, number INTO NEW.bill_key, NEW.customer_number FROM customers WHERE seller = NEW.seller AND id = NEW.customer;
  IF NEW.payer IS NOT NULL THEN
    SELECT key INTO NEW.bill_key FROM customers WHERE seller = NEW.seller AND id = NEW.payer;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER bill_key BEFORE INSERT ON subscriptions FOR EACH ROW EXECUTE FUNCTION find_bill_key();
CREATE FUNCTION check_bill_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM customers c JOIN customers p ON p.seller = c.seller AND p.id = CASE WHEN NEW.payer IS NULL THEN c.id ELSE NEW.payer END
      WHERE c.seller = NEW.seller AND c.id = NEW.customer AND c.number = NEW.customer_number
        AND p.key COLLATE "C" = NEW.bill_key COLLATE "C") THEN
    RAISE EXCEPTION 'subscription %: bill_key is not the key of whom it bills, or customer_number not that of its customer', NEW.id
      USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER same_bill_key AFTER UPDATE OF customer, payer, bill_key, customer_number ON subscriptions
  FOR EACH ROW EXECUTE FUNCTION check_bill_key();

-- What falls due follows its subscription, whichever statement moves that: nobody else may write it. A session keeps the
-- plan of a statement in a function, and that of one row would compare each of thousands with each: hence EXECUTE. Without
-- statistics the planner would sort both sides of an update by their ids.
CREATE FUNCTION keep_due_instants() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET enable_mergejoin = off AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    EXECUTE 'INSERT INTO due_instants (seller, next_due_at, subscription, bill_to, key, number, derived_through_at)
      SELECT seller, next_due_at, id, coalesce(payer, customer), bill_key, CASE WHEN payer IS NULL THEN customer_number END,
        coalesce(derived_through_at, starts_at)
      FROM added WHERE next_due_at IS NOT NULL';
  ELSIF TG_OP = 'DELETE' THEN
    EXECUTE 'DELETE FROM due_instants d USING gone g
      WHERE d.seller = g.seller AND d.next_due_at = g.next_due_at AND d.key = g.bill_key AND d.subscription = g.id';
  ELSE
    EXECUTE 'MERGE INTO due_instants d USING (
      SELECT g.seller, g.id, g.next_due_at AS was_due_at, a.next_due_at, g.bill_key AS was_key, a.bill_key AS key,
        coalesce(a.payer, a.customer) AS bill_to, CASE WHEN a.payer IS NULL THEN a.customer_number END AS number,
        coalesce(a.derived_through_at, a.starts_at) AS derived_through_at
      FROM gone g JOIN added a ON a.seller = g.seller AND a.id = g.id
      WHERE (a.next_due_at, a.derived_through_at, a.starts_at, a.bill_key, a.payer, a.customer_number)
        IS DISTINCT FROM (g.next_due_at, g.derived_through_at, g.starts_at, g.bill_key, g.payer, g.customer_number)
      OFFSET 0
    ) m ON d.seller = m.seller AND d.next_due_at = m.was_due_at AND d.key = m.was_key AND d.subscription = m.id
    WHEN MATCHED AND m.next_due_at IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET next_due_at = m.next_due_at, bill_to = m.bill_to, key = m.key, number = m.number,
      derived_through_at = m.derived_through_at
    WHEN NOT MATCHED AND m.next_due_at IS NOT NULL THEN
      INSERT (seller, next_due_at, subscription, bill_to, key, number, derived_through_at)
      VALUES (m.seller, m.next_due_at, m.id, m.bill_to, m.key, m.number, m.derived_through_at)';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER due_inserted AFTER INSERT ON subscriptions REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION keep_due_instants();
CREATE TRIGGER due_updated AFTER UPDATE ON subscriptions REFERENCING OLD TABLE AS gone NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION keep_due_instants();
CREATE TRIGGER due_deleted AFTER DELETE ON subscriptions REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION keep_due_instants();

-- All that was ever posted of a document, whichever entry did it. The caller's own rights hold, and the planner puts the
-- body in the function's place. OFFSET 0: an expression of a column is no index condition behind row-level security.
CREATE FUNCTION postings_of(of_document text) RETURNS SETOF postings LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT p.* FROM (SELECT 'je_' || substr(of_document, 5) AS entry OFFSET 0) own JOIN postings p ON p.entry = own.entry
    WHERE p.seller = current_seller() AND p.document = of_document
  UNION ALL
  SELECT p.* FROM postings p
    WHERE p.seller = current_seller() AND p.document = of_document AND p.entry <> 'je_' || substr(p.document, 5);
END;

-- Look-ups before the seller is known run as the owner, who sees only these tables, only to read.
CREATE FUNCTION find_api_key(key_hash bytea)
RETURNS TABLE (seller integer, seller_id text, mode text, key_id text, scopes text[], expires_at timestamptz, revoked_at timestamptz,
  events_per_second integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.seller, s.id, s.mode, k.id, k.scopes, k.expires_at, k.revoked_at, k.events_per_second
  FROM api_keys k JOIN sellers s USING (seller) WHERE k.hash = key_hash
$$;

CREATE FUNCTION find_seller(seller_id text) RETURNS TABLE (seller integer, id text, mode text, clock_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.seller, s.id, s.mode, s.clock_at FROM sellers s WHERE s.id = seller_id
$$;

CREATE FUNCTION list_sellers() RETURNS TABLE (seller integer, id text, legal_name text, mode text, clock_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.seller, s.id, s.legal_name, s.mode, s.clock_at FROM sellers s ORDER BY s.seller
$$;

CREATE FUNCTION due_sellers(now_at timestamptz) RETURNS TABLE (seller integer, id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.seller, s.id FROM sellers s
  WHERE s.mode = 'live' AND EXISTS (
    SELECT 1 FROM due_instants d WHERE d.seller = s.seller
      AND d.next_due_at <= now_at - make_interval(hours => s.grace_hours)
    UNION ALL
    SELECT 1 FROM subscriptions d WHERE d.seller = s.seller AND d.spend_thresholds <> '{}'
      AND (d.usage_seen OR EXISTS (SELECT FROM event_inbox i WHERE i.seller = s.seller))
    UNION ALL
    SELECT 1 FROM credit_grants g WHERE g.seller = s.seller AND g.ended_at IS NULL
      AND (g.expires_at <= now_at OR g.top_up IS NOT NULL)
    UNION ALL
    SELECT 1 FROM held_entries h WHERE h.seller = s.seller AND h.ended_at IS NULL AND h.enter_by_at <= now_at
    UNION ALL
    SELECT 1 FROM billing_runs r WHERE r.seller = s.seller AND r.status IN ('running', 'reviewing') AND NOT r.background)
$$;

-- Sellers whose alerts have something to be compared with.
CREATE FUNCTION alerted_sellers() RETURNS TABLE (seller integer, id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.seller, s.id FROM sellers s
  WHERE s.mode = 'live' AND EXISTS (SELECT FROM usage_alerts a WHERE a.seller = s.seller) AND (
    EXISTS (SELECT FROM event_inbox i WHERE i.seller = s.seller)
    OR EXISTS (SELECT FROM usage_alert_marks m WHERE m.seller = s.seller))
$$;

-- Sellers that send mails by themselves, and those where one waits that somebody asked for.
CREATE FUNCTION mailing_sellers() RETURNS TABLE (seller integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.seller FROM sellers s
  WHERE s.emails IS NOT NULL OR EXISTS (SELECT FROM emails m WHERE m.seller = s.seller AND m.status = 'queued')
  ORDER BY s.seller
$$;

-- How far the runs are that are not over, for whoever watches the machine.
CREATE FUNCTION open_billing_runs() RETURNS TABLE (seller_id text, status text, runs bigint, customers_done bigint, customers_total bigint,
  documents bigint, lines bigint, parked bigint, worked_micros bigint, progress_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.id, r.status, count(*), sum(r.customers_done), sum(r.customers_total), sum(r.documents), sum(r.lines),
    sum((SELECT count(*) FROM parked_accounts p WHERE p.seller = r.seller AND p.run = r.id))::bigint, sum(r.worked_micros)::bigint,
    min(coalesce(r.progress_at, r.started_at))
  FROM billing_runs r JOIN sellers s USING (seller)
  WHERE r.status IN ('queued', 'running', 'paused', 'reviewing', 'awaiting_approval') GROUP BY 1, 2 ORDER BY 1, 2
$$;

-- How often customers were billed one by one that might have been billed together, over all runs.
CREATE FUNCTION billing_fallbacks() RETURNS TABLE (seller_id text, reason text, times bigint, customers bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.id, f.reason, sum(f.times), sum(f.customers) FROM run_fallbacks f JOIN sellers s USING (seller)
  GROUP BY 1, 2 ORDER BY 1, 2
$$;

-- Runs that nobody waits for and that a worker is to go on with, of test sellers too; one that failed rests before.
CREATE FUNCTION background_billing_runs() RETURNS TABLE (seller integer, id text, rests boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT r.seller, r.id, coalesce(r.tried_again_at > clock_timestamp(), false) FROM billing_runs r
  WHERE r.background AND r.status IN ('queued', 'running', 'reviewing') ORDER BY r.seller, r.as_of, r.id
$$;

-- After a run that posted much the planner must know of it at once: what it believes of an empty table makes the
-- first lists after a month's end slow. Whoever analyses already, does it for us too.
CREATE FUNCTION refresh_statistics() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '1s'
SET default_statistics_target = 10 AS $$ -- a sample that costs little; autovacuum looks closer later
BEGIN
  ANALYZE invoices, credit_notes, line_items, journal_entries, postings, outbox, subscriptions, due_instants, price_intervals, customers;
EXCEPTION WHEN lock_not_available OR query_canceled THEN
  RETURN;
END $$;

-- Row-level security, forced: the owner too is bound by it. A session that named no seller sees nothing.
DO $$
DECLARE name text;
BEGIN
  FOR name IN SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'
  LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY own_rows ON %I USING (seller = current_seller()) WITH CHECK (seller = current_seller())', name);
    EXECUTE format('CREATE POLICY audit ON %I FOR SELECT TO usance_auditor USING (true)', name);
    EXECUTE format('GRANT SELECT ON %I TO usance_auditor', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['api_keys', 'sellers', 'customers', 'due_instants', 'subscriptions', 'credit_grants', 'held_entries', 'event_inbox', 'usage_alerts',
    'usage_alert_marks', 'emails', 'billing_runs', 'parked_accounts', 'run_fallbacks']
  LOOP
    EXECUTE format('CREATE POLICY look_up ON %I FOR SELECT TO usance_owner USING (true)', name);
  END LOOP;
END $$;

-- A seller is made before its number can be set: the insert is allowed to a session that has not named one.
CREATE FUNCTION create_seller(body jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE made integer;
BEGIN
  INSERT INTO sellers (id, legal_name, mode, country, currency, timezone, address, tax_ids, series, rounding, proration,
      last_day, net_terms_days, grace_hours, tax_rounding, party, clock_at, created_at)
    SELECT id, legal_name, mode, country, currency, timezone, address, tax_ids, series, rounding, proration,
      last_day, net_terms_days, coalesce(grace_hours, 0), coalesce(tax_rounding, 'line'), party, clock_at, created_at
    FROM jsonb_populate_record(NULL::sellers, body)
    RETURNING seller INTO made;
  RETURN made;
END $$;
CREATE POLICY make ON sellers FOR INSERT TO usance_owner WITH CHECK (true);
CREATE POLICY keep ON due_instants TO usance_owner USING (true) WITH CHECK (true); -- for its trigger

GRANT SELECT, INSERT ON held_entries TO usance_app;
GRANT UPDATE (ended_at, is_entered) ON held_entries TO usance_app;
GRANT SELECT, INSERT, UPDATE ON emails, email_positions, email_templates, draft_edits, sellers, api_keys, customers, tax_rates, coupons, coupon_applications, credit_grants, credit_reservations, customer_balances, subscriptions, price_intervals,
  subscription_changes, number_series, billing_state, billing_runs, parked_accounts, run_fallbacks, run_report_rows, run_report_documents, invoices, credit_notes, payments, refunds, idempotency_keys,
  event_inbox, backfills, usage_alerts, usage_alert_marks TO usance_app;
GRANT SELECT, INSERT ON audit_log, parties, logos, meters, plans, prices, accounts, line_items, line_taxes, line_discounts, credit_draws, credit_moves, settlements, journal_entries, postings,
  outbox, event_streams, event_keys, event_batches, event_measures, event_chunks, event_voids, event_void_positions, backfill_batches, usage_alert_triggers,
  tax_answers
  TO usance_app;
GRANT SELECT, INSERT ON intake_errors TO usance_app;
GRANT UPDATE (status, refused_at, code, detail, rejected) ON intake_errors TO usance_app;
GRANT SELECT ON due_instants TO usance_app;
GRANT SELECT ON credit_grant_sums, credit_reservation_sums TO usance_app, usance_auditor;
GRANT UPDATE (meters) ON event_batches TO usance_app;
GRANT DELETE ON event_measures, event_chunks, event_inbox, idempotency_keys, parked_accounts, run_report_rows, run_report_documents, usage_alerts, usage_alert_marks,
  email_templates TO usance_app;
GRANT USAGE ON SEQUENCE event_batch_numbers TO usance_app;
REVOKE INSERT ON sellers FROM usance_app;

-- The loader writes and cannot read; the seller is no column of its own choice.
DO $$
DECLARE
  name text;
  columns text;
BEGIN
  FOREACH name IN ARRAY ARRAY['event_keys', 'event_batches', 'event_measures', 'event_inbox', 'invoices', 'held_entries', 'credit_notes', 'refunds',
    'line_items', 'line_taxes', 'line_discounts', 'credit_draws', 'settlements', 'journal_entries', 'postings', 'outbox', 'customers', 'subscriptions', 'price_intervals', 'parties']
  LOOP
    SELECT string_agg(quote_ident(attname), ', ') INTO columns FROM pg_attribute
      WHERE attrelid = name::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'seller' AND attidentity = '';
    EXECUTE format('GRANT INSERT (%s) ON %I TO usance_loader', columns, name);
  END LOOP;
END $$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_api_key, find_seller, list_sellers, due_sellers, alerted_sellers, mailing_sellers, open_billing_runs, background_billing_runs, billing_fallbacks, create_seller, refresh_statistics, postings_of TO usance_app;
GRANT EXECUTE ON FUNCTION current_seller TO usance_app, usance_loader, usance_auditor;
GRANT EXECUTE ON FUNCTION write_events TO usance_app, usance_loader;
