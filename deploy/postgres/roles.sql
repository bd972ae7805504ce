-- Roles of least privilege for the services. Run by the owner of the database after each `tcgx migrate`:
--   psql "$TCGX_DATABASE_URL" --file deploy/postgres/roles.sql
-- `tcgx migrate`, `tcgx traders`, `tcgx keys`, `tcgx restore` and other commands work as the owner. Give the roles passwords with
-- \password tcgx_api and \password tcgx_archiver. The engine does not use PostgreSQL.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tcgx_api') THEN
        CREATE ROLE tcgx_api LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tcgx_archiver') THEN
        CREATE ROLE tcgx_archiver LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM tcgx_api, tcgx_archiver;
GRANT USAGE ON SCHEMA public TO tcgx_api, tcgx_archiver;

-- api: reads orders and trades, registers histories and the sequences that it gave out, manages keys, adds to the audit.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO tcgx_api;
GRANT INSERT, UPDATE (given) ON histories TO tcgx_api;
GRANT INSERT, UPDATE (revoked_at) ON api_keys TO tcgx_api;
GRANT INSERT ON admin_audit TO tcgx_api;
-- SELECT … FOR UPDATE of a trader needs the right to update some column; no statement of the API updates one.
GRANT UPDATE (created_at) ON traders TO tcgx_api;

-- archiver: adds orders and trades, moves its cursor, adds trades to candles, reads and registers histories. It sees no key and no audit.
GRANT SELECT ON schema_migrations, archive_cursor, histories TO tcgx_archiver;
GRANT INSERT, UPDATE ON archive_cursor TO tcgx_archiver;
GRANT SELECT, INSERT, UPDATE ON candles TO tcgx_archiver;
GRANT INSERT, UPDATE (given) ON histories TO tcgx_archiver;
DO $$
DECLARE
    partition REGCLASS;
BEGIN
    FOR partition IN
        SELECT inhrelid FROM pg_inherits WHERE inhparent IN ('orders'::REGCLASS, 'trades'::REGCLASS)
        UNION SELECT 'orders'::REGCLASS UNION SELECT 'trades'::REGCLASS
    LOOP
        EXECUTE format('GRANT SELECT, INSERT ON %s TO tcgx_archiver', partition);
    END LOOP;
END
$$;
