"""Log and archive that do not belong together: nothing is mixed, no order id is given twice, and there is a way out.

Random sequences of what happens to servers run on a real Redis and a real PostgreSQL, with log, matcher and archiver in
this process: `pytest tests/whole/test_history.py --rounds 100` runs as many as one likes, and prints the seed of a
failure.
"""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from archiver import postgres, recovery
from archiver.archiver import Archiver
from archiver.history import ArchivedHistory, compare
from core.errors import HistoryConflict
from core.model import Accepted, CancelOrder, Command, PlaceOrder, Side, TimeInForce
from core.service import cancel_and_wait
from engine import connection, library
from engine.matcher import Matcher
from engine.nodes import Node, Nodes
from engine.order_log import OrderLog
from testing.faults import restart
from testing.servers import Servers, servers

pytestmark = pytest.mark.server

CARDS = ("pikachu", "squirtle")
REPORTED_SECONDS = 5.0
POLL_SECONDS = 0.02
STEPS = 24
SEED = 20_261_126
TABLES = ("orders", "trades", "archive_cursor", "histories")


@pytest.fixture(scope="module")
def replaceable() -> Iterator[Servers]:
    """A Redis and a PostgreSQL whose data can be put aside and brought back."""
    with servers(cards=CARDS, event_retention=20, log_retention=40) as running:
        yield running


class Exchange:
    """What the services do, one step at a time; and what was acknowledged, as the judge."""

    def __init__(self, servers: Servers, choose: random.Random) -> None:
        self.servers = servers
        self.settings = servers.settings
        self.choose = choose
        self.acknowledged: dict[tuple[str, int], str] = {}
        self.conflicts = 0
        self.recovered = 0
        self.archive_is_older = False
        self._count = 0
        self._stack = AsyncExitStack()
        self._copies: list[Path] = []
        self._archives = 0

    async def __aenter__(self) -> "Exchange":
        await self.servers.empty()
        await self._connect()
        await self.start_api()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_api()
        await self._stack.aclose()
        for copy in self._copies:
            shutil.rmtree(copy)

    async def _connect(self) -> None:
        self.redis = await self._stack.enter_async_context(connection.connect(self.settings.redis_url))
        blocking = await self._stack.enter_async_context(connection.connect_blocking(self.settings.redis_url))
        self.node = Node(self.redis, blocking, CARDS)
        self.pool = await self._stack.enter_async_context(postgres.pool(self.settings.database_url))
        self.database: asyncpg.Connection = await postgres.connect(self.settings.database_url)
        self._stack.push_async_callback(self.database.close)

    # -- the API

    async def start_api(self) -> None:
        self.stopping = asyncio.Event()
        self.history = ArchivedHistory(self.redis, self.pool, CARDS)
        self.log = OrderLog(self.redis, backlog_max=1_000_000, pending_max=1_000_000, history=self.history)
        self.running = asyncio.create_task(self.history.run(self.stopping))

    async def stop_api(self) -> None:
        self.stopping.set()
        await self.running
        await cancel_and_wait(self.running)

    def _commands(self) -> list[Command]:
        commands: list[Command] = []
        for _ in range(self.choose.randint(1, 12)):
            card = self.choose.choice(CARDS)
            own = [sequence for of_card, sequence in self.acknowledged if of_card == card]
            if own and self.choose.random() < 0.15:
                commands.append(CancelOrder(trader_id=1, card=card, sequence=self.choose.choice(own)))
                continue
            self._count += 1
            commands.append(
                PlaceOrder(
                    trader_id=self.choose.randint(1, 3),
                    card=card,
                    side=self.choose.choice([Side.BUY, Side.SELL]),
                    price_cents=self.choose.randint(495, 505),
                    quantity=self.choose.randint(1, 3),
                    time_in_force=self.choose.choice([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC]),
                    client_order_id=f"order-{self._count}",
                )
            )
        return commands

    # -- steps

    async def place(self) -> None:
        commands = self._commands()
        outcomes = await self.log.append_all(commands)
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, HistoryConflict):
                self.conflicts += 1
                continue
            assert isinstance(outcome, Accepted), outcome
            place = (command.card, outcome.sequence)
            assert place not in self.acknowledged, f"{place} was given twice"
            name = command.client_order_id if isinstance(command, PlaceOrder) else None
            self.acknowledged[place] = name or ""
        if not any(isinstance(outcome, HistoryConflict) for outcome in outcomes):
            await self.history.register()
            self.archive_is_older = False

    async def match(self) -> None:
        await library.load(self.redis)
        matcher = Matcher(self.node, batch=7)
        due = list(CARDS)
        while due:
            due = await matcher.match(due)

    async def archive(self) -> None:
        await library.load(self.redis)
        archiver = Archiver(self.settings, Nodes([self.node]), self.database, pool=self.pool)
        try:
            await archiver.compare()
        except HistoryConflict:
            return
        await archiver.flush()

    async def restart_redis(self) -> None:
        await restart(self.servers.redis)
        await self.redis.connection_pool.disconnect()

    async def copy_redis(self) -> None:
        copy = self.servers.data_dir / f"redis-{len(self._copies)}"
        shutil.copytree(self.servers.data_dir / "redis", copy)
        self._copies.append(copy)

    async def older_redis(self) -> None:
        if not self._copies:
            return
        place = self.servers.data_dir / "redis"
        await restart(self.servers.redis, data=self.choose.choice(self._copies), place=place)
        await self.redis.connection_pool.disconnect()

    async def empty_redis(self) -> None:
        await self.redis.flushall()

    async def copy_archive(self) -> None:
        name = f"copy_{self._archives}"
        await self.database.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")
        for table in TABLES:
            await self.database.execute(f"CREATE TABLE {name}.{table} AS TABLE public.{table}")
        self._archives += 1

    async def older_archive(self) -> None:
        if not self._archives:
            return
        name = f"copy_{self.choose.randrange(self._archives)}"
        async with self.database.transaction():
            await self.database.execute(f"TRUNCATE {', '.join(TABLES)}")
            for table in TABLES:
                copied = f"INSERT INTO {table} SELECT * FROM {name}.{table}"  # noqa: S608 - our own names
                await self.database.execute(copied)
        self.archive_is_older = True

    async def restart_api(self) -> None:
        # Where both servers are older copies, the processes that ran are all that knows better.
        if not self.archive_is_older:
            await self.stop_api()
            await self.start_api()

    # -- judging

    async def reported(self) -> None:
        """A fault is reported in time, recovered from, and then orders are taken again."""
        async with asyncio.timeout(REPORTED_SECONDS):
            while True:
                compared = await compare(self.redis, self.database, CARDS)
                faulty = {card for card, comparison in compared.items() if comparison.verdict.fault}
                if faulty <= self.history.faults.keys():
                    break
                await asyncio.sleep(POLL_SECONDS)

    async def recover(self) -> None:
        """Until nothing is refused: an older copy of the archive is told by the API what was given out, and has to be
        recovered from once more."""
        async with asyncio.timeout(2 * REPORTED_SECONDS):
            await self._recover_once()
            while self.history.faults:
                await asyncio.sleep(POLL_SECONDS)
                await self._recover_once()
        compared = await compare(self.redis, self.database, CARDS)
        assert [comparison.verdict for comparison in compared.values() if comparison.verdict.fault] == []
        before = self.conflicts
        await self.place()
        assert self.conflicts == before

    async def _recover_once(self) -> None:
        plans = await recovery.plans(self.redis, self.database, CARDS)
        for plan in plans:
            await recovery.recover(self.redis, self.database, plan)
        self.recovered += len(plans)

    async def judge(self) -> None:
        """Each archived row is the order that was acknowledged under its id."""
        rows = await self.database.fetch("SELECT card, sequence, client_order_id FROM orders")
        for row in rows:
            assert self.acknowledged[row["card"], row["sequence"]] == row["client_order_id"]
        fills = await self.database.fetch("SELECT card, taker_sequence, maker_sequence FROM trades")
        for fill in fills:
            assert (fill["card"], fill["taker_sequence"]) in self.acknowledged
            assert (fill["card"], fill["maker_sequence"]) in self.acknowledged


