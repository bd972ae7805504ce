"""docs/limits.md has the limits of the code."""

from pathlib import Path

import pytest

from api.openapi.error_codes import ERROR_CODES
from api.prefer import WAIT_SECONDS_MAX
from core.model import CANCEL_AFTER_SECONDS_MAX, CLIENT_ORDER_ID_PATTERN, COMMANDS_MAX, LATEST, PRICE_CENTS_MAX
from core.rules import ERRORS_MAX
from core.settings import DESCRIPTIONS, Settings, variable
from streams.channels import CHANNELS_MAX

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROWS = dict(line.strip("| ").split(" | ", 1) for line in PAGE.splitlines() if line.startswith("| "))
DEFAULTS = Settings()


@pytest.mark.parametrize(
    ("row", "limit"),
    [
        ("orders in a batch", COMMANDS_MAX),
        ("`Prefer: wait`", WAIT_SECONDS_MAX),
        ("latest orders and trades that Redis keeps at least", LATEST),
        ("`cancel-after`", CANCEL_AFTER_SECONDS_MAX),
        ("channels of a stream", CHANNELS_MAX),
        ("errors in one answer", ERRORS_MAX),
        ("quantity", DEFAULTS.max_quantity),
        ("body of a request", DEFAULTS.body_bytes_max),
        ("commands of a card that wait to be matched", DEFAULTS.backlog_max),
    ],
)
def test_a_limit_is_that_of_the_code(row: str, limit: int) -> None:
    assert f"{limit:,}" in ROWS[row]


def test_prices_and_ids_are_those_of_the_code() -> None:
    assert f"{PRICE_CENTS_MAX / 100:,.2f}" in ROWS["price that an operator may allow"]
    assert "{1,64}" in CLIENT_ORDER_ID_PATTERN
    assert "64 characters" in ROWS["`client_order_id`"]
    assert f"{DEFAULTS.price_cents_min / 100:.2f} to {DEFAULTS.price_cents_max / 100:.2f}" in ROWS["price"]
    assert (DEFAULTS.trader_orders_per_second, DEFAULTS.trader_open_orders_max) == (0, 0)


def test_every_code_and_setting_of_the_page_exists() -> None:
    words = {word.strip("`") for word in PAGE.replace(",", " ").split() if word.startswith("`")}
    codes = {word for word in words if word.startswith(("invalid_", "too_many_", "overloaded"))}
    settings = {word for word in words if word.startswith("TCGX_")}

    assert codes <= {key.split()[1] for key in ERROR_CODES}
    assert settings <= {variable(field) for field in DESCRIPTIONS}
    assert len(codes) >= 7
    assert len(settings) >= 8
