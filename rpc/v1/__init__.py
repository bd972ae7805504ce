"""The contract (exchange.proto), and what `make grpc` generates from it."""
