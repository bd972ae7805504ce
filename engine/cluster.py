"""A client of a Redis Cluster: each command goes to the server that has its card.

All keys of a card are in one slot. The Lua functions name one key, the hash tag of the card, which never exists. While
a slot is moved key by key, its server answers such a call with ASK, and the call has no effect. This client does not
follow ASK, since the new server would run the function with a part of the card's keys. It repeats the call until the
slot is at one server.
"""

import asyncio
import contextlib
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import redis.exceptions
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from core import urls
from core.errors import reason
from engine import keys, primary
from engine.primary import CONNECT_SECONDS, NotPrimary, _shut_down

log = structlog.get_logger()

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""The longest time that a server may take to describe the cluster."""

WATCH_SECONDS = 1.0
"""The interval at which a service looks which server has which slot."""

LOOK_PAUSE_SECONDS = 0.1
"""The shortest time between two looks."""

ASKED_MAX = 7
"""At most so many servers are asked for each look."""

MOVING_SECONDS = 2.0
"""How long a command is repeated while its slot is moved, or has no server. The command has had no effect."""

PAUSE_SECONDS = 0.02
MOVES_AT_ONCE = 3
"""After this many redirections of a command, each further one is followed after a pause."""

MOVING = (redis.exceptions.AskError, redis.exceptions.TryAgainError)
REDIRECTED = (*MOVING, redis.exceptions.ClusterDownError)
"""Replies to a command that had no effect, since another server has the slot, or none."""

KEYLESS = frozenset({"CLIENT", "CONFIG", "DBSIZE", "FUNCTION", "INFO", "PING", "PUBLISH", "ROLE", "TIME"})
ANYWHERE = frozenset({"PING", "TIME"})
TAG = re.compile(r"\{(\w+)\}")


class NotACluster(redis.exceptions.RedisError):
    """The address names a server that is no part of a cluster."""


class NoServer(redis.exceptions.ClusterDownError):
    """No server of the cluster has a slot."""


class Place(NamedTuple):
    """The address of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Description(NamedTuple):
    """What a server says about the cluster: its epoch, whether it works, the owners of slots, and all servers."""

    epoch: int
    is_ok: bool
    owners: Sequence[Place | None]
    places: frozenset[Place]


