-- Candles of every interval, added up from the trades of each archive transaction (archiver/candles.py), so that a read
-- of a chart or of a day's prices touches as many rows as it has candles, and not one a trade. `start` counts seconds
-- since 1970; rows change while their interval lasts, so pages keep room for new versions of a row.

CREATE TABLE candles (
    card        TEXT    NOT NULL,
    seconds     INTEGER NOT NULL CHECK (seconds > 0),
    start       BIGINT  NOT NULL CHECK (start % seconds = 0),
    open_cents  INTEGER NOT NULL,
    high_cents  INTEGER NOT NULL,
    low_cents   INTEGER NOT NULL,
    close_cents INTEGER NOT NULL,
    volume      BIGINT  NOT NULL,
    trades      BIGINT  NOT NULL,
    PRIMARY KEY (card, seconds, start)
) WITH (fillfactor = 80);

-- The last trade that the candles of a card contain. Trades of an earlier version follow in steps, by `tcgx migrate`
-- or by the archiver at its start.
ALTER TABLE archive_cursor ADD COLUMN candles_to BIGINT NOT NULL DEFAULT 0;
