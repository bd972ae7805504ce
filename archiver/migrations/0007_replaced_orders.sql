-- Post-only orders, and orders that a replace concerns. NULL in rows of all other orders, so that their rows stay as
-- large as they are and COPY need not name these columns.

ALTER TABLE orders
    ADD COLUMN post_only        BOOLEAN,
    ADD COLUMN replaces         BIGINT,
    ADD COLUMN carried_quantity INTEGER,
    ADD COLUMN reason           TEXT,
    ADD COLUMN replaced_by      BIGINT;
