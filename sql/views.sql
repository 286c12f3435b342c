-- What a DBA reads. Views run with their owner's rights, so an auditor needs no access to the tables.

-- Who holds a lock of the ownership protocol, by its tag as pg_locks shows it: sessions other than this one, and prepared
-- transactions, which have no pid. Writers share the lock; cutovers and freezes don't.
CREATE FUNCTION holdfast.lock_holders(class_id bigint, object_id bigint, object_sub_id integer)
RETURNS TABLE (pid integer, virtual_transaction text, writes boolean, idle boolean, began timestamptz, description text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH holder AS (
        SELECT l.pid, l.virtualtransaction, l.mode = 'ShareLock' AS writes
        FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid::bigint = class_id AND l.objid::bigint = object_id AND l.objsubid = object_sub_id
          AND l.pid IS DISTINCT FROM pg_backend_pid()
    )
    -- Applying what a publisher sent is no client's transaction, so nobody's to cancel.
    SELECT h.pid, h.virtualtransaction, h.writes AND a.backend_type = 'client backend', a.state LIKE 'idle%', a.xact_start,
        format('pid %s (application_name "%s", role %s, %s, transaction open for %s)',
            h.pid, a.application_name, a.usename, a.state,
            date_trunc('milliseconds', clock_timestamp() - a.xact_start))
    FROM holder h JOIN pg_stat_activity a USING (pid)
    UNION ALL
    -- What ties a prepared transaction's locks together is their virtual transaction.
    SELECT NULL, h.virtualtransaction, h.writes, false, p.prepared,
        format('prepared transaction "%s" (role %s, prepared %s ago)', p.gid, p.owner,
            date_trunc('milliseconds', clock_timestamp() - p.prepared))
    FROM holder h
    JOIN pg_locks own ON own.pid IS NULL AND own.virtualtransaction = h.virtualtransaction
        AND own.locktype = 'transactionid'
    JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
    WHERE h.pid IS NULL
$$;

CREATE VIEW holdfast.identities AS
SELECT id, backend, pg_catalog.pg_get_userbyid(role) AS role, database, application_name, client_network, priority
FROM holdfast.identity
ORDER BY priority, id;

CREATE VIEW holdfast.keys AS
SELECT label, backend, pg_catalog.encode(public_key, 'base64') AS public_key, added_at
FROM holdfast.identity_key
ORDER BY backend, added_at, label;

CREATE VIEW holdfast.backends AS
SELECT b.backend, b.trust, b.backend = m.default_backend AS is_default, b.backend = m.default_owner AS is_default_owner,
    b.added_at
FROM holdfast.backend b LEFT JOIN holdfast.migration m ON true
ORDER BY b.added_at, b.backend;

CREATE VIEW holdfast.tenants AS
SELECT tenant, owner,
    CASE WHEN freeze_reason IS NOT NULL AND (frozen_until IS NULL OR frozen_until > pg_catalog.clock_timestamp())
        THEN 'frozen' ELSE 'active' END AS state,
    epoch, previous_owner, pg_catalog.date_trunc('second', changed_at) AS changed_at, freeze_reason,
    pg_catalog.date_trunc('second', frozen_until) AS frozen_until
FROM holdfast.ownership
ORDER BY tenant;

CREATE VIEW holdfast.ownership_history AS
SELECT id, pg_catalog.date_trunc('second', at) AS at, tenant, action, from_backend, to_backend, epoch,
    pg_catalog.date_trunc('milliseconds', paused) AS paused, changed_by, reason, lsn, restore_point, cancelled
FROM holdfast.ownership_change
ORDER BY id DESC;

CREATE VIEW holdfast.write_surface AS
SELECT p.backend, p.relation, c.class, p.command, p.columns
FROM holdfast.write_permission p LEFT JOIN holdfast.classified_table c USING (relation)
ORDER BY p.backend, p.relation::text, p.command;

CREATE VIEW holdfast.limits AS
SELECT b.backend, b.trust, line.parameter, line.value
FROM holdfast.backend b LEFT JOIN holdfast.backend_limit l USING (backend)
CROSS JOIN LATERAL (VALUES
    (1, 'rows_per_statement', l.rows_per_statement::text),
    (2, 'rows_per_transaction', l.rows_per_transaction::text),
    (3, 'tenants_per_statement', CASE WHEN l.backend IS NULL THEN '1' ELSE l.tenants_per_statement::text END),
    (4, 'cascade_rows', l.cascade_rows::text),
    (5, 'statement_timeout', (l.statement_timeout * interval '1 millisecond')::text),
    (6, 'lock_timeout', (l.lock_timeout * interval '1 millisecond')::text),
    (7, 'idle_in_transaction_timeout', (l.idle_in_transaction_timeout * interval '1 millisecond')::text)
) AS line (n, parameter, value)
ORDER BY b.added_at, b.backend, line.n;

-- Every table of the database but the system's and our own; a finding is what a DBA should look at. The catalogs tell what
-- there is, so a table is here from the moment it exists; the guard itself tells what state it is in.
CREATE VIEW holdfast.coverage AS
-- The first two once, not for each table.
WITH classified AS MATERIALIZED (
    SELECT c.*, coalesce(c.tenant_columns, pg_catalog.array_remove(ARRAY[c.tenant_column], NULL)) AS key,
        (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(name), ', ' ORDER BY n)
         FROM pg_catalog.unnest(c.tenant_columns) WITH ORDINALITY AS k (name, n)) AS listed
    FROM holdfast.classified_table c
), tenant_keys AS MATERIALIZED (
    SELECT DISTINCT c.key, pg_catalog.format('its %s are tenant columns elsewhere', c.listed) AS told
    FROM classified c WHERE c.tenant_columns IS NOT NULL
    UNION ALL
    -- A column that is a key by itself, such as id, has a name that tells nothing.
    SELECT DISTINCT c.key, pg_catalog.format('its %I is a tenant column elsewhere', c.tenant_column)
    FROM classified c
    WHERE c.tenant_column IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = c.relation AND i.indisunique AND i.indnkeyatts = 1 AND a.attname = c.tenant_column)
), tables AS (
    SELECT r.oid, coalesce(root.relid::oid, r.oid) AS classified
    FROM pg_catalog.pg_class r
    JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
    -- A partition is what the topmost of its ancestors is that is classified.
    LEFT JOIN LATERAL (SELECT relid FROM pg_catalog.pg_partition_ancestors(r.oid) WITH ORDINALITY AS up (relid, n)
        WHERE r.relispartition AND relid IN (SELECT relation FROM holdfast.classified_table)
        ORDER BY up.n DESC LIMIT 1) root ON true
    WHERE (r.relkind IN ('r', 'p') OR r.relkind = 'f' AND r.relispartition) AND r.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'holdfast')
), facts AS (
    SELECT t.oid, coalesce(c.class, 'unclassified') AS class, coalesce(c.tenant_column, c.listed) AS tenant_column,
        c.via, c.tenant, c.backend, c.listed IS NOT NULL AS several,
        CASE WHEN c.class IN ('tenant', 'global') THEN coalesce(holdfast.guard_state(t.oid), 'missing') END AS guard,
        (SELECT k.name FROM pg_catalog.unnest(c.key) WITH ORDINALITY AS k (name, n)
            WHERE k.name <> ALL (own.columns) ORDER BY k.n LIMIT 1) AS lost,
        (SELECT k.told FROM tenant_keys k WHERE k.key <@ own.columns
            ORDER BY pg_catalog.cardinality(k.key) DESC, k.told LIMIT 1) AS like_tenants,
        (SELECT p.relation FROM pg_catalog.pg_inherits i JOIN holdfast.classified_table p ON p.relation = i.inhparent
            WHERE i.inhrelid = t.oid AND p.class IN ('tenant', 'global') LIMIT 1) AS inherits,
        EXISTS (SELECT FROM pg_catalog.pg_trigger g
            WHERE g.tgrelid = t.oid AND g.tgfoid = 'holdfast.guard_row()'::pg_catalog.regprocedure) AS has_trigger
    FROM tables t LEFT JOIN classified c ON c.relation = t.classified
    CROSS JOIN LATERAL (SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = t.oid AND NOT a.attisdropped) AS columns) own
), found AS (
    SELECT oid, class, tenant_column, via, tenant, backend, guard,
        CASE WHEN class = 'unclassified' THEN CASE
                 WHEN inherits IS NOT NULL THEN pg_catalog.format('not classified; guard its parent %s again', inherits)
                 WHEN has_trigger THEN 'not classified, but it has a guard'
                 WHEN like_tenants IS NOT NULL THEN 'not classified; ' || like_tenants
                 ELSE 'not classified' END
             WHEN class = 'global' AND guard = 'enabled' AND like_tenants IS NOT NULL THEN 'global; ' || like_tenants
             WHEN guard = 'columnless' AND lost IS NULL
                 THEN CASE WHEN several THEN 'one of its tenant columns' ELSE 'its tenant column' END
                     || ' has changed its nature'
             WHEN guard = 'columnless' AND several THEN pg_catalog.format('its tenant column %I is gone', lost)
             WHEN guard = 'columnless' THEN 'its tenant column is gone'
             WHEN guard = 'pathless' THEN pg_catalog.format('by its %I no tenant can be found any more', via)
             WHEN guard = 'missing' AND has_trigger THEN 'a table that inherits from it has no guard; guard it again'
             WHEN guard = 'missing' THEN 'its guard is missing'
             WHEN guard = 'disabled' THEN 'its guard is disabled'
             WHEN guard = 'overtaken' THEN 'its guard is not the last trigger to fire'
             WHEN guard = 'unrestored' THEN 'its guard is not restored yet'
        END AS finding
    FROM facts
    UNION ALL
    SELECT relation, class, coalesce(tenant_column, listed), via, tenant, backend, NULL,
        pg_catalog.format('dropped; SELECT holdfast.unguard_table(%s)', relation::oid)
    FROM classified WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid = relation)
)
SELECT oid::regclass AS relation, class, tenant_column, via, tenant, backend, guard, finding
FROM found
ORDER BY oid::regclass::text;

