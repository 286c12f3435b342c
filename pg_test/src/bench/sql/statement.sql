-- A statement trigger that locks a whole table against a backend's writes, as GitLab does while it moves tables between
-- databases: cheap, and blind to tenants.
CREATE TABLE locked_tables (name text PRIMARY KEY, writer text NOT NULL);
GRANT SELECT ON locked_tables TO app;
CREATE FUNCTION lock_writes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM locked_tables WHERE name = TG_TABLE_NAME AND writer <> session_user) THEN
        RAISE EXCEPTION 'table % is write protected', TG_TABLE_NAME USING ERRCODE = 'modifying_sql_data_not_permitted';
    END IF;
    RETURN NULL;
END
$$;
DO $$
DECLARE guarded text;
BEGIN
    FOREACH guarded IN ARRAY '{items,hot,wide,by_uuid,by_text,parents,children,grandchildren,great_grandchildren,parted,
        pgbench_accounts,pgbench_branches,pgbench_tellers,pgbench_history}'::text[] LOOP
        EXECUTE format('CREATE TRIGGER lock_writes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
            FOR EACH STATEMENT EXECUTE FUNCTION lock_writes()', guarded);
        INSERT INTO locked_tables VALUES (guarded, 'app');
    END LOOP;
END
$$;
