-- A partition holds one card, so the card has no place in its key: comparing it, for every row and every level of the
-- index, was a tenth of what a row cost (docs/decisions/0016-primary-keys-of-partitions.md). The key is the partition's
-- own now; `tcgx migrate` gives it to the partitions that it makes.

ALTER TABLE orders DROP CONSTRAINT orders_pkey;
ALTER TABLE trades DROP CONSTRAINT trades_pkey;

DO $$
DECLARE
    partition REGCLASS;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'orders'::REGCLASS LOOP
        EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (sequence)', partition);
    END LOOP;
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'trades'::REGCLASS LOOP
        EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (trade_number)', partition);
    END LOOP;
END
$$;
