"""Clients of an exchange: one for tests, and those of the benchmarks that cost as little as Python allows."""
