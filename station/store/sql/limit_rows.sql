-- Limits a role of the console to the rows of a table that a transaction names (`shown`, and `written` for new rows).
--
-- Roles that had rights before would see nothing once row-level security is on, and pushes would be cut off: they get a
-- policy in the same transaction. A policy takes a lock that pushes wait for, so none is made again, and each table has a
-- transaction of its own. `own` is the policy's name, which changes with what the policy says.
CREATE OR REPLACE PROCEDURE pg_temp.station_limit(
    its regclass, limited text, own name, shown text, written text
)
LANGUAGE plpgsql AS $station$
DECLARE
    other record;
BEGIN
    PERFORM set_config('lock_timeout', '3s', true);
    IF EXISTS (SELECT FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = its AND grantee = 0) THEN
        RAISE EXCEPTION USING MESSAGE = 'PUBLIC has rights on ' || its || ': revoke them, and grant them to roles';
    END IF;
    IF has_table_privilege(limited, 'outgoing', 'INSERT') AND NOT EXISTS (
        SELECT FROM pg_policy, pg_roles WHERE polrelid = its AND rolname = limited AND pg_roles.oid = ANY (polroles)
        AND pg_get_expr(polqual, polrelid) <> 'true'
    ) THEN
        RAISE EXCEPTION USING MESSAGE = limited || ' has the rights of the station, which would see no receipt any '
            || 'more: the console needs a role of its own. If it is one, run REVOKE ALL ON ALL TABLES IN SCHEMA public '
            || 'FROM ' || quote_ident(limited) || '; first';
    END IF;
    FOR other IN
        SELECT DISTINCT rolname FROM pg_class, aclexplode(relacl), pg_roles
        WHERE pg_class.oid = its AND pg_roles.oid = grantee AND grantee <> relowner AND rolname <> limited
        AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = its AND grantee = ANY (polroles))
    LOOP
        EXECUTE 'CREATE POLICY ' || quote_ident(('station_all_' || other.rolname)::name) || ' ON ' || its
            || ' TO ' || quote_ident(other.rolname) || ' USING (true) WITH CHECK (true)';
    END LOOP;
    FOR other IN
        SELECT polname FROM pg_policy, pg_roles
        WHERE polrelid = its AND rolname = limited AND polroles = ARRAY[pg_roles.oid] AND polname <> own
    LOOP
        EXECUTE 'DROP POLICY ' || quote_ident(other.polname) || ' ON ' || its;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = its AND polname = own) THEN
        EXECUTE 'CREATE POLICY ' || quote_ident(own) || ' ON ' || its || ' TO ' || quote_ident(limited)
            || ' USING (' || shown || ') WITH CHECK (' || written || ')';
    END IF;
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = its) THEN
        EXECUTE 'ALTER TABLE ' || its || ' ENABLE ROW LEVEL SECURITY';
    END IF;
END
$station$;
