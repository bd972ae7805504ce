"""`tcgx up --demo`: make-believe traders who quote and trade on every card, so that there is something to see.

Their prices are a random walk without any meaning. They call the REST API, as every bot does.
"""

import asyncio
import json
import random
import ssl
import urllib.error
import urllib.request
from typing import Any

import structlog

from core import service
from core.errors import reason
from core.heartbeat import Progress
from core.log_limit import RateLimitedLog
from core.model import TRADER_ID_MAX, price_text
from core.service import Backoff
from core.settings import Settings
from exchange import tokens

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

TICK_SECONDS = 0.25
CALL_SECONDS = 10
MAKERS = 6
"""Traders of each card who quote. One of them quotes anew in each tick of the card."""

TAKERS = 4
FIRST_TRADER = TRADER_ID_MAX - 10_000
"""No trader of an exchange has an id from here on: `tcgx traders` counts up from 1. So nobody's orders are canceled."""

TOKEN_SECONDS = 86_400 * 30
LEVELS = 7
TAKES = 0.7
"""The share of ticks in which somebody takes a quote."""

WALK_CENTS = (-2, -1, 0, 0, 1, 2)

# The address is this machine's, so a proxy does not lead to it, and its certificate need not name it.
_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
)


class Crowd:
    """The traders of one card."""

    def __init__(self, settings: Settings, card: str, first_trader: int, seed: int) -> None:
        self._settings = settings
        self._card = card
        self._choose = random.Random(seed)  # noqa: S311 - prices, no secrets
        self._low, self._high = settings.price_cents_min + 60, settings.price_cents_max - 60
        self._middle = self._choose.randint(self._low, self._high)
        self._tick = 0
        traders = range(first_trader, first_trader + MAKERS + TAKERS)
        self._tokens = [
            tokens.issue_token(settings.jwt_secret, trader_id, "trader", TOKEN_SECONDS) for trader_id in traders
        ]

    def act(self) -> None:
        """One maker quotes around the middle, which walks; perhaps a taker trades.

        Raises:
            OSError: the API does not answer.
        """
        choose = self._choose
        self._tick += 1
        self._middle = min(self._high, max(self._low, self._middle + choose.choice(WALK_CENTS)))
        maker = self._tokens[self._tick % MAKERS]
        self._call("DELETE", f"/orders?card={self._card}", maker)
        self._call("POST", "/orders/batch", maker, {"orders": self._quotes()})
        if choose.random() < TAKES:
            side = choose.choice(("buy", "sell"))
            cents = self._middle + (8 if side == "buy" else -8)
            taker = self._tokens[MAKERS + choose.randrange(TAKERS)]
            self._call(
                "POST", "/orders", taker, self._order(side, cents, choose.randint(1, 25)) | {"time_in_force": "ioc"}
            )

    def _quotes(self) -> list[dict[str, Any]]:
        choose, found = self._choose, []
        for level in range(LEVELS):
            for side, sign in (("buy", -1), ("sell", 1)):
                cents = self._middle + sign * (1 + 2 * level + choose.randint(0, 2))
                found.append(self._order(side, cents, choose.randint(1, 6 + 5 * level)))
        return found

    def _order(self, side: str, cents: int, quantity: int) -> dict[str, Any]:
        return {"card": self._card, "side": side, "price": price_text(cents), "quantity": quantity}

    def _call(self, method: str, path: str, token: str, body: Any = None) -> None:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        scheme = "https" if self._settings.tls_cert else "http"
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{scheme}://{host}:{self._settings.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        with _OPENER.open(request, timeout=CALL_SECONDS) as answer:
            answer.read()


async def work(settings: Settings, stopping: asyncio.Event, _: Progress) -> None:
    """Trades until a stop. While the API does not answer, everybody waits."""
    count = MAKERS + TAKERS
    crowds = [
        Crowd(settings, card, FIRST_TRADER + place * count, seed=place) for place, card in enumerate(settings.cards)
    ]
    backoff = Backoff(stopping)
    service.tell_ready(settings)
    log.info("make-believe traders are at work", traders=count * len(crowds))
    while not stopping.is_set():
        try:
            for crowd in crowds:
                await asyncio.to_thread(crowd.act)
        except OSError as error:
            rate_limited_log.warning("make-believe traders wait", reason=reason(error))
            await backoff.wait()
            continue
        backoff.succeeded()
        try:
            await asyncio.wait_for(stopping.wait(), TICK_SECONDS)
        except TimeoutError:
            continue