CREATE VIEW holdfast.blocked_writes AS
SELECT id, at, backend, rule, sqlstate, outcome, command,
    CASE WHEN table_name IS NOT NULL THEN pg_catalog.format('%I.%I', schema_name, table_name) END AS relation,
    tenant, owner, occurrences, last_at, usename, application_name, client_addr, pid, query, message
FROM (SELECT * FROM holdfast.event UNION ALL SELECT * FROM holdfast.event_overflow) AS event
ORDER BY at DESC, id DESC;

-- A restore, or a publisher, may bring lines of the same hour as those that are counted here: they stand beside them.
CREATE VIEW holdfast.blocked_summary AS
SELECT hour, backend, rule,
    CASE WHEN table_name IS NOT NULL THEN pg_catalog.format('%I.%I', schema_name, table_name) END AS relation,
    tenant, outcome, occurrences, first_at, last_at
FROM holdfast.event_hour
ORDER BY hour DESC, occurrences DESC;

CREATE VIEW holdfast.stats AS
SELECT backend, rule, checked, passed, observed, refused, break_glass, since
FROM holdfast.rule_counts();

-- A line each, for \watch. What it reads grows with tenants and tables, hence counts and no lists.
CREATE VIEW holdfast.status AS
WITH migration AS (
    SELECT m.* FROM (VALUES (true)) AS one (row) LEFT JOIN holdfast.migration m ON true
), owners AS (
    SELECT owner, pg_catalog.count(*) AS tenants,
        pg_catalog.count(*) FILTER (WHERE freeze_reason IS NOT NULL
            AND (frozen_until IS NULL OR frozen_until > pg_catalog.clock_timestamp())) AS frozen
    FROM holdfast.ownership GROUP BY owner
), recorded AS (
    -- Hours are counted already; what is left of the one in which a span begins is read from the events themselves. Bounds are
    -- written out, and stable: the planner then knows how little of the tables that is.
    SELECT 0 AS rest_of, hour AS at, outcome, occurrences FROM holdfast.event_hour
    WHERE hour > pg_catalog.date_trunc('hour', pg_catalog.statement_timestamp() - interval '24 hours', 'UTC')
    UNION ALL
    SELECT 24, at, outcome, occurrences
    FROM (SELECT at, outcome, occurrences FROM holdfast.event
        UNION ALL SELECT at, outcome, occurrences FROM holdfast.event_overflow) AS event
    WHERE at > pg_catalog.statement_timestamp() - interval '24 hours'
        AND at < pg_catalog.date_trunc('hour', pg_catalog.statement_timestamp() - interval '23 hours', 'UTC')
    UNION ALL
    SELECT 1, at, outcome, occurrences
    FROM (SELECT at, outcome, occurrences FROM holdfast.event
        UNION ALL SELECT at, outcome, occurrences FROM holdfast.event_overflow) AS event
    WHERE at > pg_catalog.statement_timestamp() - interval '1 hour'
        AND at < pg_catalog.date_trunc('hour', pg_catalog.statement_timestamp(), 'UTC')
), outcomes AS (
    SELECT outcome, coalesce(pg_catalog.sum(occurrences) FILTER (WHERE rest_of = 1 OR rest_of = 0
            AND at >= pg_catalog.date_trunc('hour', pg_catalog.statement_timestamp(), 'UTC')), 0) AS in_hour,
        coalesce(pg_catalog.sum(occurrences) FILTER (WHERE rest_of <> 1), 0) AS in_day
    FROM recorded GROUP BY outcome
), events AS (
    SELECT span.n, span.name, coalesce(pg_catalog.sum(occurrences) FILTER (WHERE outcome = 'refused'), 0) AS refused,
        coalesce(pg_catalog.sum(occurrences) FILTER (WHERE outcome = 'observed'), 0) AS observed,
        coalesce(pg_catalog.sum(occurrences) FILTER (WHERE outcome = 'break_glass'), 0) AS broken
    FROM (VALUES (10, 'last hour'), (11, 'last 24 hours')) AS span (n, name)
    LEFT JOIN LATERAL (
        SELECT outcome, CASE span.n WHEN 10 THEN in_hour ELSE in_day END AS occurrences FROM outcomes
    ) AS event ON true
    GROUP BY span.n, span.name
), tables AS (
    SELECT coalesce(pg_catalog.sum(tables) FILTER (WHERE class = 'unclassified'), 0) AS unclassified,
        coalesce(pg_catalog.sum(tables) FILTER (WHERE guard <> 'enabled'), 0) AS broken,
        coalesce(pg_catalog.sum(tables), 0) AS total
    FROM holdfast.table_counts()
), audit AS (
    SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'this is a standby, nothing is recorded'
            WHEN NOT launcher THEN 'NO LAUNCHER RUNS: events stay in the spool'
            WHEN worker = 'failing' THEN pg_catalog.format('launcher runs, THE WORKER HAS FAILED %s times', failures)
            ELSE 'launcher runs, worker is ' || worker END AS workers,
        CASE WHEN waiting = 0 THEN 'no event waits'
            ELSE pg_catalog.format('%s, the oldest for %s', CASE waiting WHEN 1 THEN '1 event waits' ELSE waiting || ' events wait' END,
                pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - oldest_at)) END
            || pg_catalog.format('; %s of %s slots in use', used, capacity) AS queue,
        CASE WHEN spooled > 0 THEN pg_catalog.format('%s wait to be taken in', pg_catalog.pg_size_pretty(spooled)) END AS spool,
        lost + (SELECT coalesce(pg_catalog.sum(events), 0) FROM holdfast.audit_loss) AS lost
    FROM holdfast.audit_health()
)
SELECT item, value FROM (
    SELECT 1, 'phase', coalesce(phase, 'preparing') || CASE WHEN phase = 'finished' THEN '' ELSE coalesce(', since ' || begun_at::date, '') END
        FROM migration
    UNION ALL SELECT 2, 'mode', coalesce(mode, 'off') || (
        SELECT CASE pg_catalog.count(*) WHEN 0 THEN '' WHEN 1 THEN ', with one exception'
            ELSE pg_catalog.format(', with %s exceptions', pg_catalog.count(*)) END FROM holdfast.mode_override)
        FROM migration
    UNION ALL SELECT 3, 'ends on', pg_catalog.format('%s, %s', ends_on, CASE
            WHEN ends_on = current_date THEN 'today'
            WHEN ends_on < current_date THEN pg_catalog.format('%s ago: IT SHOULD BE OVER',
                    CASE current_date - ends_on WHEN 1 THEN '1 day' ELSE current_date - ends_on || ' days' END)
                || CASE WHEN when_passed = 'refuse_cutovers' THEN ', new cutovers are refused' ELSE '' END
            WHEN ends_on - current_date = 1 THEN 'ONLY 1 day left'
            WHEN ends_on - current_date <= 30 THEN pg_catalog.format('ONLY %s days left', ends_on - current_date)
            ELSE pg_catalog.format('%s days left', ends_on - current_date) END)
        FROM migration WHERE ends_on IS NOT NULL AND phase IS DISTINCT FROM 'finished'
    UNION ALL SELECT 4, 'default backend', coalesce(default_backend, 'none') FROM migration
    UNION ALL SELECT 5, 'default owner', default_owner || ', of all tenants that are not listed'
        FROM migration WHERE default_owner IS NOT NULL
    UNION ALL SELECT 6, 'tenants of ' || owner,
        pg_catalog.format('%s listed, %s frozen', tenants, frozen) FROM owners
    UNION ALL SELECT 7, 'tables', pg_catalog.format('%s in all, %s unclassified, %s with a broken guard',
        total, unclassified, broken) FROM tables
    UNION ALL SELECT n, name, pg_catalog.format('%s refused, %s observed', refused, observed)
        || CASE WHEN broken > 0 THEN pg_catalog.format(', %s in break-glass', broken) ELSE '' END FROM events
    UNION ALL SELECT 12, 'waves', pg_catalog.string_agg(told, ', ' ORDER BY n) FROM (
        SELECT 1::bigint AS n, pg_catalog.format('%s passed', pg_catalog.count(*)) AS told
            FROM holdfast.wave WHERE state = 'passed' HAVING pg_catalog.count(*) > 0
        UNION ALL SELECT 1 + id::bigint, pg_catalog.format(CASE WHEN state IN ('halting', 'halted') THEN '"%s" IS %s' ELSE '"%s" is %s' END,
            wave, CASE WHEN state IN ('halting', 'halted') THEN pg_catalog.upper(state) ELSE state END)
            FROM holdfast.wave WHERE state IN ('moving', 'soaking', 'halting', 'halted')
        UNION ALL SELECT 9999999999, pg_catalog.format('%s planned', pg_catalog.count(*))
            FROM holdfast.wave WHERE state = 'planned' HAVING pg_catalog.count(*) > 0
        UNION ALL SELECT 9999999999 + 1, pg_catalog.format('%s aborted', pg_catalog.count(*))
            FROM holdfast.wave WHERE state = 'aborted' HAVING pg_catalog.count(*) > 0) AS wave
        HAVING pg_catalog.count(*) > 0
    UNION ALL SELECT 20, 'audit', workers FROM audit
    UNION ALL SELECT 21, 'queue', queue FROM audit
    UNION ALL SELECT 22, 'spool', spool FROM audit WHERE spool IS NOT NULL
    UNION ALL SELECT 23, 'lost events', lost::text FROM audit WHERE lost > 0
) AS line (n, item, value)
ORDER BY n, item;
