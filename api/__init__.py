"""The REST door: HTTP protocol, routes, decoding of bodies, problems and the OpenAPI document."""
