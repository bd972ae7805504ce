-- What admins did: rows are only ever added. The trigger refuses everything else, for the owner of the table, too.

CREATE TABLE admin_audit (
    audit_id BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    actor    TEXT        NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    address  TEXT        NOT NULL CHECK (length(address) <= 200),
    action   TEXT        NOT NULL CHECK (length(action) BETWEEN 1 AND 50),
    target   TEXT        NOT NULL CHECK (length(target) <= 200),
    outcome  TEXT        NOT NULL CHECK (length(outcome) BETWEEN 1 AND 500)
);

CREATE FUNCTION refuse_change_of_audit() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'admin_audit is append-only: % is refused', TG_OP;
END
$$;

CREATE TRIGGER admin_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON admin_audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
