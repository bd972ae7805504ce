"""The OpenAPI document, made from the structs, the handlers and the settings."""
