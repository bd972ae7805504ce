"""Acknowledgements of replicas: an append counts only once enough replicas have it on disk (`TCGX_REPLICA_ACKS`).

Each batch of appends is followed by three commands in the same pipeline. WAIT and WAITAOF look at the writes of their
own connection alone. A repeat of an order writes nothing, and its first append may have used another connection. So a
PUBLISH comes first: Redis sends it to every replica, after everything that it wrote before. A cluster sends messages
apart from writes, so there a key of the card is set instead.

WAIT comes before WAITAOF, since a replica reports a write to its disk only when it is asked after that write.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import redis.exceptions
import structlog
from redis.asyncio import Redis

from core.errors import Overloaded, Unavailable
from core.settings import Settings
from engine import keys
from engine.connection import is_forbidden, pack_command, pipelined, redis_errors
from engine.nodes import ClusterNodes, Nodes

log = structlog.get_logger()

FENCE_CHANNEL = "tcgx:fence"
FENCE = "fence"
"""The part of the name of the key that is set in a cluster."""

NO_AOF = "appendonly is disabled"
ANY_ERROR = redis.exceptions.ResponseError


class ReplicaAcks:
    """Waits until replicas have what Redis has written."""

    def __init__(
        self, client: Redis, *, replicas: int, milliseconds: int, is_always: bool, fence_key: str = ""
    ) -> None:
        """`replicas`: how many must have it. `milliseconds`: how long a wait may take.

        `is_always`: whether Redis itself must have it on disk, too. `fence_key`: a key of the card, if `client` is the
        view of a card of a cluster.
        """
        self._connection = pipelined(client)
        self._replicas = replicas
        each = milliseconds // 2
        self._commands = [
            pack_command("SET", fence_key, "") if fence_key else pack_command("PUBLISH", FENCE_CHANNEL, ""),
            pack_command("WAIT", replicas, each),
            pack_command("WAITAOF", int(is_always), replicas, each),
        ]
        self._local = int(is_always)
        self._has_waitaof = True
        self._is_short = False

    async def call(self, commands: Sequence[bytes], replies: list[Any]) -> Unavailable | None:
        """Sends packed commands and waits until replicas have their effect. The replies are added to `replies`.

        Returns an error if too few replicas have confirmed. The commands have taken effect all the same.

        Raises:
            redis.exceptions.RedisError, OSError: the connection failed. Replies that came before are in `replies`.
        """
        everything = [*commands, *self._commands]
        received: list[Any] = []
        try:
            await self._connection.call(everything, received)
        finally:
            replies += received[: len(commands)]
        return self._judge(*received[len(commands) :])

    async def confirm(self) -> None:
        """Waits until replicas have all that Redis has written so far.

        Raises:
            Unavailable: too few have confirmed, or Redis does not answer.
        """
        with redis_errors():
            shortfall = await self.call([], [])
        if shortfall:
            raise shortfall

    async def check(self) -> None:
        """Checks that replicas answer again, if the last wait was in vain. Until then nothing is to be written.

        Raises:
            Overloaded: too few replicas answer; nothing was written.
            Unavailable: Redis does not answer.
        """
        if not self._is_short:
            return
        with redis_errors():
            shortfall = await self.call([], [])
        if shortfall:
            raise Overloaded(str(shortfall))

    def _judge(self, published: Any, waited: Any, on_disk: Any) -> Unavailable | None:
        for reply in (published, waited):
            if isinstance(reply, ANY_ERROR):
                with redis_errors():
                    raise reply
        confirmed = int(waited)
        if isinstance(on_disk, ANY_ERROR):
            self._fall_back(on_disk)
        else:
            local, on_disk_of_replicas = map(int, on_disk)
            confirmed = min(confirmed, on_disk_of_replicas) if local >= self._local else 0
        was_short, self._is_short = self._is_short, confirmed < self._replicas
        if not self._is_short:
            if was_short:
                log.info("replicas confirm again", replicas=self._replicas)
            return None
        return Unavailable(f"{confirmed} of {self._replicas} replicas have confirmed in time")

    def _fall_back(self, error: redis.exceptions.ResponseError) -> None:
        """Goes on without WAITAOF, which Redis has since version 7.2, and only with an AOF."""
        if not is_forbidden(error) and NO_AOF not in str(error):
            with redis_errors():
                raise error
        if self._has_waitaof:
            self._has_waitaof = False
            log.warning(
                "replicas confirm what they have in memory alone: an order is lost if Redis and these replicas lose "
                "power at once",
                reason=str(error),
            )


def of(settings: Settings, client: Redis, *, fence_key: str = "") -> ReplicaAcks | None:
    """The acknowledgements that the settings ask for; None without any."""
    if not settings.replica_acks:
        return None
    return ReplicaAcks(
        client,
        replicas=settings.replica_acks,
        milliseconds=settings.replica_ack_ms,
        is_always=settings.durability == "always",
        fence_key=fence_key,
    )


def of_card(settings: Settings, nodes: ClusterNodes, card: str) -> ReplicaAcks | None:
    """The same for a card of a cluster."""
    return of(settings, nodes.of(card).appends or nodes.of(card).commands, fence_key=keys.key(card, FENCE))


class AcksOfNodes:
    """The acknowledgements of the servers of all cards, for a service that appends nothing."""

    def __init__(self, settings: Settings, nodes: Nodes) -> None:
        self._of_card: dict[str, ReplicaAcks | None] = {}
        if isinstance(nodes, ClusterNodes):
            self._of_card = {card: of_card(settings, nodes, card) for card in settings.cards}
        else:
            self._of_card = dict.fromkeys(settings.cards, of(settings, nodes.commands))

    async def confirm(self, cards: Iterable[str]) -> None:
        """Waits until replicas have all of these cards, if the settings ask for it.

        Raises:
            Unavailable: too few have confirmed, or Redis does not answer.
        """
        await asyncio.gather(*(acks.confirm() for acks in self._of(cards)))

    async def check(self, cards: Iterable[str]) -> None:
        """Checks that replicas answer again, where the last wait was in vain. Until then nothing is to be written.

        Raises:
            Overloaded: too few replicas answer; nothing was written.
            Unavailable: Redis does not answer.
        """
        await asyncio.gather(*(acks.check() for acks in self._of(cards)))

    def _of(self, cards: Iterable[str]) -> set[ReplicaAcks]:
        return {acks for acks in map(self._of_card.__getitem__, cards) if acks}
