"""Every Redis key. All keys of a card carry its hash tag, so they share a slot of a cluster.

`{card}:` and then `history` (which one its data are of), `orders` (the log), `sequence` (the last given out), `cursor`,
`bids`, `asks`, `open`, `trades`, `events`, `trader:<id>`, `compacted`, `client_ids:<day>`; what each holds is said
where lua/ writes it.
"""


def tag(card: str) -> str:
    """The hash tag, which is also what every function of the library takes as its key."""
    return f"{{{card}}}"


def key(card: str, part: str) -> str:
    """A key of a card, e.g. `{pikachu}:orders`."""
    return f"{{{card}}}:{part}"


def matched_channel(card: str) -> str:
    """The channel on which each match call tells the sequence it reached."""
    return f"{{{card}}}:matched"
