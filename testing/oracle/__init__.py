"""The oracle: a reference book, and the comparison of a flow, a log, an archive and an API's answers with it."""
