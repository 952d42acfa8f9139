-- Every table carries its seller as a small integer: it leads every key, the policies compare it, and bulk rows
-- stay narrow. The text id of a seller lives in sellers alone.

CREATE FUNCTION current_seller() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE
  RETURN nullif(current_setting('app.seller', true), '')::integer;

CREATE TABLE sellers (
  seller integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id text NOT NULL UNIQUE,
  legal_name text NOT NULL,
  mode text NOT NULL CHECK (mode IN ('live', 'test')),
  country text,
  currency text NOT NULL,
  timezone text NOT NULL,
  address jsonb,
  tax_ids jsonb NOT NULL DEFAULT '[]',
  series text NOT NULL,
  rounding text NOT NULL CHECK (rounding IN ('half_up', 'half_even')),
  proration text NOT NULL CHECK (proration IN ('second', 'day', 'thirty_360', 'none')),
  last_day text NOT NULL CHECK (last_day IN ('exclude', 'include')),
  net_terms_days integer NOT NULL CHECK (net_terms_days >= 0),
  grace_hours integer NOT NULL DEFAULT 0 CHECK (grace_hours >= 0),
  tax_rounding text NOT NULL DEFAULT 'line' CHECK (tax_rounding IN ('line', 'invoice')),
  run_approval boolean NOT NULL DEFAULT false, -- whether billing runs are approved before they post
  branding jsonb,
  payment_details jsonb,
  emails jsonb, -- which documents go out by e-mail, and how; null: none
  default_locale text,
  tax_provider jsonb,
  party text NOT NULL,
  clock_at timestamptz,
  created_at timestamptz NOT NULL,
  CHECK ((mode = 'test') = (clock_at IS NOT NULL))
);

CREATE TABLE api_keys (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  name text NOT NULL,
  hash bytea NOT NULL UNIQUE,
  start text NOT NULL,
  scopes text[] NOT NULL CHECK (scopes <@ ARRAY['ingest', 'read', 'billing', 'admin']),
  created_at timestamptz NOT NULL,
  expires_at timestamptz,
  revoked_at timestamptz,
  events_per_second integer CHECK (events_per_second > 0),
  PRIMARY KEY (seller, id)
);

-- What a document prints of a seller or a customer, kept by the hash of its content: documents point here, so a
-- later change of address leaves issued paper as it was.
CREATE TABLE parties (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  body jsonb NOT NULL,
  PRIMARY KEY (seller, id)
);

-- Pictures that parties name, kept by the hash of their content for as long as documents show them.
CREATE TABLE logos (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  content bytea NOT NULL CHECK (octet_length(content) <= 200000),
  PRIMARY KEY (seller, id)
);

CREATE TABLE customers (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  number bigint GENERATED ALWAYS AS IDENTITY,
  key text NOT NULL,
  name text NOT NULL,
  emails jsonb NOT NULL,
  bounced_emails jsonb NOT NULL DEFAULT '{}', -- addresses in lower case, each with the reason
  currency text,
  timezone text,
  country text,
  address jsonb,
  tax_ids jsonb NOT NULL,
  net_terms_days integer CHECK (net_terms_days >= 0),
  po_number text,
  tax_rates text[] NOT NULL DEFAULT '{}',
  tax_exempt text NOT NULL DEFAULT 'none' CHECK (tax_exempt IN ('none', 'exempt', 'reverse')),
  parent text CHECK (parent <> id),
  payer text CHECK (payer <> id), -- the one at the top of its parents; null for a customer that pays for itself
  invoice_group text,
  locale text,
  party text NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  UNIQUE (seller, number),
  CHECK ((parent IS NULL) = (payer IS NULL)),
  FOREIGN KEY (seller, parent) REFERENCES customers (seller, id)
);
CREATE INDEX customers_parent ON customers (seller, parent) WHERE parent IS NOT NULL;
CREATE INDEX customers_payer ON customers (seller, payer) WHERE payer IS NOT NULL;

-- A rate never changes once it is made, but that it can be retired: documents point at it.
CREATE TABLE tax_rates (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  key text NOT NULL,
  name text,
  percentage numeric(15, 12) NOT NULL CHECK (percentage >= 0 AND percentage <= 100),
  inclusive boolean NOT NULL,
  country text NOT NULL,
  region text,
  by_place boolean NOT NULL DEFAULT false,
  archived_at timestamptz,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key)
);

CREATE TABLE customer_balances (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  customer text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
  PRIMARY KEY (seller, customer, currency),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id)
);

CREATE TABLE meters (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  number integer GENERATED ALWAYS AS IDENTITY,
  key text NOT NULL,
  name text,
  event_type text NOT NULL,
  aggregation text NOT NULL,
  value text,
  unique_by text,
  percentile text,
  carry_over boolean NOT NULL DEFAULT false,
  filters jsonb NOT NULL DEFAULT '[]',
  group_by text[] NOT NULL DEFAULT '{}',
  rounding jsonb,
  late_usage text NOT NULL DEFAULT 'adjust' CHECK (late_usage IN ('adjust', 'ignore')),
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  UNIQUE (seller, number)
);

CREATE TABLE plans (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  key text NOT NULL,
  version integer NOT NULL CHECK (version >= 1),
  name text,
  currency text NOT NULL,
  interval jsonb NOT NULL,
  alignment text NOT NULL,
  trial_days integer NOT NULL DEFAULT 0 CHECK (trial_days >= 0),
  entitlements jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key, version)
);

CREATE TABLE prices (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  plan text NOT NULL,
  ordinal integer NOT NULL,
  key text NOT NULL,
  body jsonb NOT NULL,
  subscription text, -- a price of this subscription's own, in the place of the plan's
  PRIMARY KEY (seller, id),
  FOREIGN KEY (seller, plan) REFERENCES plans (seller, id)
);
CREATE UNIQUE INDEX prices_of_plan ON prices (seller, plan, key) WHERE subscription IS NULL;

