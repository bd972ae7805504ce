"""The Lua library: joins the files of lua/ into one Redis Functions library and loads it."""

from functools import cache
from importlib.resources import files
from typing import Any

import redis.exceptions
import structlog

from core.model import (
    CLIENT_ORDER_ID_SECONDS,
    COMMANDS_MAX,
    LATEST,
    PRICE_CENTS_MAX,
    QUANTITY_MAX,
    SEQUENCE_MAX,
    TRADER_ID_MAX,
)
from engine import codec
from engine.connection import redis_errors

log = structlog.get_logger()

NAME = "tcgx"

LIMITS = {
    "commands_max": COMMANDS_MAX,
    "latest": LATEST,
    "sequence_digits": codec.SEQUENCE_DIGITS,
    "sequence_max": SEQUENCE_MAX,
    "trader_id_max": TRADER_ID_MAX,
    "price_cents_max": PRICE_CENTS_MAX,
    "quantity_max": QUANTITY_MAX,
    "client_order_id_seconds": CLIENT_ORDER_ID_SECONDS,
}
"""Bounds that Lua and Python both know. The library has them as the local table `limits`."""

# Parts are local tables that later parts and the functions use, so their order matters: those that several functions
# use, then the phases of match.
PARTS = (
    *("text", "bulk", "cursor", "history", "log", "order_line", "side", "levels", "trader"),
    *("budget", "take", "cancel", "report", "write"),
)
WRITING = ("append", "cancel_all", "begin", "match", "trim")
FREEING = ("trim",)  # allowed where memory is full: else nothing would ever make room
READING = ("history", "order", "trader_orders", "client_order", "depth", "state_hash")


@cache
def source() -> str:
    """The whole library as `FUNCTION LOAD` takes it.

    While a library loads, Lua has no globals (no `string`, no `math`), so everything is built by the
    first call of a function and kept.
    """
    folder = files("lua")
    lines = [f"#!lua name={NAME}", "local function build()", *parts(), "return {"]
    for name in WRITING + READING:
        lines += [f"{name} = (function()", (folder / f"{name}.lua").read_text(), "end)(),"]
    lines += ["}", "end", "local built"]
    for name in WRITING + READING:
        flags = "'no-writes'" if name in READING else "'allow-oom'" if name in FREEING else ""
        lines += [
            "redis.register_function({",
            f"  function_name = '{name}', flags = {{ {flags} }},",
            "  callback = function(keys, args)",
            "    built = built or build()",
            f"    return built.{name}(keys, args)",
            "  end,",
            "})",
        ]
    return "\n".join(lines) + "\n"


def parts() -> list[str]:
    """Lines of Lua that make the limits and the parts, as local tables."""
    folder = files("lua") / "parts"
    lines = [f"local limits = {{ {', '.join(f'{name} = {value}' for name, value in LIMITS.items())} }}"]
    for name in PARTS:
        lines += [f"local {name} = (function()", (folder / f"{name}.lua").read_text(), f"return {name}", "end)()"]
    return lines


def is_missing(reply: Any) -> bool:
    """Whether this reply to a call says that the server has no library; then nothing was run."""
    return isinstance(reply, redis.exceptions.ResponseError) and "Function not found" in str(reply)


async def call(client: Any, function: str, tag: str, *arguments: str | int) -> Any:
    """The reply of a function to a card (`keys.tag`). A server that has lost the library, as one that was emptied or
    replaced, gets it again: nothing was run then, so it is safe to call again."""
    called = client.fcall_ro if function in READING else client.fcall
    texts = [str(argument) for argument in arguments]
    try:
        return await called(function, 1, tag, *texts)
    except redis.exceptions.ResponseError as error:
        if not is_missing(error):
            raise
    await load_again(client)
    return await called(function, 1, tag, *texts)


async def load_again(client: Any) -> None:
    """Loads it on a server that has lost it (`is_missing`), and says so."""
    log.warning("Redis has lost the Lua library: it is loaded again")
    await load(client)


async def is_loaded(client: Any) -> bool:
    """Whether the server's library is this one."""
    with redis_errors():
        loaded = await client.function_list(library=NAME, withcode=True)
    return bool(loaded) and source() in _texts(loaded[0])


async def load(client: Any) -> None:
    """Makes the server's library this one; does nothing where it already is."""
    if not await is_loaded(client):
        with redis_errors():
            await client.function_load(source(), replace=True)


def _texts(described: Any) -> set[str]:
    items = described.values() if isinstance(described, dict) else described
    return {item.decode() if isinstance(item, bytes) else item for item in items if isinstance(item, (bytes, str))}
