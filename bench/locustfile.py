"""The same load as bench/k6.js with Locust; bench/README.md says how to run it. TOKENS: a file with a token a line."""

import itertools
import os
import random
from pathlib import Path

from locust import FastHttpUser, constant, task

CARDS = ("pikachu", "bulbasaur", "charmander", "squirtle")
TOKENS = itertools.cycle(Path(os.environ["TOKENS"]).read_text().split())


class Trader(FastHttpUser):
    """A trader that places orders, and now and then reads."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Takes a token of its own."""
        self.headers = {"authorization": f"Bearer {next(TOKENS)}"}

    @task(7)
    def place(self) -> None:
        """Places an order."""
        order = {
            "card": random.choice(CARDS),
            "side": random.choice(("buy", "sell")),
            "price": f"{random.randint(100, 1_000) / 100:.2f}",
        }
        with self.client.post("/orders", json=order, headers=self.headers, catch_response=True) as answer:
            if answer.status_code != 202:
                answer.failure(f"status {answer.status_code}")

    @task(1)
    def my_orders(self) -> None:
        """Reads its latest orders."""
        self.client.get("/orders", headers=self.headers)

    @task(1)
    def book(self) -> None:
        """Reads a book."""
        self.client.get(f"/cards/{random.choice(CARDS)}/book", headers=self.headers, name="/cards/[card]/book")

    @task(1)
    def trades(self) -> None:
        """Reads a card's trades."""
        self.client.get(f"/cards/{random.choice(CARDS)}/trades", headers=self.headers, name="/cards/[card]/trades")
