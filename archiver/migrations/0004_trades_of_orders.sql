-- An order's trades as maker, however long it rested. Its trades as taker need no index: they follow one another, in the
-- order of takers, so a search by halves in the key finds them (archiver/queries.py). The BRIN index that was for them
-- describes no page before a vacuum has been there: of three million trades a query read them all, 190 ms.

CREATE INDEX trades_of_maker ON trades (maker_sequence);

DROP INDEX trades_of_taker;
