"""The gRPC door: a mapping of messages onto `Exchange`, with no rule of its own."""
