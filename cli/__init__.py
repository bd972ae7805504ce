"""tcgx: the command line, and the servers and services that `tcgx up` runs on one machine."""
