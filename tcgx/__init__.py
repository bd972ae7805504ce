"""Where every process of this project begins: the command `tcgx`."""
