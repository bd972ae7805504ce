-- What is archived: completed orders and trades, inserted once, in bulk, never updated. One partition a
-- card (made by `tcgx migrate` for each card of the settings), so that a card's rows arrive in the order
-- of its log and COPY need not route them.

CREATE TYPE order_side AS ENUM ('buy', 'sell');
CREATE TYPE order_status AS ENUM ('filled', 'canceled', 'expired');
CREATE TYPE time_in_force AS ENUM ('gtc', 'ioc', 'fok');

CREATE TABLE orders (
    card            TEXT          NOT NULL,
    sequence        BIGINT        NOT NULL,
    trader_id       INTEGER       NOT NULL,
    price_cents     INTEGER       NOT NULL,
    quantity        INTEGER       NOT NULL,
    filled_quantity INTEGER       NOT NULL,
    side            order_side    NOT NULL,
    time_in_force   time_in_force NOT NULL,
    status          order_status  NOT NULL,
    accepted_at     TIMESTAMPTZ   NOT NULL,
    closed_at       TIMESTAMPTZ   NOT NULL,
    client_order_id TEXT,
    PRIMARY KEY (card, sequence)
) PARTITION BY LIST (card);

CREATE INDEX orders_of_trader ON orders (trader_id, accepted_at);
CREATE INDEX orders_by_client_order_id ON orders (trader_id, client_order_id) WHERE client_order_id IS NOT NULL;

CREATE TABLE trades (
    card            TEXT        NOT NULL,
    trade_number    BIGINT      NOT NULL,
    taker_sequence  BIGINT      NOT NULL,
    maker_sequence  BIGINT      NOT NULL,
    taker_trader_id INTEGER     NOT NULL,
    maker_trader_id INTEGER     NOT NULL,
    price_cents     INTEGER     NOT NULL,
    quantity        INTEGER     NOT NULL,
    taker_side      order_side  NOT NULL,
    executed_at     TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (card, trade_number)
) PARTITION BY LIST (card);

-- A taker's trades: the column grows with the row's place in the table, which is what BRIN is for.
CREATE INDEX trades_of_taker ON trades USING brin (taker_sequence) WITH (pages_per_range = 16);

-- Where the archive stands in each card's events: the id of the last entry whose rows are committed, and the id of
-- the log entry that it was made of, which tells one Redis's history from another's.
CREATE TABLE archive_cursor (
    card        TEXT PRIMARY KEY,
    event_id    TEXT        NOT NULL,
    sequence    BIGINT      NOT NULL,
    log_id      TEXT        NOT NULL,
    archived_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE traders (
    trader_id      INTEGER PRIMARY KEY CHECK (trader_id > 0),
    api_key_sha256 BYTEA       NOT NULL CHECK (length(api_key_sha256) = 32),
    role           TEXT        NOT NULL DEFAULT 'trader' CHECK (role IN ('trader', 'admin')),
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);
