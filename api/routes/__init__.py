"""The handlers of the HTTP API, a file for each part of it."""
