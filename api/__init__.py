"""The edge: REST, authentication and what is wrong with a request."""
