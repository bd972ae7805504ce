"""The command `tcgx`, with which every process of this project starts."""