-- next_due_at, derived_through_at and dirty_from_at are the work list: what falls due next, up to which due
-- instant everything is posted, and from which instant on later facts have touched it again; next_change_at is the
-- first change of the timeline beyond what is posted. quantities and overrides (ids of prices) are those of the start.
CREATE TABLE subscriptions (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  key text NOT NULL,
  customer text NOT NULL,
  plan text NOT NULL,
  currency text NOT NULL,
  timezone text NOT NULL,
  starts_at timestamptz NOT NULL,
  ends_at timestamptz,
  anchor_at timestamptz NOT NULL,
  anchor_day integer CHECK (anchor_day BETWEEN 1 AND 31),
  alignment text NOT NULL,
  cancelled_at timestamptz,
  refund_unused boolean NOT NULL DEFAULT false,
  spend_thresholds bigint[] NOT NULL DEFAULT '{}',
  usage_seen boolean NOT NULL DEFAULT false,
  interim_at timestamptz,
  net_terms_days integer CHECK (net_terms_days >= 0),
  next_due_at timestamptz,
  derived_through_at timestamptz,
  dirty_from_at timestamptz,
  next_change_at timestamptz,
  trial_ends_at timestamptz,
  quantities jsonb NOT NULL DEFAULT '{}',
  overrides jsonb NOT NULL DEFAULT '{}',
  payer text, -- that of its customer, kept here for the work list
  bill_key text COLLATE "C" NOT NULL, -- the key of whom it bills, which never changes: written by a trigger when it is made, checked afterwards
  customer_number bigint NOT NULL, -- that of its customer, as usage knows him, which never changes: likewise
  invoice_group text,
  revision integer NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  CHECK (ends_at IS NULL OR ends_at >= starts_at),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id),
  FOREIGN KEY (seller, plan) REFERENCES plans (seller, id)
) WITH (fillfactor = 50); -- room for the row as a run leaves it, beside the row as it was
CREATE INDEX subscriptions_dirty ON subscriptions (seller, dirty_from_at) WHERE dirty_from_at IS NOT NULL;
CREATE INDEX subscriptions_changing ON subscriptions (seller, next_change_at) WHERE next_change_at IS NOT NULL;
CREATE INDEX subscriptions_spending ON subscriptions (seller, id) WHERE spend_thresholds <> '{}';
CREATE INDEX subscriptions_customer ON subscriptions (seller, customer);
CREATE INDEX subscriptions_payer ON subscriptions (seller, payer) WHERE payer IS NOT NULL;

-- What falls due, and whom it bills: of each subscription its next_due_at, kept by a trigger of subscriptions and written by
-- nobody else. An index there would cost a run an entry in every other index for each row whose instant it moves. Its key, which
-- never changes, is that of bill_to: a run goes through all of them in the order of (next_due_at, key). What usage will be asked
-- for is foreseen from it: that of a customer (by number, none where another pays) since the subscription is derived or starts.
CREATE TABLE due_instants (
  seller integer NOT NULL,
  next_due_at timestamptz NOT NULL,
  subscription text NOT NULL,
  bill_to text NOT NULL,
  key text COLLATE "C" NOT NULL,
  number bigint,
  derived_through_at timestamptz NOT NULL,
  PRIMARY KEY (seller, next_due_at, key, subscription)
);

CREATE TABLE price_intervals (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  subscription text NOT NULL,
  number integer NOT NULL,
  price text NOT NULL,
  quantity numeric(24, 9) NOT NULL CHECK (quantity >= 0 AND quantity <> 'NaN'),
  start_at timestamptz NOT NULL,
  end_at timestamptz,
  end_is_cancellation boolean NOT NULL DEFAULT false,
  credit_unused boolean NOT NULL DEFAULT true,
  agreed_end_at timestamptz,
  closed_at timestamptz,
  start_is_due boolean NOT NULL DEFAULT true,
  anchor_at timestamptz,
  anchor_day integer CHECK (anchor_day BETWEEN 1 AND 31),
  alignment text,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, subscription, number),
  CHECK (end_at IS NULL OR end_at >= start_at),
  CHECK ((anchor_at IS NULL) = (alignment IS NULL)),
  FOREIGN KEY (seller, subscription) REFERENCES subscriptions (seller, id),
  FOREIGN KEY (seller, price) REFERENCES prices (seller, id)
);

CREATE TABLE coupons (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  key text NOT NULL,
  name text,
  percent_off numeric(15, 12) CHECK (percent_off > 0 AND percent_off <= 100),
  amount_off_minor bigint CHECK (amount_off_minor > 0),
  currency text,
  duration text NOT NULL CHECK (duration IN ('once', 'periods', 'forever')),
  periods integer CHECK (periods > 0),
  prices text[] NOT NULL DEFAULT '{}',
  archived_at timestamptz,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  CHECK ((percent_off IS NULL) <> (amount_off_minor IS NULL)),
  CHECK ((amount_off_minor IS NULL) = (currency IS NULL)),
  CHECK ((duration = 'periods') = (periods IS NOT NULL))
);

-- A coupon given to a subscription; `number` is the order in which they were given.
CREATE TABLE coupon_applications (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  coupon text NOT NULL,
  subscription text NOT NULL,
  number integer NOT NULL CHECK (number >= 1),
  applied_at timestamptz NOT NULL,
  removed_at timestamptz,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, subscription, number),
  FOREIGN KEY (seller, coupon) REFERENCES coupons (seller, id),
  FOREIGN KEY (seller, subscription) REFERENCES subscriptions (seller, id)
);

-- What was asked of a subscription after its start, in the order of `number`: the intervals follow from it.
CREATE TABLE subscription_changes (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  subscription text NOT NULL,
  number integer NOT NULL CHECK (number >= 1),
  kind text NOT NULL CHECK (kind IN ('change', 'phase', 'pause', 'resume')),
  effective_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL,
  plan text,
  quantities jsonb NOT NULL DEFAULT '{}',
  overrides jsonb NOT NULL DEFAULT '{}',
  prorate boolean NOT NULL,
  invoice_now boolean NOT NULL,
  undone_at timestamptz,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, subscription, number),
  FOREIGN KEY (seller, subscription) REFERENCES subscriptions (seller, id),
  FOREIGN KEY (seller, plan) REFERENCES plans (seller, id)
);

-- Usage. Identity is (seller, source, id) for ever: a stream is one source with one form of id (a UUID kept as it
-- is, the 128-bit hash of any other text, or that of an id and which amendment of it), so the forms cannot meet. A commit writes one batch with the
-- events as they came, and per meter the measured columns (customer numbers, times, values) as arrays. A batch without a
-- payload has its events, identities and values in ClickHouse; no meter has the number 0, which stands for all there.
CREATE TABLE event_streams (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  stream integer GENERATED ALWAYS AS IDENTITY,
  source text NOT NULL,
  form text NOT NULL CHECK (form IN ('uuid', 'text', 'amendment')),
  PRIMARY KEY (seller, source, form),
  UNIQUE (seller, stream)
);

