"""All code that speaks PostgreSQL: the archiver, which stores each order and trade exactly once, and reads."""