class Topology:
    """Which server has which slot."""

    def __init__(self, url: str) -> None:
        self._address = urls.cluster_address(url)
        seeds = [Place(*seed) for seed in self._address.seeds]
        self._seeds = seeds
        self._places: frozenset[Place] = frozenset(seeds)
        self._owners: list[Place | None] = []
        self._askers: dict[Place, Redis] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = -LOOK_PAUSE_SECONDS
        self._is_outdated = True
        self.listeners: list[Callable[[frozenset[Place]], Awaitable[None]]] = []
        """Functions that get the present primaries after each look."""

    def url_of(self, place: Place) -> str:
        """The address of one server."""
        return self._address.url_of(*place)

    async def place_of(self, slot: int) -> Place:
        """The server that has a slot.

        Raises:
            NoServer: no server has it.
            redis.exceptions.RedisError, OSError: no server of the cluster answers.
        """
        place = (await self.owners())[slot]
        if place is None:
            self._is_outdated = True
            raise NoServer(f"no server of the cluster has slot {slot}")
        return place

    async def owners(self) -> Sequence[Place | None]:
        """The server of each slot.

        Raises:
            redis.exceptions.RedisError, OSError: no server of the cluster answers.
        """
        if self._is_outdated or not self._owners:
            await self._look_if_due()
        return self._owners

    async def primaries(self) -> list[Place]:
        """All servers that have slots."""
        await self.owners()
        return self._primaries()

    def _primaries(self) -> list[Place]:
        return list(dict.fromkeys(place for place in self._owners if place is not None))

    def moved(self, slot: int, place: Place) -> None:
        """Records that a server has named the owner of a slot."""
        if self._owners:
            self._owners[slot] = place
        self._is_outdated = True

    def suspect(self) -> None:
        """Makes the next command look first, since a server did not answer as expected."""
        self._is_outdated = True

    async def watch(self) -> None:
        """Looks every `WATCH_SECONDS`, until it is canceled."""
        while True:
            try:
                await self.look()
            except (redis.exceptions.RedisError, OSError) as error:
                log.debug("the cluster could not be looked at", reason=reason(error))
            await asyncio.sleep(WATCH_SECONDS)

    async def _look_if_due(self) -> None:
        pause = self._looked_at + LOOK_PAUSE_SECONDS - asyncio.get_running_loop().time()
        if pause <= 0 or not self._owners:
            await self.look()

    async def look(self) -> None:
        """Asks the servers who has which slot. Callers at the same time share one look.

        Raises:
            NotACluster: the servers stand alone.
            redis.exceptions.RedisError, OSError: no server answers.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look at the cluster")
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        self._is_outdated = False
        try:
            found = await self._ask()
        except BaseException:
            self._is_outdated = True
            raise
        finally:
            self._looked_at = asyncio.get_running_loop().time()
        self._owners = list(found.owners)
        self._places = found.places | frozenset(self._seeds)
        primaries = frozenset(self._primaries())
        for listener in self.listeners:
            await listener(primaries)

    async def _ask(self) -> Description:
        """The description with the latest epoch, among a majority of those who were asked."""
        places = list(self._places)
        places = random.sample(places, ASKED_MAX) if len(places) > ASKED_MAX else places
        answers: list[Description] = []
        errors: list[Exception] = []
        pending = {asyncio.ensure_future(self._ask_one(place)) for place in places}
        try:
            while pending and len(answers) <= len(places) // 2:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        answers.append(task.result())
                    except (redis.exceptions.RedisError, OSError) as error:
                        errors.append(error)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if not answers:
            raise _worst(errors)
        return max(answers, key=lambda answer: (answer.is_ok, answer.epoch))

    async def _ask_one(self, place: Place) -> Description:
        asker: Any = self._askers.get(place)
        if asker is None:
            asker = self._askers[place] = Redis.from_url(
                self.url_of(place),
                socket_timeout=LOOK_SECONDS,
                socket_connect_timeout=CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        try:
            about, rows = (
                await asker.execute_command("CLUSTER", "INFO"),
                await asker.execute_command("CLUSTER", "SLOTS"),
            )
        except redis.exceptions.ResponseError as error:
            if "cluster support disabled" in str(error):
                raise NotACluster(f"{place} stands alone") from error
            raise
        return _description(place, dict(line.split(":", 1) for line in about.decode().split()), rows)

    async def aclose(self) -> None:
        """Closes its connections."""
        if self._looking is not None and not self._looking.done():
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for asker in self._askers.values():
            await asker.aclose()
        self._askers.clear()


def _worst(errors: Sequence[Exception]) -> Exception:
    """The error that says most: of a server that answers, or else a summary."""
    for error in errors:
        if isinstance(error, NotACluster | redis.exceptions.ResponseError | redis.exceptions.BusyLoadingError):
            return error
    texts = dict.fromkeys(reason(error) for error in errors)
    return redis.exceptions.ConnectionError(f"no server of the cluster answers: {'; '.join(texts)}")


def _description(asked: Place, about: Mapping[str, str], rows: Sequence[Any]) -> Description:
    owners: list[Place | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    places = set()
    for first, last, *servers in rows:
        named = [
            Place(host.decode() if host else asked.host, int(port))
            for host, port, *_ in servers
            if host != b"?"  # a server whose address the asked one does not know yet
        ]
        places.update(named)
        if named:
            owners[int(first) : int(last) + 1] = [named[0]] * (int(last) - int(first) + 1)
    return Description(
        int(about.get("cluster_current_epoch", 0)), about.get("cluster_state") == "ok", owners, frozenset(places)
    )


def slot_of(card: str) -> int:
    """The slot of a card."""
    return key_slot(keys.tag(card).encode())


def _slot_of_command(command: Sequence[Any]) -> int | None:
    """The slot of a command's first key. None if the command has no key."""
    name, _, _ = str(command[0]).upper().partition(" ")
    if name in KEYLESS:
        return None
    if name == "SCAN":
        tag = next((TAG.match(str(word)) for word in command if str(word).startswith("{")), None)
        return None if tag is None else slot_of(tag[1])
    place = 1
    if name in {"FCALL", "FCALL_RO"}:
        place = 3
    elif name == "XREAD":
        place = next(place for place, word in enumerate(command) if word in {"STREAMS", b"STREAMS"}) + 1
    key = command[place]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class _Servers:
    """A client for each server of a cluster. All views of a `ClusterClient` share it."""

    def __init__(self, topology: Topology, options: Mapping[str, Any]) -> None:
        self.topology = topology
        self._options = options
        self._clients: dict[Place, Redis] = {}
        topology.listeners.append(self._keep)

    def client(self, place: Place) -> Redis:
        """The client of a server."""
        found = self._clients.get(place)
        if found is None:
            found = self._clients[place] = primary.client(self.topology.url_of(place), **self._options)
        return found

    async def run(self, slot: int, call: Callable[[Redis], Awaitable[T]]) -> T:
        """Makes a call at the server that has a slot. A call that was refused without effect is repeated.

        `call` may have had no effect when it raises one of `REDIRECTED`.

        Raises:
            redis.exceptions.RedisError, OSError: the call failed, or the slot has no server for `MOVING_SECONDS`.
        """
        clock = asyncio.get_running_loop().time
        ends_at = clock() + MOVING_SECONDS
        moves = 0
        while True:
            try:
                place = await self.topology.place_of(slot)
                return await call(self.client(place))
            except redis.exceptions.MovedError as error:
                self.topology.moved(slot, Place(error.host or place.host, int(error.port)))
                moves += 1
                if moves <= MOVES_AT_ONCE:
                    continue
                refusal: Exception = error
            except (*REDIRECTED, NotPrimary) as error:
                self.topology.suspect()
                refusal = error
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
                self.topology.suspect()
                raise
            except RuntimeError as error:
                if "handler is closed" not in str(error):
                    raise
                # uvloop says so of a connection that was closed while a command was written to it
                self.topology.suspect()
                raise redis.exceptions.ConnectionError(f"the connection was closed: {error}") from error
            if clock() >= ends_at:
                raise refusal
            await asyncio.sleep(PAUSE_SECONDS)

    async def _keep(self, primaries: frozenset[Place]) -> None:
        """Ends the connections to servers that are no primaries any more."""
        for place in self._clients.keys() - primaries:
            former = self._clients.pop(place)
            await _end_connections(former, place)

    async def aclose(self) -> None:
        """Closes all clients."""
        self.topology.listeners.remove(self._keep)
        for client in self._clients.values():
            await client.aclose(close_connection_pool=True)
        self._clients.clear()