CREATE TABLE event_keys (
  seller integer NOT NULL DEFAULT current_seller(),
  stream integer NOT NULL,
  key uuid NOT NULL,
  batch bigint NOT NULL,
  ordinal integer NOT NULL,
  PRIMARY KEY (seller, stream, key)
);

CREATE SEQUENCE event_batch_numbers;

CREATE TABLE event_batches (
  seller integer NOT NULL DEFAULT current_seller(),
  batch bigint NOT NULL,
  received_at timestamptz NOT NULL,
  events integer NOT NULL CHECK (events > 0),
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  meters integer[] NOT NULL,
  payload bytea,
  ends bytea,
  PRIMARY KEY (seller, batch),
  CHECK ((payload IS NULL) = (ends IS NULL)),
  CHECK ((payload IS NULL) = (meters = ARRAY[0]))
);
-- Not compressed, so that a slice is read without the rest: `ends` says where in the payload each event ends.
ALTER TABLE event_batches ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE event_batches ALTER COLUMN ends SET STORAGE EXTERNAL;

CREATE TABLE event_measures (
  seller integer NOT NULL DEFAULT current_seller(),
  meter integer NOT NULL,
  batch bigint NOT NULL,
  events integer NOT NULL CHECK (events > 0),
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  digits smallint NOT NULL,
  wide boolean NOT NULL,
  customers bytea NOT NULL,
  times bytea NOT NULL,
  quantities bytea NOT NULL,
  unknown bytea NOT NULL,
  groups bytea NOT NULL DEFAULT '',
  codes bytea NOT NULL DEFAULT '',
  PRIMARY KEY (seller, meter, batch)
);
ALTER TABLE event_measures ALTER COLUMN customers SET STORAGE EXTERNAL;
ALTER TABLE event_measures ALTER COLUMN times SET STORAGE EXTERNAL;
ALTER TABLE event_measures ALTER COLUMN quantities SET STORAGE EXTERNAL;
ALTER TABLE event_measures ALTER COLUMN codes SET STORAGE EXTERNAL;

-- Which sets of meters batches were measured for: few, so that the batches which lack a meter are found at once.
CREATE INDEX event_batches_meters ON event_batches (seller, meters);

-- Measured columns of many batches, folded together: entries in the order of customer and time, each with its batch and
-- its position in the columns of that. A batch's rows leave event_measures in the transaction that writes them here.
CREATE TABLE event_chunks (
  seller integer NOT NULL DEFAULT current_seller(),
  chunk bigint GENERATED ALWAYS AS IDENTITY,
  meter integer NOT NULL,
  level smallint NOT NULL CHECK (level > 0),
  backfill text NOT NULL,
  month integer NOT NULL,
  events integer NOT NULL CHECK (events > 0),
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  first_customer bigint NOT NULL,
  last_customer bigint NOT NULL,
  low_micros bigint NOT NULL,
  high_micros bigint NOT NULL,
  digits smallint NOT NULL,
  wide boolean NOT NULL,
  customers bytea NOT NULL,
  times bytea NOT NULL,
  batches bytea NOT NULL,
  positions bytea NOT NULL,
  quantities bytea NOT NULL,
  unknown bytea NOT NULL,
  groups bytea NOT NULL,
  codes bytea NOT NULL,
  received bytea NOT NULL,
  PRIMARY KEY (seller, chunk)
);
CREATE INDEX event_chunks_customers ON event_chunks (seller, meter, last_customer, first_customer, first_at, last_at);
ALTER TABLE event_chunks ALTER COLUMN customers SET STORAGE EXTERNAL;
ALTER TABLE event_chunks ALTER COLUMN times SET STORAGE EXTERNAL;
ALTER TABLE event_chunks ALTER COLUMN batches SET STORAGE EXTERNAL;
ALTER TABLE event_chunks ALTER COLUMN positions SET STORAGE EXTERNAL;
ALTER TABLE event_chunks ALTER COLUMN quantities SET STORAGE EXTERNAL;
ALTER TABLE event_chunks ALTER COLUMN codes SET STORAGE EXTERNAL;
ALTER TABLE event_chunks ALTER COLUMN received SET STORAGE EXTERNAL;

-- Events that were taken back, and by which batch of one event an amendment replaced them. What is stored of an event
-- stays as it came: measuring leaves out the positions that a void names in the measured columns.
CREATE TABLE event_voids (
  seller integer NOT NULL DEFAULT current_seller(),
  batch bigint NOT NULL,
  ordinal integer NOT NULL CHECK (ordinal >= 0),
  voided_at timestamptz NOT NULL,
  replacement bigint,
  PRIMARY KEY (seller, batch, ordinal)
);

CREATE TABLE event_void_positions (
  seller integer NOT NULL DEFAULT current_seller(),
  meter integer NOT NULL,
  batch bigint NOT NULL,
  ordinal integer NOT NULL,
  position integer NOT NULL CHECK (position >= 0),
  PRIMARY KEY (seller, meter, batch, position)
);

-- Usage from outside the window of acceptance comes in named backfills. A batch of one counts while it is closed: not
-- before, and no longer once it is reversed.
CREATE TABLE backfills (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  key text NOT NULL,
  status text NOT NULL CHECK (status IN ('open', 'closed', 'reversed')),
  created_at timestamptz NOT NULL,
  closed_at timestamptz,
  reversed_at timestamptz,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  CHECK ((status = 'reversed') = (reversed_at IS NOT NULL)),
  CHECK (status <> 'closed' OR closed_at IS NOT NULL)
);

CREATE TABLE backfill_batches (
  seller integer NOT NULL DEFAULT current_seller(),
  batch bigint NOT NULL,
  backfill text NOT NULL,
  PRIMARY KEY (seller, batch),
  FOREIGN KEY (seller, backfill) REFERENCES backfills (seller, id)
);
CREATE INDEX backfill_batches_backfill ON backfill_batches (seller, backfill);

-- Batches that no billing run has looked at for late usage yet: a set, not a watermark, because commits do not
-- become visible in the order of their numbers. Batches folded together leave one row with their customers and the
-- earliest time of each. `again` says that a batch's usage was corrected, whether it was looked at before or not.
CREATE TABLE event_inbox (
  seller integer NOT NULL DEFAULT current_seller(),
  batch bigint NOT NULL,
  again boolean NOT NULL DEFAULT false,
  customers bytea,
  times bytea,
  PRIMARY KEY (seller, batch)
);

