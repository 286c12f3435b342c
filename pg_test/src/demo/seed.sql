-- A few rows for each of :tenants brokerages. Ids are arithmetic, so that the clients know them without a look-up:
-- brokerage t has the agents, homeowners and properties (t - 1) * 2 + 1 and (t - 1) * 2 + 2.

INSERT INTO plans VALUES (1, 'Starter', 49), (2, 'Team', 199), (3, 'Enterprise', 999);
INSERT INTO feature_flags (name) VALUES ('instant_offers'), ('new_inbox'), ('video_tours');

INSERT INTO brokerages SELECT t, 'Brokerage ' || t, 1 + t % 3 FROM generate_series(1, :tenants) t;
INSERT INTO tenant_clock (brokerage_id) SELECT t FROM generate_series(1, :tenants) t;

INSERT INTO agents SELECT n, (n + 1) / 2, 'Agent ' || n FROM generate_series(1, :tenants * 2) n;
INSERT INTO homeowners (id, brokerage_id, agent_id, name)
SELECT n, (n + 1) / 2, n, 'Homeowner ' || n FROM generate_series(1, :tenants * 2) n;
INSERT INTO properties (id, brokerage_id, homeowner_id, street, city, asking_price)
SELECT n, (n + 1) / 2, n, n || ' Main Street', 'Springfield', 250000 + n FROM generate_series(1, :tenants * 2) n;
INSERT INTO valuations (property_id, brokerage_id, low, high)
SELECT n, (n + 1) / 2, 240000 + n, 260000 + n FROM generate_series(1, :tenants * 2) n;
INSERT INTO messages (brokerage_id, homeowner_id, agent_id, body)
SELECT (n + 1) / 2, n, n, 'Welcome' FROM generate_series(1, :tenants * 2) n;
INSERT INTO documents (brokerage_id, property_id, title)
SELECT (n + 1) / 2, n, 'Deed' FROM generate_series(1, :tenants * 2) n;
INSERT INTO appointments (homeowner_id, brokerage_id, starts_at)
SELECT n, (n + 1) / 2, now() + interval '7 days' FROM generate_series(1, :tenants * 2) n;
INSERT INTO activity_log (brokerage_id, happened_on, entry)
SELECT t, date_trunc('month', current_date)::date - 1, 'joined' FROM generate_series(1, :tenants) t;

SELECT setval(pg_get_serial_sequence(t, 'id'), :tenants * 2)
FROM unnest('{agents,homeowners,properties}'::text[]) t;
