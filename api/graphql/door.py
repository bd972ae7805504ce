"""What the resolvers of one request or socket share: its caller, its loaders, and its streams."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from strawberry.dataloader import DataLoader

from api.context import Context
from api.gate import header
from archiver.audit import Actor
from core.errors import Overloaded, RateLimited, TcgxError, Unauthenticated, Unavailable, UnknownCard
from core.model import Fill, Order
from exchange.administration import actor_of
from exchange.market import Ticker
from exchange.tokens import Caller
from streams import channels as names
from streams import messages
from streams.messages import Bye, Message
from streams.session import INTERVAL_MS


class GraphqlDoor:
    """The exchange as one request or socket sees it. Loaders read once what several fields of a query need."""

    def __init__(self, context: Context, scope: Any) -> None:
        self.exchange = context.exchange
        self.market = context.market
        self.archive_reader = context.archive_reader
        self.administration = context.administration
        self.authorization = header(scope["headers"], b"authorization")
        self._context = context
        client = scope.get("client")
        self._address = str(client[0]) if client else ""
        self.fills: DataLoader[Order, Sequence[Fill]] = DataLoader(
            load_fn=self._load_fills, cache_key_fn=lambda order: order.order_id, cache=False
        )
        self.tickers: DataLoader[str, Ticker] = DataLoader(load_fn=self._load_tickers, cache=False)

    @property
    def caller(self) -> Caller:
        """Who asks. The token is judged at each call, since a socket outlives it.

        Raises:
            Unauthenticated: there is no valid token.
        """
        return self._context.gate.admit([] if self.authorization is None else [(b"authorization", self.authorization)])

    @property
    def actor(self) -> Actor:
        """The caller, as the audit names it."""
        return actor_of(self.caller, self._address)

    def check_traded(self, card: str) -> None:
        """Checks that a card is traded.

        Raises:
            UnknownCard: it is not.
        """
        if card not in self.exchange.cards:
            raise UnknownCard(card, self.exchange.cards)

    async def _load_fills(self, orders: list[Order]) -> list[Sequence[Fill]]:
        found = await self.exchange.fills_of_many(orders)
        return [found[order.order_id] for order in orders]

    async def _load_tickers(self, cards: list[str]) -> list[Ticker]:
        found = {ticker.card: ticker for ticker in await self.market.tickers(list(dict.fromkeys(cards)))}
        return [found[card] for card in cards]

    async def follow(self, channels: Sequence[str], positions: str = "") -> AsyncGenerator[Message, None]:
        """The messages of a stream of the hub, until it ends.

        Raises:
            TcgxError: why the stream cannot begin, or why it ended.
        """
        hub = self._context.hub
        wanted = names.parse_list(",".join(channels), hub.cards)
        after = names.parse_positions(positions, hub.cards)
        caller = None if self.authorization is None else self.caller
        session = await hub.begin(wanted, after, address=self._address, interval_ms=INTERVAL_MS, caller=caller)
        task = asyncio.current_task()
        session.abort = lambda: task.cancel() if task else None  # type: ignore[assignment]
        clock = asyncio.get_running_loop().time
        try:
            while found := await session.next():
                session.sending_since = clock()
                for message in found:
                    yield message
                session.sending_since = None
            raise _ended(session.bye)
        finally:
            hub.remove(session)


def _ended(bye: Bye | None) -> TcgxError:
    """The error that ends a subscription."""
    if bye is None or bye.code in (messages.RESTARTING, messages.UNAVAILABLE):
        return Unavailable(bye.detail if bye else "the stream has ended")
    if bye.code == messages.UNAUTHORIZED:
        return Unauthenticated(bye.reason, bye.detail)
    if bye.code == messages.TOO_MANY:
        return RateLimited(bye.detail, limit=1, retry_seconds=5, reset_seconds=5)
    return Overloaded(bye.detail)