async def _end_connections(client: Redis, place: Place) -> None:
    """Ends all connections to a server, also those that wait for a reply."""
    pool: Any = client.connection_pool  # redis-py has no public access to open connections
    opened = [each for each in (*pool._available_connections, *pool._in_use_connections) if each.is_connected]
    for connection in opened:
        if connection in pool._in_use_connections:
            connection.mark_for_reconnect()
            _shut_down(connection._writer.get_extra_info("socket"))
        else:
            await connection.disconnect(nowait=True)
    if opened:
        log.warning("connections to a server without slots are closed", server=str(place), connections=len(opened))


class _PoolOfSlot(ConnectionPool):
    """Connections to the server that has a slot."""

    def __init__(self, servers: _Servers, slot: int | None) -> None:
        super().__init__()
        self._servers = servers
        self._slot = slot
        self._pools: dict[Any, Any] = {}

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection to the server that has the slot now."""
        if self._slot is None:
            raise TypeError("a connection to a cluster needs a card")
        slot = self._slot

        async def take(client: Redis) -> Any:
            pool: Any = client.connection_pool
            connection = await pool.get_connection()
            self._pools[connection] = pool
            return connection

        return await self._servers.run(slot, take)

    async def release(self, connection: Any) -> None:
        """Gives a connection back to the server's own pool."""
        await self._pools.pop(connection).release(connection)


class ClusterClient(Redis):
    """A client of a whole cluster. A command goes to the server that has the slot of its key.

    A view for a card (`of_card`) sends commands without a key to the server that has the card.
    """

    def __init__(self, servers: _Servers, *, slot: int | None = None, closes: Sequence[Any] = ()) -> None:
        """`slot`: of the card of a view. `closes`: what ends with this client."""
        self.connection_pool: Any
        super().__init__(connection_pool=_PoolOfSlot(servers, slot))
        self._servers = servers
        self.slot = slot
        self._closes = closes

    def of_card(self, card: str) -> "ClusterClient":
        """A view for a card. It ends with this client."""
        return ClusterClient(self._servers, slot=slot_of(card))

    async def places(self, cards: Iterable[str]) -> dict[str, Place | None]:
        """The server of each card. None if no server has it.

        Raises:
            redis.exceptions.RedisError, OSError: no server answers.
        """
        owners = await self._servers.topology.owners()
        return {card: owners[slot_of(card)] for card in cards}

    async def servers(self) -> dict[Place, Redis]:
        """A client of each server that has slots.

        Raises:
            redis.exceptions.RedisError, OSError: no server answers.
        """
        return {place: self._servers.client(place) for place in await self._servers.topology.primaries()}

    async def is_covered(self) -> bool:
        """Whether every slot has a server, as of now.

        Raises:
            redis.exceptions.RedisError, OSError: no server answers.
        """
        self._servers.topology.suspect()
        return None not in await self._servers.topology.owners()

    async def run(self, call: Callable[[Redis], Awaitable[T]]) -> T:
        """Makes a call at the server of a view's card (`_Servers.run`)."""
        assert self.slot is not None, "only a view has a card"  # noqa: S101 - views alone are given to callers
        return await self._servers.run(self.slot, call)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Executes a command at the server that has its key.

        Raises:
            TypeError: the command has no key, and this is no view of a card.
            redis.exceptions.RedisError, OSError: as in `_Servers.run`.
        """
        slot = self.slot_of(args)

        async def execute(client: Any) -> Any:
            return await client.execute_command(*args, **options)

        return await self._servers.run(slot, execute)

    def slot_of(self, command: Sequence[Any]) -> int:
        """The slot of a command."""
        slot = _slot_of_command(command)
        slot = self.slot if slot is None else slot
        if slot is None and command[0] in ANYWHERE:
            slot = 0
        if slot is None:
            raise TypeError(f"{command[0]} has no key: it must be sent to each server of the cluster")
        return slot

    async def run_at(self, slot: int, call: Callable[[Redis], Awaitable[T]]) -> T:
        """Makes a call at the server that has a slot (`_Servers.run`)."""
        return await self._servers.run(slot, call)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        """A pipeline. In a transaction, all commands belong to one card."""
        del shard_hint
        return ClusterPipeline(self, is_transaction=transaction)

    def pubsub(self, **options: Any) -> PubSub:
        """A subscription at the server that has the card of this view."""
        return PubSub(self.connection_pool, **options)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes all that ends with this client."""
        del close_connection_pool
        for each in self._closes:
            await each.aclose()


