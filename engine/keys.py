"""The names of all Redis keys. All keys of a card have its hash tag, so they share a slot of a cluster.

The parts of the names are `history`, `orders` (the log), `sequence`, `cursor`, `bids`, `asks`, `open`, `trades`,
`events`, `trader:<id>`, `compacted`, `client_ids:<day>`, `rate:<id>`, `open_orders:<id>`, `deadlines` and
`deadline_terms`. engine/replica_acks.py
adds the part fence in a cluster. docs/data.md describes their contents.
"""


def tag(card: str) -> str:
    """The hash tag of a card. Every Lua function takes it as its only key."""
    return f"{{{card}}}"


def key(card: str, part: str) -> str:
    """A key of a card, e.g. `{pikachu}:orders`."""
    return f"{{{card}}}:{part}"


def matched_channel(card: str) -> str:
    """The channel on which each match call publishes its notification."""
    return f"{{{card}}}:matched"
