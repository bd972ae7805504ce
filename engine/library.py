"""The Lua library: joins the files of lua/ into one library of Redis Functions, loads it and calls it."""

from functools import cache
from importlib.resources import files
from typing import Any

import redis.exceptions
import structlog

from core.model import (
    CANCEL_AFTER_SECONDS_MAX,
    CLIENT_ORDER_ID_SECONDS,
    COMMANDS_MAX,
    LATEST,
    PRICE_CENTS_MAX,
    QUANTITY_MAX,
    SEQUENCE_MAX,
    TRADER_ID_MAX,
)
from engine import codec
from engine.cluster import servers_of
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
    "cancel_after_seconds_max": CANCEL_AFTER_SECONDS_MAX,
}
"""Bounds that both Lua and Python use. The library has them as its local table `limits`."""

# Parts are local tables that later parts and the functions use, so their order matters. Shared parts come first, then
# the phases of match.
PARTS = (
    *("text", "bulk", "cursor", "history", "log", "order_line", "side", "levels", "watching", "trader", "rate"),
    *("cancel_each", "deadlines"),
    *("budget", "take", "cancel", "replace", "report", "write"),
)
DEADLINES = ("cancel_after", "lease", "cancel_due")
WRITING = ("append", "append_cancels", "cancel_all", "adopt", "begin", "halt", "match", "trim", *DEADLINES)
ALLOW_OOM = ("append_cancels", "cancel_all", "adopt", "match", "trim", *DEADLINES)
"""Functions that run with full memory: they free it, or need no more than what was accepted earlier."""
READING = ("history", "order", "trader_orders", "client_order", "depth", "watch", "state_hash", "deadlines_of")


@cache
def source() -> str:
    """The source of the whole library, as `FUNCTION LOAD` takes it.

    While a library loads, Lua has no globals such as `string` and `math`. So the first call of a function builds the
    tables, and later calls reuse them.
    """
    folder = files("lua")
    lines = [f"#!lua name={NAME}", "local function build()", *parts(), "return {"]
    for name in WRITING + READING:
        lines += [f"{name} = (function()", (folder / f"{name}.lua").read_text(), "end)(),"]
    lines += ["}", "end", "local built"]
    for name in WRITING + READING:
        flags = "'no-writes'" if name in READING else "'allow-oom'" if name in ALLOW_OOM else ""
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
    """The Lua source of the limits and the parts, as local tables."""
    folder = files("lua") / "parts"
    lines = [f"local limits = {{ {', '.join(f'{name} = {value}' for name, value in LIMITS.items())} }}"]
    for name in PARTS:
        lines += [f"local {name} = (function()", (folder / f"{name}.lua").read_text(), f"return {name}", "end)()"]
    return lines


def is_missing(reply: Any) -> bool:
    """Whether the reply to a call is the error that the server has no library. The call then had no effect."""
    return isinstance(reply, redis.exceptions.ResponseError) and "Function not found" in str(reply)


async def call(client: Any, function: str, tag: str, *arguments: str | int) -> Any:
    """Calls a function for a card and returns its reply. `tag` is `keys.tag(card)`.

    A server that was emptied or replaced has no library. The library is then loaded, and the call is repeated, which
    is safe because the first call had no effect.

    Raises:
        redis.exceptions.RedisError, OSError: the call failed.
    """
    fcall = client.fcall_ro if function in READING else client.fcall
    texts = [str(argument) for argument in arguments]
    try:
        return await fcall(function, 1, tag, *texts)
    except redis.exceptions.ResponseError as error:
        if not is_missing(error):
            raise
    await load_again(client)
    return await fcall(function, 1, tag, *texts)


async def load_again(client: Any) -> None:
    """Loads the library on a server that has lost it (`is_missing`), and logs a warning."""
    log.warning("Redis has lost the Lua library: it is loaded again")
    await load(client)


async def is_loaded(client: Any) -> bool:
    """Whether the server, or each server of a cluster, has the library of this version."""
    with redis_errors():
        for server in await servers_of(client):
            if not await _has_library(server):
                return False
    return True


async def _has_library(server: Any) -> bool:
    return is_listed(await server.function_list(library=NAME, withcode=True))


def is_listed(loaded: Any) -> bool:
    """Whether a reply to `FUNCTION LIST LIBRARYNAME tcgx WITHCODE` has the library of this version."""
    return bool(loaded) and source() in _texts(loaded[0])


async def load(client: Any) -> None:
    """Loads the library of this version on the server, or on each server of a cluster, unless it already has it."""
    with redis_errors():
        for server in await servers_of(client):
            if not await _has_library(server):
                loading: Any = server
                await loading.function_load(source(), replace=True)


def _texts(description: Any) -> set[str]:
    items = description.values() if isinstance(description, dict) else description
    return {item.decode() if isinstance(item, bytes) else item for item in items if isinstance(item, (bytes, str))}
