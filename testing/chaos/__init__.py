"""Faults on purpose: a whole exchange under load, broken by a seeded plan, and judged by a checker of its ledger."""
