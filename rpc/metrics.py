"""Metrics of a gRPC process: its answers, by call and status."""

from bisect import bisect_left

from observe.tallies import SECONDS, Count, Distribution

calls = Count("tcgx_grpc_calls", "Answers, by call of the contract and status", ("call", "status"))
call_seconds = Distribution("tcgx_grpc_call_seconds", "The time from a message to its answer", ("call",))


def observe(call: str, status: str, seconds: float) -> None:
    """Counts an answer."""
    calls.cell(call, status)[0] += 1
    row = call_seconds.row(call)
    row[bisect_left(SECONDS, seconds)] += 1
    row[-1] += seconds