-- What a seller wants to be told of: that a customer's usage of a meter came to a threshold inside a window. since_at is
-- when what is watched for was last changed: windows that ended before are not looked at.
CREATE TABLE usage_alerts (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  key text NOT NULL,
  customer text, -- null for every customer
  meter text NOT NULL,
  group_values jsonb NOT NULL DEFAULT '{}',
  thresholds text[] NOT NULL DEFAULT '{}',
  percents text[] NOT NULL DEFAULT '{}',
  time_window text NOT NULL CHECK (time_window IN ('billing_period', 'month', 'day')),
  since_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id),
  FOREIGN KEY (seller, meter) REFERENCES meters (seller, id)
);

-- Customers with usage that alerts were not compared with yet, from the earliest event on. `marks` counts how often a
-- sweep came by, so that a comparison takes away no mark but the one it saw.
CREATE TABLE usage_alert_marks (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  customer text NOT NULL,
  first_at timestamptz NOT NULL,
  marks bigint NOT NULL DEFAULT 1,
  PRIMARY KEY (seller, customer),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id)
);

-- What alerts told, for good: a threshold once for each customer and window, whoever looks and how often. The alert
-- itself may be gone.
CREATE TABLE usage_alert_triggers (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  alert text NOT NULL,
  alert_key text NOT NULL,
  customer text NOT NULL,
  meter text NOT NULL,
  group_values jsonb NOT NULL,
  threshold text NOT NULL,
  percent text,
  quantity text NOT NULL,
  window_start_at timestamptz NOT NULL,
  window_end_at timestamptz NOT NULL,
  triggered_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id),
  FOREIGN KEY (seller, meter) REFERENCES meters (seller, id)
);
CREATE UNIQUE INDEX usage_alert_triggers_once ON usage_alert_triggers
  (seller, alert, customer, window_start_at, coalesce(percent || '%', threshold));

-- What came through a stream and was refused as a whole or in part, as it came: nobody waits for an answer there.
-- `waiting` is one that could not be stored so far and is tried again, `stored` what became of it at last.
CREATE TABLE intake_errors (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  status text NOT NULL CHECK (status IN ('refused', 'waiting', 'stored')),
  stream text NOT NULL,
  sequence bigint NOT NULL,
  received_at timestamptz NOT NULL,
  refused_at timestamptz NOT NULL,
  code text NOT NULL,
  detail text NOT NULL,
  rejected bytea NOT NULL,
  content_type text NOT NULL,
  content_encoding text NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (seller, id)
);

-- A commit of usage in one round trip. Names the seller first, unless that was done; a key that is taken fails it all.
CREATE FUNCTION write_events(
  seller integer, streams integer[], keys uuid[], ordinals integer[],
  batch bigint, received_at timestamptz, events integer, first_at timestamptz, last_at timestamptz, meters integer[],
  payload bytea, ends bytea, measured integer[], counts integer[], firsts timestamptz[], lasts timestamptz[],
  digits smallint[], wide boolean[], customers bytea[], times bytea[], quantities bytea[], unknown bytea[],
  groups bytea[], codes bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF $1 IS NOT NULL THEN
    PERFORM set_config('app.seller', $1::text, true);
  END IF;
  IF cardinality($2) > 0 THEN
    INSERT INTO event_keys (stream, key, batch, ordinal) SELECT u.s, u.k, $5, u.o FROM unnest($2, $3, $4) AS u (s, k, o);
  END IF;
  INSERT INTO event_batches (batch, received_at, events, first_at, last_at, meters, payload, ends)
    VALUES ($5, $6, $7, $8, $9, $10, $11, $12);
  IF cardinality($13) > 0 THEN
    INSERT INTO event_measures (batch, meter, events, first_at, last_at, digits, wide, customers, times, quantities,
        unknown, groups, codes)
      SELECT $5, u.* FROM unnest($13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24) AS u;
  END IF;
  INSERT INTO event_inbox (batch) VALUES ($5);
END $$;

CREATE TABLE number_series (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  series text NOT NULL,
  next_sequence integer NOT NULL DEFAULT 1 CHECK (next_sequence >= 1),
  last_issued_at timestamptz,
  PRIMARY KEY (seller, series)
);

-- The lock that makes posting serial per seller, and how often the inbox was swept: a run that measured before
-- another one swept measures again.
CREATE TABLE billing_state (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  sweeps bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (seller)
);

CREATE TABLE billing_runs (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  as_of timestamptz NOT NULL,
  customers text[], -- those it is limited to; null for all
  pending boolean NOT NULL DEFAULT false, -- whether differences are posted besides what is due
  retrying text[], -- parked accounts that are tried again; null when none are
  approve boolean DEFAULT false, -- whether it posts nothing but what was approved; null: the seller says when it begins
  proposals integer NOT NULL DEFAULT 0, -- how often it was told to await approval
  background boolean NOT NULL DEFAULT false, -- whether nobody waits for it: a worker takes it up
  status text NOT NULL CHECK (status IN ('queued', 'running', 'paused', 'reviewing', 'awaiting_approval', 'finished', 'cancelled')),
  started_at timestamptz NOT NULL,
  approved_at timestamptz,
  finished_at timestamptz,
  documents integer NOT NULL DEFAULT 0,
  lines integer NOT NULL DEFAULT 0,
  customers_done integer NOT NULL DEFAULT 0,
  customers_total integer, -- null until they were counted
  worked_micros bigint NOT NULL DEFAULT 0, -- without pauses; like progress_at by the clock on the wall
  progress_at timestamptz,
  failures integer NOT NULL DEFAULT 0, -- of a worker in a row, since it last got on; by the clock on the wall
  failure_code text, -- of the last one
  failure_detail text,
  failed_at timestamptz,
  tried_again_at timestamptz, -- no worker tries it before
  PRIMARY KEY (seller, id),
  CHECK (approve IS NOT NULL OR status IN ('queued', 'cancelled'))
);
CREATE UNIQUE INDEX billing_runs_running ON billing_runs (seller, as_of) WHERE status = 'running';
CREATE INDEX billing_runs_open ON billing_runs (seller) WHERE status IN ('queued', 'running', 'paused', 'reviewing', 'awaiting_approval');
CREATE INDEX billing_runs_background ON billing_runs (seller) WHERE background AND status IN ('queued', 'running', 'reviewing');

CREATE TABLE parked_accounts (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  run text NOT NULL,
  customer text NOT NULL,
  billed_at timestamptz NOT NULL,
  code text NOT NULL,
  detail text NOT NULL,
  parked_at timestamptz NOT NULL,
  PRIMARY KEY (seller, run, customer),
  FOREIGN KEY (seller, run) REFERENCES billing_runs (seller, id)
);

-- Why customers of a run were billed one by one that might have been billed together.
CREATE TABLE run_fallbacks (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  run text NOT NULL,
  reason text NOT NULL,
  detail text NOT NULL, -- of the last one
  times integer NOT NULL,
  customers bigint NOT NULL,
  PRIMARY KEY (seller, run, reason),
  FOREIGN KEY (seller, run) REFERENCES billing_runs (seller, id)
);

-- What a run that waits for approval would post for each customer, beside what was billed before.
CREATE TABLE run_report_rows (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  run text NOT NULL,
  customer text NOT NULL,
  currency text NOT NULL,
  invoices integer NOT NULL DEFAULT 0,
  zero_invoices integer NOT NULL DEFAULT 0,
  credit_notes integer NOT NULL DEFAULT 0,
  lines integer NOT NULL DEFAULT 0,
  invoiced_minor bigint NOT NULL DEFAULT 0,
  credited_minor bigint NOT NULL DEFAULT 0,
  tax_minor bigint NOT NULL DEFAULT 0,
  previous_minor bigint NOT NULL DEFAULT 0, -- of the latest instant billed before
  mean_minor bigint NOT NULL DEFAULT 0, -- of the latest twelve
  periods integer NOT NULL DEFAULT 0, -- how many there were, of twelve
  was_minor bigint, -- what was approved, where facts changed since
  PRIMARY KEY (seller, run, customer, currency),
  FOREIGN KEY (seller, run) REFERENCES billing_runs (seller, id)
);

-- The documents in it, each with a hash of its content: nothing else is posted by the run.
CREATE TABLE run_report_documents (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  run text NOT NULL,
  document text NOT NULL,
  customer text NOT NULL,
  digest bytea NOT NULL,
  PRIMARY KEY (seller, run, document),
  FOREIGN KEY (seller, run) REFERENCES billing_runs (seller, id)
);

-- Lines written by hand for a customer's next document from an instant on; `document` is the one that has it,
-- `adjusts` says which of its lines is brought to another amount.
CREATE TABLE draft_edits (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  number bigint GENERATED ALWAYS AS IDENTITY,
  customer text NOT NULL,
  billed_at timestamptz NOT NULL,
  currency text NOT NULL,
  invoice_group text NOT NULL,
  key text NOT NULL,
  name text,
  amount_minor bigint NOT NULL,
  quantity numeric(24, 9) CHECK (quantity <> 'NaN'),
  unit_amount text,
  tax_rates text[] NOT NULL DEFAULT '{}',
  adjusts text,
  document text,
  PRIMARY KEY (seller, id),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id)
);
CREATE INDEX draft_edits_waiting ON draft_edits (seller, customer) WHERE document IS NULL;

