-- What the rebuilt login must not be able to change, a line each: a name, then a query whose rows are compared as text.
-- Tenants 20 and 60 are the rebuilt backend's, as are one tenant of by_uuid and one of by_bytea.
orders|SELECT t::text FROM orders t WHERE (tenant_id IN (20, 60)) IS NOT TRUE
customers|SELECT (CASE WHEN tenant_id IN (20, 60) THEN ROW (id, tenant_id, NULL) ELSE ROW (id, tenant_id, name) END)::text FROM customers
order_items|SELECT t::text FROM order_items t WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = t.order_id AND o.tenant_id IN (20, 60))
shipments|SELECT t::text FROM shipments t WHERE NOT EXISTS (SELECT FROM order_items i JOIN orders o ON o.id = i.order_id WHERE i.id = t.item_id AND o.tenant_id IN (20, 60))
by_uuid|SELECT t::text FROM by_uuid t WHERE tenant IS DISTINCT FROM '00000000-0000-0000-0000-00000000000b'
by_text|SELECT t::text FROM by_text t WHERE (tenant IN ('20', '60')) IS NOT TRUE
by_bytea|SELECT t::text FROM by_bytea t WHERE tenant IS DISTINCT FROM '\x0b'
by_bigint|SELECT t::text FROM by_bigint t
by_smallint|SELECT t::text FROM by_smallint t
by_varchar|SELECT t::text FROM by_varchar t
by_domain|SELECT t::text FROM by_domain t
invoices|SELECT t::text FROM "Billing Dept"."Invoice ""2""" t WHERE ("Tenant Id" IN (20, 60)) IS NOT TRUE
log|SELECT t::text FROM log t WHERE (tenant_id IN (20, 60)) IS NOT TRUE UNION ALL SELECT DISTINCT t::text FROM log t WHERE tenant_id IN (20, 60) AND line = 'line'
assets|SELECT t::text FROM ONLY assets t WHERE (tenant_id IN (20, 60)) IS NOT TRUE
vehicles|SELECT t::text FROM vehicles t WHERE (tenant_id IN (20, 60)) IS NOT TRUE
plans|SELECT t::text FROM plans t
ledger|SELECT t::text FROM ledger t
loose|SELECT t::text FROM loose t
policy|SELECT t::text FROM holdfast.migration t UNION ALL SELECT t::text FROM holdfast.backend t UNION ALL SELECT t::text FROM holdfast.mode_override t UNION ALL SELECT t::text FROM holdfast.identity t UNION ALL SELECT t::text FROM holdfast.classified_table t UNION ALL SELECT t::text FROM holdfast.write_permission t
limits|SELECT t::text FROM holdfast.backend_limit t
waves|SELECT t::text FROM holdfast.wave t UNION ALL SELECT t::text FROM holdfast.wave_tenant t
ownership|SELECT t::text FROM holdfast.ownership t UNION ALL SELECT t::text FROM holdfast.ownership_change t
sequences|SELECT (last_value >= 1000)::text FROM orders_id_seq
relations|SELECT ROW (oid, relname, relnamespace, relowner, relkind, relacl, relrowsecurity, relforcerowsecurity, relispartition, reloptions, relpersistence)::text FROM pg_class WHERE oid BETWEEN 16384 AND {newest} AND relnamespace <> 99
columns|SELECT ROW (attrelid, attname, atttypid, attnum, attnotnull, attisdropped, attacl, attidentity, attgenerated)::text FROM pg_attribute WHERE attrelid BETWEEN 16384 AND {newest}
triggers|SELECT ROW (tgrelid, tgname, tgenabled, tgfoid, tgtype)::text FROM pg_trigger WHERE tgrelid BETWEEN 16384 AND {newest} AND NOT tgisinternal
constraints|SELECT ROW (conrelid, conname, contype, convalidated)::text FROM pg_constraint WHERE conrelid BETWEEN 16384 AND {newest}
rules|SELECT ROW (ev_class, rulename, ev_enabled)::text FROM pg_rewrite WHERE ev_class BETWEEN 16384 AND {newest}
children|SELECT ROW (inhrelid, inhparent)::text FROM pg_inherits WHERE inhparent BETWEEN 16384 AND {newest} AND inhparent <> 'loose'::regclass
policies|SELECT ROW (polrelid, polname)::text FROM pg_policy WHERE polrelid <= {newest}
functions|SELECT ROW (oid, proname, pronamespace, proowner, prosrc, proacl, proconfig, prosecdef)::text FROM pg_proc WHERE oid BETWEEN 16384 AND {newest}
schemas|SELECT ROW (oid, nspname, nspowner, nspacl)::text FROM pg_namespace WHERE oid <= {newest} AND nspname <> 'mine' AND nspname !~ '^pg_(toast_)?temp'
roles|SELECT ROW (oid, rolname, rolsuper, rolcreaterole, rolreplication, rolbypassrls)::text FROM pg_roles
members|SELECT ROW (roleid, member, admin_option)::text FROM pg_auth_members
role_settings|SELECT ROW (setdatabase, setrole, setconfig)::text FROM pg_db_role_setting
databases|SELECT ROW (datname, datdba, datacl, datconnlimit, datallowconn)::text FROM pg_database
extensions|SELECT ROW (extname, extowner, extnamespace, extversion)::text FROM pg_extension
event_triggers|SELECT ROW (evtname, evtenabled)::text FROM pg_event_trigger
publications|SELECT pubname::text FROM pg_publication UNION ALL SELECT subname::text FROM pg_subscription UNION ALL SELECT srvname::text FROM pg_foreign_server
large_objects|SELECT ROW (oid, lo_get(oid))::text FROM pg_largeobject_metadata WHERE oid = 4242
