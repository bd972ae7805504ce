"""The relational side: completed orders and trades in PostgreSQL, in order, exactly once."""