-- Who did what by hand, and why.
CREATE TABLE audit_log (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  at timestamptz NOT NULL,
  actor text NOT NULL,
  action text NOT NULL,
  object text NOT NULL,
  reason text,
  detail jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (seller, id)
);
CREATE INDEX audit_log_object ON audit_log (seller, object, id);

-- Documents and their lines are bulk tables: references among them are checked per chunk and by the audit, not by
-- foreign keys, which cost more than the rows themselves. A document is found by its number as by series and sequence.
CREATE TABLE invoices (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  series text NOT NULL,
  sequence integer NOT NULL,
  number text NOT NULL,
  customer text NOT NULL,
  currency text NOT NULL,
  status text NOT NULL CHECK (status IN ('open', 'paid', 'uncollectible', 'void')),
  billed_at timestamptz NOT NULL,
  issued_at timestamptz NOT NULL,
  due_at timestamptz NOT NULL,
  invoice_group text NOT NULL DEFAULT '',
  subtotal_minor bigint NOT NULL,
  discount_minor bigint NOT NULL DEFAULT 0,
  promotional_minor bigint NOT NULL DEFAULT 0,
  tax_minor bigint NOT NULL DEFAULT 0,
  total_minor bigint NOT NULL CHECK (total_minor >= 0),
  prepaid_applied_minor bigint NOT NULL DEFAULT 0 CHECK (prepaid_applied_minor >= 0),
  balance_applied_minor bigint NOT NULL CHECK (balance_applied_minor >= 0),
  balance_returned_minor bigint NOT NULL DEFAULT 0, -- what a returned payment took back of it
  amount_due_minor bigint NOT NULL CHECK (amount_due_minor >= 0),
  billed_from text NOT NULL,
  billed_to text NOT NULL,
  po_number text,
  run text NOT NULL,
  paid_at timestamptz,
  voided_at timestamptz,
  written_off_at timestamptz,
  version integer NOT NULL DEFAULT 1,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, series, sequence),
  CHECK (amount_due_minor <= total_minor - prepaid_applied_minor - balance_applied_minor + balance_returned_minor),
  CHECK ((status = 'paid') = (paid_at IS NOT NULL)),
  CHECK (status <> 'paid' OR amount_due_minor = 0),
  CHECK ((status = 'void') = (voided_at IS NOT NULL)),
  CONSTRAINT invoices_balance_returned CHECK (balance_returned_minor BETWEEN 0 AND balance_applied_minor)
);
-- The entry of an invoice that may still be cancelled: it is made at the first of a payment, a credit and `enter_by_at`. Until
-- then nothing is receivable. `ended_at` is when it was entered, or when the invoice was void before.
CREATE TABLE held_entries (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  invoice text NOT NULL,
  enter_by_at timestamptz NOT NULL,
  postings jsonb NOT NULL,
  ended_at timestamptz,
  is_entered boolean NOT NULL DEFAULT false,
  PRIMARY KEY (seller, invoice),
  CHECK (NOT is_entered OR ended_at IS NOT NULL)
);
CREATE INDEX held_entries_due ON held_entries (seller, enter_by_at) WHERE ended_at IS NULL;

CREATE INDEX invoices_issued ON invoices (seller, issued_at, series, sequence);
CREATE INDEX invoices_customer ON invoices (seller, customer, billed_at);

