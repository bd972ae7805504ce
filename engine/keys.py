"""Every Redis key. All keys of a card carry its hash tag, so they share a slot of a cluster."""

PARTS = ("orders", "sequence", "cursor", "bids", "asks", "open", "closed", "trades", "events")
"""The keys of a card that always have this one name; `trader:<id>` and `client_ids:<day>` come beside them."""


def tag(card: str) -> str:
    """The hash tag, which is also what every function of the library takes as its key."""
    return f"{{{card}}}"


def key(card: str, part: str) -> str:
    """A key of a card, e.g. `{pikachu}:orders`."""
    return f"{{{card}}}:{part}"


def matched_channel(card: str) -> str:
    """The channel on which each match call tells the sequence it reached."""
    return f"{{{card}}}:matched"
