-- One login role a backend, both with every table privilege, TRUNCATE included: what is refused below is refused
-- by the guard, not by a missing GRANT. The router needs no privilege at all; the operator reads and marks.
CREATE ROLE legacy_app LOGIN;
CREATE ROLE rebuilt_app LOGIN;
CREATE ROLE edge_router LOGIN;
CREATE ROLE migration_operator LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO legacy_app, rebuilt_app;
REVOKE ALL ON demo_marks FROM legacy_app, rebuilt_app;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO migration_operator;
GRANT INSERT ON demo_marks TO migration_operator;