CREATE TABLE credit_notes (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  series text NOT NULL,
  sequence integer NOT NULL,
  number text NOT NULL,
  customer text NOT NULL,
  currency text NOT NULL,
  status text NOT NULL CHECK (status IN ('issued', 'void')),
  reason text NOT NULL,
  invoice text, -- the one that a note by hand names; null for what billing gave back
  billed_at timestamptz NOT NULL,
  issued_at timestamptz NOT NULL,
  subtotal_minor bigint NOT NULL,
  discount_minor bigint NOT NULL DEFAULT 0,
  promotional_minor bigint NOT NULL DEFAULT 0,
  tax_minor bigint NOT NULL DEFAULT 0,
  total_minor bigint NOT NULL CHECK (total_minor > 0),
  applied_minor bigint NOT NULL CHECK (applied_minor >= 0),
  credited_minor bigint NOT NULL CHECK (credited_minor >= 0),
  refunded_minor bigint NOT NULL DEFAULT 0 CHECK (refunded_minor >= 0),
  billed_from text NOT NULL,
  billed_to text NOT NULL,
  po_number text,
  run text NOT NULL,
  voided_at timestamptz,
  version integer NOT NULL DEFAULT 1,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, series, sequence),
  CHECK (applied_minor + credited_minor + refunded_minor = total_minor),
  CHECK ((status = 'void') = (voided_at IS NOT NULL)),
  CHECK (invoice IS NULL OR reason IN (
    'billing_error', 'price_concession', 'goodwill', 'unused_service', 'cancellation', 'service_credit'))
);
CREATE INDEX credit_notes_issued ON credit_notes (seller, issued_at, series, sequence);
CREATE INDEX credit_notes_customer ON credit_notes (seller, customer, billed_at);
CREATE INDEX credit_notes_invoice ON credit_notes (seller, invoice) WHERE invoice IS NOT NULL;

-- amount_minor is what the charge adds (negative: what it gives back), on invoices and credit notes alike; discount,
-- promotional credit and tax stand beside it with the same sign. tax_included_minor is the part of tax_minor that
-- amount_minor holds already. A line written by hand has no charge key; one that credits another line names it in `adjusts`,
-- and its subscription.
CREATE TABLE line_items (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  document text NOT NULL,
  ordinal integer NOT NULL,
  subscription text,
  price_interval text,
  price_key text NOT NULL,
  contract text NOT NULL DEFAULT '',
  name text,
  customer text, -- whom a line by hand is about, where another customer pays for it
  unit_amount text,
  revenue jsonb,
  charge_start_at timestamptz,
  charge_group text NOT NULL DEFAULT '',
  sequence integer NOT NULL,
  period_start_at timestamptz,
  period_end_at timestamptz,
  quantity numeric(24, 9) CHECK (quantity <> 'NaN'),
  amount_minor bigint NOT NULL,
  discount_minor bigint NOT NULL DEFAULT 0,
  promotional_minor bigint NOT NULL DEFAULT 0,
  tax_minor bigint NOT NULL DEFAULT 0,
  tax_included_minor bigint NOT NULL DEFAULT 0,
  reason text NOT NULL CHECK (
    reason IN ('initial', 'proration', 'late_usage', 'correction', 'backdated', 'true_up')),
  adjusts text,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, document, ordinal),
  UNIQUE (seller, price_interval, charge_start_at, charge_group, sequence),
  CHECK (price_interval IS NULL OR subscription IS NOT NULL),
  CHECK (subscription IS NULL OR price_interval IS NOT NULL OR adjusts IS NOT NULL),
  CHECK (price_interval IS NOT NULL OR adjusts IS NULL OR amount_minor < 0),
  CHECK ((price_interval IS NULL) = (charge_start_at IS NULL)),
  CHECK ((period_start_at IS NULL) = (period_end_at IS NULL)),
  CHECK (price_interval IS NULL OR period_start_at IS NOT NULL),
  CHECK (price_interval IS NULL OR (sequence = 1) = (adjusts IS NULL))
);

CREATE INDEX line_items_credited ON line_items (seller, adjusts) WHERE price_interval IS NULL AND adjusts IS NOT NULL;

-- What each tax, applied coupon and credit grant does to a line, in the line's own sign.
-- What an outside tax engine answered, kept for good under the hash of what it was asked: a document that is made
-- again finds the answer that it was made with.
CREATE TABLE tax_answers (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  question_hash text NOT NULL CHECK (question_hash ~ '^[0-9a-f]{64}$'),
  url text NOT NULL,
  question jsonb NOT NULL,
  answer jsonb NOT NULL,
  answered_at timestamptz NOT NULL,
  PRIMARY KEY (seller, question_hash)
);

CREATE TABLE line_taxes (
  seller integer NOT NULL DEFAULT current_seller(),
  document text NOT NULL,
  line text NOT NULL,
  ordinal integer NOT NULL,
  rate text NOT NULL,
  percentage numeric(15, 12) NOT NULL CHECK (percentage >= 0),
  included boolean NOT NULL,
  jurisdiction text NOT NULL,
  category text NOT NULL CHECK (category IN ('standard', 'zero', 'exempt', 'reverse_charge')),
  taxable_minor bigint NOT NULL,
  amount_minor bigint NOT NULL,
  PRIMARY KEY (seller, document, line, ordinal)
);
CREATE INDEX line_taxes_line ON line_taxes (seller, line);

CREATE TABLE line_discounts (
  seller integer NOT NULL DEFAULT current_seller(),
  document text NOT NULL,
  line text NOT NULL,
  application text NOT NULL,
  amount_minor bigint NOT NULL,
  PRIMARY KEY (seller, document, line, application)
);
CREATE INDEX line_discounts_line ON line_discounts (seller, line);
CREATE INDEX line_discounts_application ON line_discounts (seller, application);

CREATE TABLE credit_draws (
  seller integer NOT NULL DEFAULT current_seller(),
  document text NOT NULL,
  line text NOT NULL,
  credit_grant text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('promotional', 'prepaid')),
  amount_minor bigint NOT NULL,
  PRIMARY KEY (seller, document, line, credit_grant)
);
CREATE INDEX credit_draws_line ON credit_draws (seller, line);
CREATE INDEX credit_draws_grant ON credit_draws (seller, credit_grant);