class ClusterPipeline(Pipeline):
    """Commands that are sent to several servers at once."""

    def __init__(self, client: ClusterClient, *, is_transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, is_transaction, None)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The replies, in the order of the commands.

        Raises:
            redis.exceptions.RedisError, OSError: a server failed; or a command, with `raise_on_error`.
        """
        stack: list[Any] = self.command_stack
        self.command_stack = []
        if not stack:
            return []
        places_of_slot = self._places_of_slot(stack)
        if self.is_transaction:
            (slot,) = places_of_slot
            return await self._client.run_at(
                slot, lambda client: _send(client, stack, transaction=True, raises=raise_on_error)
            )
        replies: list[Any] = [None] * len(stack)
        await asyncio.gather(
            *(self._execute_at(slot, places, stack, replies) for slot, places in places_of_slot.items())
        )
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if raise_on_error and failed is not None:
            raise failed
        return replies

    def _places_of_slot(self, stack: Sequence[Any]) -> dict[int, list[int]]:
        """The places of the commands of each slot. A command without a key joins the only slot that there is."""
        known = {_slot_of_command(command) for command, _ in stack} - {None}
        places: dict[int, list[int]] = {}
        for place, (command, _) in enumerate(stack):
            slot = _slot_of_command(command)
            if slot is None:
                (slot,) = known or {self._client.slot_of(command)}
            places.setdefault(slot or 0, []).append(place)
        return places

    async def _execute_at(self, slot: int, places: Sequence[int], stack: Sequence[Any], replies: list[Any]) -> None:
        """Executes commands at the server of a slot. Those that were refused without effect are repeated."""
        left = list(places)

        async def send(client: Redis) -> None:
            received = await _send(client, [stack[place] for place in left], transaction=False, raises=False)
            for place, reply in zip(left, received, strict=True):
                replies[place] = reply
            refused = [place for place in left if isinstance(replies[place], REDIRECTED)]
            if refused:
                left[:] = refused
                raise replies[refused[0]]

        with contextlib.suppress(*REDIRECTED):  # they are the replies then
            await self._client.run_at(slot, send)


async def _send(client: Redis, stack: Sequence[Any], *, transaction: bool, raises: bool) -> list[Any]:
    pipeline: Any = client.pipeline(transaction=transaction)
    for command, options in stack:
        pipeline.execute_command(*command, **options)
    replies: list[Any] = await pipeline.execute(raise_on_error=raises)
    return replies


def client(url: str, topology: Topology | None = None, **options: Any) -> ClusterClient:
    """A client of the cluster of an address. `topology`: shared with other clients, and closed by their owner.

    Raises:
        ValueError: an option of the address has a wrong value.
    """
    shared = topology or Topology(url)
    servers = _Servers(shared, options)
    return ClusterClient(servers, closes=[servers] if topology else [servers, shared])


async def servers_of(client: Redis) -> Iterable[Redis]:
    """A client of each server behind a client: that client itself, unless it leads to a whole cluster.

    Raises:
        redis.exceptions.RedisError, OSError: no server of the cluster answers.
    """
    if isinstance(client, ClusterClient) and client.slot is None:
        return (await client.servers()).values()
    return [client]
