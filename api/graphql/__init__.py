"""The GraphQL door: a mapping of queries onto `Exchange`, with no rule of its own."""
