"""What Redis knows about itself and about the cards, for a scrape: one round trip, and nothing that is kept."""

from collections.abc import Iterable, Sequence
from typing import Any

from engine import keys
from engine.connection import redis_errors
from engine.nodes import Nodes
from observe.exposition import Source
from observe.tallies import Value

SECTIONS = ("server", "memory", "persistence", "clients", "stats", "cpu", "commandstats")
STREAMS = ("orders", "events")
FUNCTION_CALLS = ("cmdstat_fcall", "cmdstat_fcall_ro")


def redis_state(nodes: Nodes, cards: Sequence[str]) -> Source:
    """Makes the source of the state of Redis."""

    async def redis_state() -> Iterable[Value]:
        pipeline: Any = nodes.commands.pipeline(transaction=False)
        pipeline.info(*SECTIONS)
        for card in cards:
            pipeline.get(keys.key(card, "sequence"))
            pipeline.hmget(keys.key(card, "cursor"), "sequence", "trades")
            for stream in STREAMS:
                pipeline.xlen(keys.key(card, stream))
        with redis_errors():
            info, *replies = await pipeline.execute()
        found = _server(info)
        for place, card in enumerate(cards):
            sequence, (matched, trades), *lengths = replies[place * 4 : place * 4 + 4]
            of_card = ("card", card)
            found.append(Value("tcgx_appended_sequence", int(sequence or 0), (of_card,)))
            found.append(Value("tcgx_matched_sequence", int(matched or 0), (of_card,)))
            found.append(Value("tcgx_trades", int(trades or 0), (of_card,)))
            for stream, length in zip(STREAMS, lengths, strict=True):
                found.append(Value("tcgx_stream_entries", length, (of_card, ("stream", stream))))
        return found

    return redis_state


def _server(info: dict[str, Any]) -> list[Value]:
    """The values of a server. A number that it does not say is 0."""
    calls = [info.get(name, {}) for name in FUNCTION_CALLS]
    numbers = {
        "tcgx_redis_memory_used_bytes": _number(info, "used_memory") - _number(info, "mem_not_counted_for_evict"),
        "tcgx_redis_memory_max_bytes": _number(info, "maxmemory"),
        "tcgx_redis_clients": _number(info, "connected_clients"),
        "tcgx_redis_aof_bytes": _number(info, "aof_current_size"),
        "tcgx_redis_aof_rewriting": _number(info, "aof_rewrite_in_progress"),
        "tcgx_redis_aof_failed": float(info.get("aof_last_write_status", "ok") != "ok"),
        "tcgx_redis_commands": _number(info, "total_commands_processed"),
        "tcgx_redis_function_calls": sum(_number(each, "calls") for each in calls),
        "tcgx_redis_function_seconds": sum(_number(each, "usec") for each in calls) / 1_000_000,
        "tcgx_redis_cpu_seconds": _number(info, "used_cpu_sys") + _number(info, "used_cpu_user"),
    }
    return [Value(name, number) for name, number in numbers.items()]


def _number(values: dict[str, Any], name: str) -> float:
    return float(values.get(name, 0))
