"""The metrics that are read at a scrape, with their kinds and descriptions.

Each name is given by one process alone, except for those of `COMMON`.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Described(NamedTuple):
    """The kind of a metric, and a description for operators."""

    kind: Literal["gauge", "counter"]
    text: str


COMMON: Mapping[str, Described] = {
    "tcgx_build_info": Described("gauge", "1; the labels say the service, and the versions of tcgx and Python"),
    "tcgx_setting": Described("gauge", "A setting that is a number; the label is its name in lower case"),
    "tcgx_activity_seconds": Described("gauge", "The age of what engine or archiver does now; the label names it"),
}
"""Metrics of every process."""

OF_API: Mapping[str, Described] = {
    "tcgx_part_status": Described("gauge", "1 for the present status of a part of the exchange, as in GET /health"),
    "tcgx_backlog_commands": Described("gauge", "Commands of all cards that wait to be matched"),
    "tcgx_backlog_still_seconds": Described("gauge", "For how long commands of some card wait, and none is matched"),
    "tcgx_archive_lag_seconds": Described("gauge", "How far the archive is behind the matcher"),
    "tcgx_archive_lag_commands": Described("gauge", "Commands that are matched and not archived"),
    "tcgx_heartbeat_age_seconds": Described("gauge", "The age of the last heartbeat of engine or archiver"),
    "tcgx_append_waiting_commands": Described("gauge", "Commands of a card that wait in this process for an append"),
    "tcgx_connections": Described("gauge", "Open connections of this process"),
    "tcgx_streams": Described("gauge", "Streams that this process serves"),
    "tcgx_postgres_connections": Described("gauge", "Connections of the pool to PostgreSQL, idle or in use"),
}
"""Metrics of API processes. Those of the whole exchange are the same in each of them."""

OF_ENGINE: Mapping[str, Described] = {
    "tcgx_appended_sequence": Described("gauge", "The last sequence that was given out on a card"),
    "tcgx_matched_sequence": Described("gauge", "The last command that is matched on a card"),
    "tcgx_trades": Described("gauge", "The number of the last trade of a card"),
    "tcgx_stream_entries": Described("gauge", "Entries of the log (orders) or of the events of a card"),
    "tcgx_redis_memory_used_bytes": Described("gauge", "Memory of Redis that counts against maxmemory"),
    "tcgx_redis_memory_max_bytes": Described("gauge", "maxmemory of Redis; 0: no limit"),
    "tcgx_redis_clients": Described("gauge", "Connections to Redis"),
    "tcgx_redis_aof_bytes": Described("gauge", "The size of the AOF"),
    "tcgx_redis_aof_rewriting": Described("gauge", "1 while the AOF is rewritten"),
    "tcgx_redis_aof_failed": Described("gauge", "1 if the last write to the AOF failed"),
    "tcgx_redis_commands": Described("counter", "Commands that Redis has done"),
    "tcgx_redis_function_calls": Described("counter", "Calls of the Lua library"),
    "tcgx_redis_function_seconds": Described("counter", "Time of Redis within calls of the Lua library"),
    "tcgx_redis_cpu_seconds": Described("counter", "CPU time of Redis"),
}
"""Metrics of engines: the state of Redis, the same in each of them."""

OF_ARCHIVER: Mapping[str, Described] = {
    "tcgx_archived_sequence": Described("gauge", "The last command of a card that is archived"),
    "tcgx_archiver_working": Described("gauge", "1 in the archiver that archives, 0 in one that waits for the lock"),
}
"""Metrics of archivers."""

VALUES: Mapping[str, Described] = {**COMMON, **OF_API, **OF_ENGINE, **OF_ARCHIVER}