-- What a customer may use up instead of paying: given (promotional) or bought (prepaid). `prices` and `meters` limit
-- what it pays. `rolled_from`, `renews` and `tops_up` name the grant that it follows; one that rolled over keeps the age of
-- its source. A bought one that is available on payment waits until its invoice is paid.
CREATE TABLE credit_grants (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  number bigint GENERATED ALWAYS AS IDENTITY,
  key text NOT NULL,
  customer text NOT NULL,
  currency text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('promotional', 'prepaid')),
  amount_minor bigint NOT NULL CHECK (amount_minor > 0),
  priority integer NOT NULL CHECK (priority BETWEEN 0 AND 100),
  effective_at timestamptz NOT NULL,
  expires_at timestamptz CHECK (expires_at > effective_at),
  prices text[] NOT NULL DEFAULT '{}',
  meters text[] NOT NULL DEFAULT '{}',
  rollover_fraction numeric(13, 12) NOT NULL DEFAULT 0 CHECK (rollover_fraction BETWEEN 0 AND 1),
  recurring jsonb,
  recurs_from timestamptz,
  recurs_until timestamptz,
  top_up jsonb,
  purchase_minor bigint CHECK (purchase_minor >= 0),
  purchase_invoice text,
  available text CHECK (available IN ('on_issue', 'on_payment')),
  rolled_from text,
  renews text,
  tops_up text,
  aged_at timestamptz NOT NULL,
  ended_at timestamptz,
  ended_by text CHECK (ended_by IN ('expired', 'voided')),
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, key),
  UNIQUE (seller, number),
  CHECK ((ended_at IS NULL) = (ended_by IS NULL)),
  CHECK ((recurring IS NULL) = (recurs_from IS NULL)),
  CHECK ((purchase_minor IS NULL) = (available IS NULL)),
  CHECK ((purchase_minor IS NULL) = (purchase_invoice IS NULL)),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id)
);
CREATE INDEX credit_grants_customer ON credit_grants (seller, customer);
CREATE INDEX credit_grants_end ON credit_grants (seller, expires_at) WHERE ended_at IS NULL;
CREATE INDEX credit_grants_purchase ON credit_grants (seller, purchase_invoice) WHERE purchase_invoice IS NOT NULL;

-- What left a grant without being used; below zero what came back of it, when an invoice that gave credit back was void.
CREATE TABLE credit_moves (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  credit_grant text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('expired', 'voided', 'rolled_over')),
  amount_minor bigint NOT NULL CHECK (amount_minor > 0 OR amount_minor < 0 AND kind = 'expired'),
  moved_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  FOREIGN KEY (seller, credit_grant) REFERENCES credit_grants (seller, id)
);
CREATE INDEX credit_moves_grant ON credit_moves (seller, credit_grant);

-- What a grant that ended still pays: of a charge whose usage came before its end.
CREATE TABLE credit_reservations (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  credit_grant text NOT NULL,
  price_interval text NOT NULL,
  charge_start_at timestamptz NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0),
  PRIMARY KEY (seller, credit_grant, price_interval, charge_start_at),
  FOREIGN KEY (seller, credit_grant) REFERENCES credit_grants (seller, id)
);

CREATE VIEW credit_grant_sums WITH (security_invoker = true) AS
SELECT g.seller, g.id, d.drawn_minor, m.expired_minor, m.voided_minor, m.rolled_over_minor,
  g.amount_minor - d.drawn_minor - m.expired_minor - m.voided_minor - m.rolled_over_minor AS left_minor,
  g.ended_at IS NULL AND coalesce(g.available, '') = 'on_payment' AND NOT EXISTS (
    SELECT FROM invoices p WHERE p.seller = g.seller AND p.id = g.purchase_invoice AND p.status = 'paid') AS is_pending
FROM credit_grants g CROSS JOIN LATERAL (
  SELECT coalesce(sum(w.amount_minor), 0)::bigint AS drawn_minor FROM credit_draws w
    LEFT JOIN invoices i ON i.seller = w.seller AND i.id = w.document
    LEFT JOIN credit_notes n ON n.seller = w.seller AND n.id = w.document
  WHERE w.seller = g.seller AND w.credit_grant = g.id AND coalesce(i.status, n.status) <> 'void'
) d CROSS JOIN LATERAL (
  SELECT coalesce(sum(amount_minor) FILTER (WHERE kind = 'expired'), 0)::bigint AS expired_minor,
    coalesce(sum(amount_minor) FILTER (WHERE kind = 'voided'), 0)::bigint AS voided_minor,
    coalesce(sum(amount_minor) FILTER (WHERE kind = 'rolled_over'), 0)::bigint AS rolled_over_minor
  FROM credit_moves v WHERE v.seller = g.seller AND v.credit_grant = g.id) m;

-- What is left of each reservation; nothing once the charge is billed.
CREATE VIEW credit_reservation_sums WITH (security_invoker = true) AS
SELECT r.seller, r.credit_grant, r.price_interval, r.charge_start_at, r.amount_minor AS left_minor
FROM credit_reservations r JOIN credit_grants g ON g.seller = r.seller AND g.id = r.credit_grant
WHERE NOT EXISTS (
  SELECT FROM line_items l LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
    LEFT JOIN credit_notes n ON n.seller = l.seller AND n.id = l.document
  WHERE l.seller = r.seller AND l.price_interval = r.price_interval AND l.charge_start_at = r.charge_start_at
    AND coalesce(i.status, n.status) <> 'void' AND coalesce(i.issued_at, n.issued_at) > g.ended_at);

-- Money that came in: what settled invoices of it is in settlements, credited_minor went to the customer's balance,
-- unapplied_minor waits for somebody to match it, refunded_minor was given back. Of a returned one nothing is left.
CREATE TABLE payments (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  customer text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0),
  method text NOT NULL CHECK (method IN ('manual', 'bank')),
  reference text,
  status text NOT NULL CHECK (status IN ('succeeded', 'returned')),
  credited_minor bigint NOT NULL DEFAULT 0 CHECK (credited_minor >= 0),
  unapplied_minor bigint NOT NULL DEFAULT 0 CHECK (unapplied_minor >= 0),
  refunded_minor bigint NOT NULL DEFAULT 0 CHECK (refunded_minor >= 0),
  received_at timestamptz NOT NULL,
  returned_at timestamptz,
  return_code text,
  version integer NOT NULL DEFAULT 1,
  PRIMARY KEY (seller, id),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id),
  CHECK (credited_minor + unapplied_minor + refunded_minor <= amount_minor),
  CHECK ((status = 'returned') = (returned_at IS NOT NULL)),
  CHECK (status <> 'returned' OR credited_minor + unapplied_minor + refunded_minor = 0),
  CHECK (status = 'returned' OR return_code IS NULL)
);
CREATE INDEX payments_received ON payments (seller, received_at, id);
CREATE INDEX payments_customer ON payments (seller, customer, received_at);

