"""`python -m testing.first_order`: places an order through the API of this machine, and cancels it. For smoke tests.

The settings are those of the API process, so it runs where that process runs. The exit code is 1 without an answer.
"""

import http.client
import json
import os
import sys
import uuid
from typing import Any

from core.model import price_text
from core.settings import Settings, read
from exchange import tokens

TRADER = 1
SECONDS = 10.0


class Refused(Exception):
    """An answer that is not the expected one."""


def _call(settings: Settings, method: str, path: str, expected: int, body: object = None) -> Any:
    token = tokens.issue_token(settings.jwt_secret, TRADER, "trader", 60)
    connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=SECONDS)
    try:
        head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), head)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status != expected:
        raise Refused(f"{method} {path}: {answer.status} {text}")
    return json.loads(text)


def main() -> int:
    """Buys one card at the lowest price, which rests, and cancels that."""
    settings = read(os.environ)
    order = {
        "card": settings.cards[0],
        "side": "buy",
        "price": price_text(settings.price_cents_min),
        "quantity": 1,
        "client_order_id": f"smoke-{uuid.uuid4().hex[:16]}",
    }
    try:
        placed = _call(settings, "POST", "/orders", 202, order)
        _call(settings, "DELETE", f"/orders/{placed['order_id']}", 202)
    except (OSError, http.client.HTTPException, Refused) as error:
        print(f"no order: {error}", file=sys.stderr)
        return 1
    print(f"{placed['order_id']} was placed, and is canceled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
