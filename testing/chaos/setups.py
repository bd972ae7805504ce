"""The set-ups of `tcgx chaos`: the servers of a round, and what they promise.

A further set-up has a row here, its kinds of faults in `KINDS_OF` (testing/chaos/plan.py), and a class whose base is
`Exchange`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from testing.chaos.cluster import OnCluster
from testing.chaos.exchange import Exchange
from testing.chaos.plan import KINDS_OF, Plan
from testing.chaos.sentinel import OnSentinels, OnSentinelsWithAcks
from testing.chaos.supervised import Supervised


class SetUp(NamedTuple):
    """A set-up. `keeps`: no acknowledged order may be lost, so a history conflict is a violation."""

    exchange: type[Exchange]
    keeps: bool


SETUPS: Mapping[str, SetUp] = {
    "single": SetUp(Exchange, keeps=True),
    "sentinel": SetUp(OnSentinels, keeps=False),
    "sentinel-acks": SetUp(OnSentinelsWithAcks, keeps=True),
    "cluster": SetUp(OnCluster, keeps=True),
}
assert {*SETUPS} == {*KINDS_OF}, "a set-up has no kinds of faults"


def exchange_of(plan: Plan) -> type[Exchange]:
    """The class of a plan's exchange."""
    return Supervised if plan.supervised else SETUPS[plan.setup].exchange
