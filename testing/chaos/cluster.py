"""An exchange on a Redis Cluster of three primaries with a replica each, in a round of chaos.

Faults of `redis` meet the primary of one card, which the seed of the plan decides.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.settings import Settings
from testing.chaos.plan import Plan
from testing.chaos.several import OnSeveralServers
from testing.cluster_servers import ClusterNode, RedisCluster, slot_of
from testing.flows import CARDS
from testing.replication import RedisProcess

STEP_SECONDS = 20.0


class OnCluster(OnSeveralServers):
    """The exchange with `TCGX_REPLICA_ACKS=1`: a promoted replica acknowledges orders once it has a replica itself."""

    acks = 1

    def __init__(self, data_dir: Path, plan: Plan, *, programs: Settings, stopping: threading.Event) -> None:
        where = data_dir / "cluster"
        where.mkdir()
        self.cluster = RedisCluster(where, replicas=self.acks)
        self.slot = slot_of(CARDS[plan.seed % len(CARDS)])
        self._last: ClusterNode | None = None
        super().__init__(self.cluster, data_dir, plan, programs=programs, stopping=stopping)

    def primary(self) -> ClusterNode:
        """The primary of the card; while there is none, the one of before."""
        if self._last is None or self.cluster.has_primary(self.slot):
            self._last = self.cluster.primary_of(self.slot)
        return self._last

    def replicas(self) -> Sequence[RedisProcess]:
        """The running replicas of that primary."""
        return self.cluster.replicas_of(self.primary())

    def take_back(self, server: RedisProcess) -> None:
        """Starts a killed server. It becomes a replica by itself, if another one was promoted."""
        server.start()

    def wait_for_promotion(self) -> None:
        """Returns when another server has the slot of the killed one.

        Raises:
            NotInTime: nobody is promoted.
        """
        self.wait_until(lambda: self.cluster.has_primary(self.slot), "nobody is promoted", seconds=STEP_SECONDS)

    @contextmanager
    def slot_moves(self) -> Iterator[None]:
        """The slot of the card is moved key by key: it is on its way inside, and moved at the end."""
        source = self.cluster.primary_of(self.slot)
        target = self.cluster.other_than(source)
        self.cluster.begin_move(self.slot, target)
        self.cluster.move_some_keys(self.slot, source, target)
        yield
        while self.cluster.move_some_keys(self.slot, source, target):
            self.supervise()
        self.cluster.end_move(self.slot, source, target)
        self._replicas_have(target)

    def move_at_once(self) -> None:
        """Moves the slot of the card in one step, where the servers can do that."""
        if not self.cluster.moves_at_once():
            self.notes.append("the servers can't move a slot at once")
            return
        target = self.cluster.other_than(self.cluster.primary_of(self.slot))
        self.cluster.move_slot_at_once(self.slot, target)
        self._replicas_have(target)

    def _replicas_have(self, target: ClusterNode) -> None:
        """Waits as an operator should: a move does not wait for the replicas of its target.

        Raises:
            NotInTime: they do not confirm.
        """
        end = self.cluster.end_of(target)  # orders go on meanwhile
        self.wait_until(
            lambda: self.cluster.has_confirmed(target, end), "replicas do not confirm a move", seconds=STEP_SECONDS
        )
