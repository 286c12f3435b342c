-- A row trigger that guarantees what Holdfast does, at READ COMMITTED: whoever hands a tenant over takes the advisory lock
-- exclusively, so writers share it, and look the owner up while they hold it.
DO $$
DECLARE guarded text; key text;
BEGIN
    FOR guarded, key IN VALUES ('items', 'tenant'), ('hot', 'tenant'), ('wide', 'tenant'), ('by_uuid', 'tenant'),
        ('by_text', 'tenant'), ('parted', 'tenant'), ('pgbench_accounts', 'bid'), ('pgbench_branches', 'bid'),
        ('pgbench_tellers', 'bid'), ('pgbench_history', 'bid') LOOP
        EXECUTE format($function$
            CREATE FUNCTION guard_%1$s() RETURNS trigger LANGUAGE plpgsql AS $body$
            DECLARE known text;
            BEGIN
                IF TG_OP <> 'INSERT' THEN
                    PERFORM pg_advisory_xact_lock_shared(hashtextextended(OLD.%2$s::text, 0));
                    SELECT owner INTO known FROM owners WHERE tenant = OLD.%2$s::text;
                    IF coalesce(known, 'app') <> session_user THEN
                        RAISE EXCEPTION '%% may not write tenant %%', session_user, OLD.%2$s USING ERRCODE = 'WG001';
                    END IF;
                END IF;
                IF TG_OP = 'DELETE' THEN
                    RETURN OLD;
                END IF;
                IF TG_OP = 'INSERT' OR NEW.%2$s IS DISTINCT FROM OLD.%2$s THEN
                    PERFORM pg_advisory_xact_lock_shared(hashtextextended(NEW.%2$s::text, 0));
                    SELECT owner INTO known FROM owners WHERE tenant = NEW.%2$s::text;
                    IF coalesce(known, 'app') <> session_user THEN
                        RAISE EXCEPTION '%% may not write tenant %%', session_user, NEW.%2$s USING ERRCODE = 'WG001';
                    END IF;
                END IF;
                RETURN NEW;
            END
            $body$
        $function$, guarded, key);
        EXECUTE format('CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON %1$I
            FOR EACH ROW EXECUTE FUNCTION guard_%1$s()', guarded);
    END LOOP;
END
$$;
