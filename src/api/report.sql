-- The facts of report_html(), as src/report/mod.rs names them. Each list is the first of many and how many there are, so that
-- the page stays a page whatever there is to tell.
WITH migration AS (
    SELECT m.*, least(m.begun_at, (SELECT pg_catalog.min(at) FROM holdfast.ownership_change)) AS began
    FROM holdfast.migration m
), clock AS (
    SELECT pg_catalog.statement_timestamp() AS now
),
-- Handovers in 48 steps from the beginning to now.
pace AS (
    SELECT began, now, greatest((now - began) / 48, interval '1 second') AS step,
        CASE WHEN now - began > interval '10 days' THEN 'YYYY-MM-DD' WHEN now - began > interval '4 hours' THEN 'MM-DD HH24:MI'
            ELSE 'HH24:MI:SS' END AS pattern
    FROM migration, clock WHERE began IS NOT NULL
), handovers AS (
    SELECT least(greatest(pg_catalog.floor(extract(epoch FROM c.at - p.began) / extract(epoch FROM p.step)), 0), 47)::int AS n,
        pg_catalog.count(*) FILTER (WHERE c.action = 'cutover') AS cutovers,
        pg_catalog.count(*) FILTER (WHERE c.action = 'rollback') AS rollbacks,
        pg_catalog.count(*) FILTER (WHERE c.from_backend = m.default_owner)
            - pg_catalog.count(*) FILTER (WHERE c.to_backend = m.default_owner) AS net
    FROM holdfast.ownership_change c, pace p, migration m
    WHERE c.action IN ('cutover', 'rollback')
    GROUP BY 1
), moves AS (
    SELECT pg_catalog.to_char((p.began + n * p.step) AT TIME ZONE 'UTC', p.pattern) AS at,
        coalesce(h.cutovers, 0) AS cutovers, coalesce(h.rollbacks, 0) AS rollbacks,
        pg_catalog.sum(coalesce(h.net, 0)) OVER (ORDER BY n) AS moved, n
    FROM pace p CROSS JOIN pg_catalog.generate_series(0, 47) AS n LEFT JOIN handovers h USING (n)
),
-- Refusals by hour in the first two days, by day afterwards.
counted AS (
    SELECT CASE WHEN coalesce(began, now) > now - interval '2 days' THEN 'hour' ELSE 'day' END AS unit,
        pg_catalog.date_trunc(CASE WHEN coalesce(began, now) > now - interval '2 days' THEN 'hour' ELSE 'day' END,
            now - CASE WHEN coalesce(began, now) > now - interval '2 days' THEN interval '2 days' ELSE interval '30 days' END,
            'UTC') AS since,
        now
    FROM clock LEFT JOIN migration ON true
), summary AS MATERIALIZED (
    SELECT s.hour, s.backend, s.rule, s.outcome,
        CASE WHEN s.table_name IS NOT NULL THEN pg_catalog.format('%I.%I', s.schema_name, s.table_name) END AS relation,
        pg_catalog.sum(s.occurrences)::bigint AS occurrences, pg_catalog.max(s.last_at) AS last_at
    FROM holdfast.event_hour s WHERE s.hour >= (SELECT since FROM counted) AND s.rule IS NOT NULL
    GROUP BY s.hour, s.backend, s.rule, s.outcome, s.schema_name, s.table_name
), rules AS (
    SELECT rule, coalesce(pg_catalog.sum(occurrences) FILTER (WHERE outcome = 'refused'), 0) AS refused,
        coalesce(pg_catalog.sum(occurrences) FILTER (WHERE outcome = 'observed'), 0) AS observed,
        coalesce(pg_catalog.sum(occurrences) FILTER (WHERE outcome = 'break_glass'), 0) AS in_break_glass,
        pg_catalog.to_char(pg_catalog.max(last_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS last_at
    FROM summary GROUP BY rule
), steps AS (
    SELECT pg_catalog.date_trunc(c.unit, s.hour, 'UTC') AS at,
        pg_catalog.sum(s.occurrences) FILTER (WHERE s.outcome = 'refused') AS refused,
        pg_catalog.sum(s.occurrences) FILTER (WHERE s.outcome = 'observed') AS observed
    FROM summary s, counted c GROUP BY 1
), refusals AS (
    SELECT pg_catalog.to_char(at AT TIME ZONE 'UTC', CASE c.unit WHEN 'hour' THEN 'MM-DD HH24:MI' ELSE 'YYYY-MM-DD' END) AS label,
        coalesce(refused, 0) AS refused, coalesce(observed, 0) AS observed, at
    FROM counted c
    CROSS JOIN LATERAL pg_catalog.generate_series(c.since, c.now, CASE c.unit WHEN 'hour' THEN interval '1 hour' ELSE interval '1 day' END) AS at
    LEFT JOIN steps USING (at)
), frequent AS (
    SELECT backend, rule, relation, pg_catalog.sum(occurrences) AS occurrences,
        pg_catalog.to_char(pg_catalog.max(last_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS last_at
    FROM summary WHERE outcome <> 'break_glass' GROUP BY 1, 2, 3
), owners AS (
    SELECT o.owner, b.trust, pg_catalog.count(*) AS tenants,
        pg_catalog.count(*) FILTER (WHERE o.freeze_reason IS NOT NULL AND (o.frozen_until IS NULL OR o.frozen_until > now)) AS frozen
    FROM clock, holdfast.ownership o LEFT JOIN holdfast.backend b ON b.backend = o.owner
    GROUP BY 1, 2
), findings AS (
    SELECT relation::text AS relation, class, finding FROM holdfast.coverage WHERE finding IS NOT NULL
)
SELECT pg_catalog.jsonb_build_object(
    'database', pg_catalog.current_database(),
    'written_at', (SELECT pg_catalog.to_char(now AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC' FROM clock),
    'server_version', pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1),
    'version', (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'holdfast'),
    'migration', (SELECT pg_catalog.jsonb_build_object('phase', phase, 'mode', mode,
        'begun_on', pg_catalog.to_char(begun_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
        'ends_on', pg_catalog.to_char(ends_on, 'YYYY-MM-DD'), 'days_left', ends_on - current_date, 'default_owner', default_owner)
        FROM migration),
    'exceptions', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (
            SELECT backend, rule, mode FROM holdfast.mode_override ORDER BY backend, rule LIMIT 12) AS l),
        'total', (SELECT pg_catalog.count(*) FROM holdfast.mode_override)),
    'owners', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (
            SELECT * FROM owners ORDER BY tenants DESC, owner LIMIT 12) AS l),
        'total', (SELECT pg_catalog.count(*) FROM owners)),
    'moved', (SELECT pg_catalog.count(*) FROM holdfast.ownership o, migration m WHERE o.owner <> m.default_owner),
    'moves', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(l) - 'n' ORDER BY n), '[]') FROM moves AS l),
    'waves', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (
            SELECT w.wave, w.to_backend, w.state, w.tenants, p.percent, p.moved, p.waiting, p.skipped, p.frozen + p.returned AS stopped,
                h.reason
            FROM holdfast.waves w JOIN holdfast.wave_progress p USING (wave) JOIN holdfast.wave h USING (wave)
            ORDER BY w.state IN ('passed', 'aborted'), CASE WHEN w.state IN ('passed', 'aborted') THEN -h.id ELSE h.id END
            LIMIT 12) AS l),
        'total', (SELECT pg_catalog.count(*) FROM holdfast.wave)),
    'counted_since', (SELECT CASE unit WHEN 'hour' THEN 'in the last two days' ELSE 'in the last 30 days' END FROM counted),
    'rules', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (
            SELECT * FROM rules ORDER BY refused + observed + in_break_glass DESC, rule) AS l),
        'total', (SELECT pg_catalog.count(*) FROM rules)),
    'refusals', (SELECT coalesce(pg_catalog.jsonb_agg(
        pg_catalog.jsonb_build_object('at', label, 'refused', refused, 'observed', observed) ORDER BY at), '[]') FROM refusals),
    'frequent', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (
            SELECT * FROM frequent ORDER BY occurrences DESC, backend, rule, relation LIMIT 12) AS l),
        'total', (SELECT pg_catalog.count(*) FROM frequent)),
    'findings', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (SELECT * FROM findings ORDER BY relation LIMIT 20) AS l),
        'total', (SELECT pg_catalog.count(*) FROM findings)),
    'log', pg_catalog.jsonb_build_object(
        'first', (SELECT coalesce(pg_catalog.jsonb_agg(l), '[]') FROM (
            SELECT pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS at, changed_by, what, object, old::text,
                new::text, nullif(application_name, '') AS application_name, pg_catalog.host(client_addr) AS client_addr
            FROM holdfast.policy_log LIMIT 20) AS l),
        'total', (SELECT pg_catalog.count(*) FROM holdfast.policy_log)))