-- Money that is owed back: decided when it is pending, gone when it succeeded.
CREATE TABLE refunds (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  customer text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0),
  source text NOT NULL CHECK (source IN ('credit_note', 'customer_balance', 'payment')),
  credit_note text,
  payment text,
  reference text,
  status text NOT NULL CHECK (status IN ('pending', 'succeeded', 'void')),
  created_at timestamptz NOT NULL,
  confirmed_at timestamptz,
  version integer NOT NULL DEFAULT 1,
  PRIMARY KEY (seller, id),
  CHECK ((source = 'credit_note') = (credit_note IS NOT NULL)),
  CHECK ((source = 'payment') = (payment IS NOT NULL)),
  CHECK ((status = 'succeeded') = (confirmed_at IS NOT NULL))
);
CREATE INDEX refunds_created ON refunds (seller, created_at, id);
CREATE INDEX refunds_customer ON refunds (seller, customer, created_at);
CREATE INDEX refunds_payment ON refunds (seller, payment) WHERE payment IS NOT NULL;
CREATE INDEX refunds_credit_note ON refunds (seller, credit_note) WHERE credit_note IS NOT NULL;

-- What settled an invoice so far: a payment, a credit note, prepaid credit or the customer's balance; below zero what
-- was taken back of it.
CREATE TABLE settlements (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  invoice text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('credit_note', 'customer_balance', 'prepaid', 'payment')),
  credit_note text,
  payment text,
  amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
  settled_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  CHECK ((kind = 'credit_note') = (credit_note IS NOT NULL)),
  CHECK ((kind = 'payment') = (payment IS NOT NULL))
);
CREATE INDEX settlements_invoice ON settlements (seller, invoice);
CREATE INDEX settlements_payment ON settlements (seller, payment) WHERE payment IS NOT NULL;

CREATE TABLE accounts (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  code text NOT NULL,
  type text NOT NULL,
  normal_side text NOT NULL CHECK (normal_side IN ('debit', 'credit')),
  PRIMARY KEY (seller, code)
);

CREATE TABLE journal_entries (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  kind text NOT NULL,
  source text NOT NULL,
  entry_on date NOT NULL,
  accounting_month date NOT NULL CHECK (extract(day FROM accounting_month) = 1),
  posted_at timestamptz NOT NULL,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, source, kind)
);

-- amount_minor is positive for a debit and negative for a credit.
CREATE TABLE postings (
  seller integer NOT NULL DEFAULT current_seller(),
  entry text NOT NULL,
  ordinal integer NOT NULL,
  account text NOT NULL,
  dimension text NOT NULL DEFAULT '',
  customer text NOT NULL,
  contract text NOT NULL DEFAULT '',
  document text NOT NULL,
  line text NOT NULL DEFAULT '',
  currency text NOT NULL,
  amount_minor bigint NOT NULL,
  PRIMARY KEY (seller, entry, ordinal)
);
-- What entries other than a document's own, which has its id, post of it: a payment's, a write-off's, a void's.
CREATE INDEX postings_elsewhere ON postings (seller, document) WHERE entry <> 'je_' || substr(document, 5);
-- A customer's account, but for what an invoice's own entry posts: that is found by the invoice.
CREATE INDEX postings_account ON postings (seller, customer)
  WHERE account IN ('accounts_receivable', 'customer_balance', 'unapplied_cash')
    AND (entry <> 'je_' || substr(document, 5) OR document NOT LIKE 'inv\_%');

-- What the outside world hears. `position` is the order in which it is read: numbers are given under a lock of the seller that
-- ends with the transaction (trigger in_turn), so whoever saw one number will never see a lower one appear.
CREATE TABLE outbox (
  seller integer NOT NULL DEFAULT current_seller(),
  id text NOT NULL,
  type text NOT NULL,
  object text NOT NULL,
  version integer NOT NULL,
  occurred_at timestamptz NOT NULL,
  position bigint GENERATED ALWAYS AS IDENTITY,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, object, version)
);
CREATE INDEX outbox_in_order ON outbox (seller, position);

-- Receipts are found by the events of money that came in.
CREATE INDEX outbox_payments ON outbox (seller, occurred_at)
  WHERE type IN ('payment.received', 'payment.succeeded');

-- What customers are told by e-mail. An automatic mail has its document for a cause, one asked for by hand itself; each
-- recipient has an address, a status and the last reply. next_attempt_at is wall time, null: at once.
CREATE TABLE emails (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  id text NOT NULL,
  number bigint GENERATED ALWAYS AS IDENTITY,
  kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note', 'receipt')),
  customer text NOT NULL,
  document text NOT NULL,
  cause text NOT NULL,
  locale text NOT NULL,
  subject text NOT NULL,
  recipients jsonb NOT NULL,
  status text NOT NULL CHECK (status IN ('queued', 'sent', 'failed', 'bounced', 'held')),
  reason text,
  error text,
  attempts integer NOT NULL DEFAULT 0,
  next_attempt_at timestamptz,
  message_id text,
  created_at timestamptz NOT NULL,
  sent_at timestamptz,
  PRIMARY KEY (seller, id),
  UNIQUE (seller, kind, cause),
  UNIQUE (seller, number),
  CHECK ((status = 'held') <= (reason IS NOT NULL)),
  FOREIGN KEY (seller, customer) REFERENCES customers (seller, id)
);
CREATE INDEX emails_queued ON emails (seller, next_attempt_at) WHERE status = 'queued';
CREATE INDEX emails_document ON emails (seller, document);

-- Up to which number of a series, or since when payments, customers were told.
CREATE TABLE email_positions (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  source text NOT NULL,
  position integer NOT NULL DEFAULT 0,
  since_at timestamptz,
  PRIMARY KEY (seller, source)
);

-- The seller's own words for a kind of mail in a language.
CREATE TABLE email_templates (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note', 'receipt')),
  locale text NOT NULL,
  subject text NOT NULL,
  text text NOT NULL,
  html text,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (seller, kind, locale)
);

CREATE TABLE idempotency_keys (
  seller integer NOT NULL DEFAULT current_seller() REFERENCES sellers,
  key text NOT NULL,
  request_hash bytea NOT NULL,
  object text, -- what a request with transactions of its own has begun; a repetition goes on with it
  status integer, -- null until it is answered
  media_type text,
  body bytea,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (seller, key),
  CHECK ((status IS NULL) = (body IS NULL) AND (status IS NULL) = (media_type IS NULL))
);