Step = Callable[[Exchange], Awaitable[None]]
STEPS_BY_WEIGHT: dict[Step, int] = {
    Exchange.place: 6,
    Exchange.match: 4,
    Exchange.archive: 4,
    Exchange.restart_redis: 1,
    Exchange.copy_redis: 2,
    Exchange.older_redis: 1,
    Exchange.empty_redis: 1,
    Exchange.copy_archive: 2,
    Exchange.older_archive: 1,
    Exchange.restart_api: 2,
}


async def run_random(servers: Servers, seed: int) -> tuple[int, int]:
    """A random sequence of steps; how many cards were recovered, and how many orders refused."""
    choose = random.Random(seed)
    async with Exchange(servers, choose) as exchange:
        await exchange.place()
        for _ in range(STEPS):
            (step,) = choose.choices(list(STEPS_BY_WEIGHT), weights=list(STEPS_BY_WEIGHT.values()))
            await step(exchange)
            if choose.random() < 0.5:
                await exchange.place()  # before anybody has looked
            await exchange.reported()
            if exchange.history.faults and choose.random() < 0.5:
                await exchange.recover()
        await exchange.recover()
        await exchange.match()
        await exchange.archive()
        await exchange.judge()
        return exchange.recovered, exchange.conflicts


def test_whatever_happens_to_the_servers_no_id_is_given_twice_and_no_row_mixed(
    replaceable: Servers, pytestconfig: pytest.Config
) -> None:
    recovered = conflicts = 0
    for seed in range(SEED, SEED + pytestconfig.getoption("--rounds")):
        try:
            found = asyncio.run(run_random(replaceable, seed))
        except BaseException:
            print(f"seed {seed}")  # noqa: T201 - how to repeat it
            raise
        recovered, conflicts = recovered + found[0], conflicts + found[1]
    print(f"{recovered} cards recovered, {conflicts} orders refused")  # noqa: T201 - the figures

    assert recovered > 0
    assert conflicts > 0
