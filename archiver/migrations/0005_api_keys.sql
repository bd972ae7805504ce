-- API keys: several a trader, each with an id of its own, so that one can be revoked while the others go on. The present
-- key of each trader becomes its first one; its first characters were never kept, so its prefix is empty.

CREATE TABLE api_keys (
    key_id     TEXT        PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{16}$'),
    trader_id  INTEGER     NOT NULL REFERENCES traders,
    key_sha256 BYTEA       NOT NULL CHECK (length(key_sha256) = 32),
    prefix     TEXT        NOT NULL CHECK (length(prefix) <= 6),
    label      TEXT        NOT NULL DEFAULT '' CHECK (length(label) <= 100),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    revoked_at TIMESTAMPTZ
);

CREATE INDEX api_keys_of_trader ON api_keys (trader_id);
CREATE INDEX api_keys_revoked ON api_keys (revoked_at) WHERE revoked_at IS NOT NULL;

INSERT INTO api_keys (key_id, trader_id, key_sha256, prefix, created_at)
SELECT left(replace(gen_random_uuid()::text, '-', ''), 16), trader_id, api_key_sha256, '', created_at FROM traders;

-- A version that knows one key a trader fails on the missing column, so it never takes a revoked key.
ALTER TABLE traders DROP COLUMN api_key_sha256;
