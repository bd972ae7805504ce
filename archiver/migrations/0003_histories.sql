-- Which history of the exchange the archive's rows belong to. A history is begun once a card and ended by `tcgx recover`;
-- sequences go on above those of all before it, so an order id is never given twice. `base` is the sequence before its
-- first command; `given` the highest one that is known to have been given out, raised while orders flow, so that a Redis
-- that has lost the end of its log is noticed.

CREATE TABLE histories (
    card       TEXT        NOT NULL,
    history_id TEXT        NOT NULL CHECK (history_id ~ '^[0-9a-f]{32}$'),
    base       BIGINT      NOT NULL,
    given      BIGINT      NOT NULL,
    began_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended_at   TIMESTAMPTZ,
    PRIMARY KEY (card, history_id),
    CHECK (given >= base)
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX histories_current ON histories (card) WHERE ended_at IS NULL;

-- Of a position that was written before there were histories it is empty; `tcgx migrate` gives it one.
ALTER TABLE archive_cursor ADD COLUMN history_id TEXT NOT NULL DEFAULT '';
