"""The order log of a cluster: an order log for each card, since a card's server must not delay the orders of others."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import structlog
from redis.asyncio import Redis

from core.errors import Overloaded, TcgxError
from core.log_limit import RateLimitedLog
from core.model import Command
from engine.cluster import ClusterClient, Place
from engine.connection import redis_errors
from engine.fair_queue import Outcome
from engine.memory import LOOK_SECONDS, MemoryState, MemoryWatch
from engine.order_log import CancelAllResult, OrderLog

rate_limited_log = RateLimitedLog(structlog.get_logger())


class CardOrderLogs(OrderLog):
    """The logs of all cards. `logs`: the log of each card."""

    def __init__(self, client: Redis, logs: Mapping[str, OrderLog]) -> None:
        super().__init__(client, backlog_max=0, pending_max=0)
        self._logs = logs

    def check_room(self, trader_id: int, cards: Iterable[str]) -> None:
        """Refuses a request that no card has room for, as `OrderLog.check_room`.

        Raises:
            Overloaded: every card would refuse each command of this trader.
        """
        refusal: Overloaded | None = None
        for card in cards:
            try:
                self._logs[card].check_room(trader_id, [card])
            except Overloaded as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise refusal

    async def cancel_all(self, card: str, trader_id: int) -> CancelAllResult:
        """Appends a cancel for each order of a trader that may be open (`OrderLog.cancel_all`)."""
        return await self._logs[card].cancel_all(card, trader_id)

    async def close(self) -> None:
        """Waits until all submitted commands are appended."""
        await asyncio.gather(*(log.close() for log in self._logs.values()))

    def _submit(self, card: str, trader_id: int, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome]]":
        return self._logs[card]._submit(card, trader_id, commands)


class ClusterMemory:
    """Watches over the memory of all servers of a cluster. `watches`: the watch of each card, for its order log."""

    def __init__(self, client: ClusterClient, cards: Iterable[str], *, percent: int) -> None:
        """`percent`: the share of `maxmemory` from which on orders are refused."""
        self._client = client
        self._percent = percent
        self._servers: dict[Place, MemoryWatch] = {}
        self.watches = {card: MemoryWatch(client, percent=percent) for card in cards}

    async def run(self) -> None:
        """Looks until it is canceled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Reads the memory of every server once."""
        try:
            with redis_errors():
                servers = await self._client.servers()
                places = await self._client.places(self.watches)
        except TcgxError as error:
            rate_limited_log.warning("the memory of Redis is not known", reason=str(error))
            return
        known = {
            place: self._servers.get(place) or MemoryWatch(server, percent=self._percent)
            for place, server in servers.items()
        }
        self._servers = known
        await asyncio.gather(*(watch.look() for watch in known.values()))
        for card, watch in self.watches.items():
            place = places[card]
            watch.state = known[place].state if place in known else MemoryState()
