"""The harness that tests and benchmarks share: servers, exchanges, clients, order flows, faults, and the oracle.

Modules that `bench` imports (flows, servers, services, waiting, oracle.reference_book, clients.batch,
clients.closed_loop) need no package of the group `dev`.
"""
