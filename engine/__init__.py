"""All code that speaks Redis: connections, keys, formats, the order log, events, books and the matcher."""
