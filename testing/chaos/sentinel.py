"""An exchange on a Redis primary, replicas and three sentinels, in a round of chaos."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from redis import Redis, RedisError

from core.settings import Settings
from testing.chaos.plan import Plan
from testing.chaos.several import OnSeveralServers
from testing.replication import RedisGroup, RedisProcess, allow_replication, cut_off, plain_url
from testing.servers import client_of


class OnSentinels(OnSeveralServers):
    """The exchange without acknowledgements of replicas, and one replica."""

    def __init__(self, data_dir: Path, plan: Plan, *, programs: Settings, stopping: threading.Event) -> None:
        group = data_dir / "group"
        group.mkdir()
        self.group = RedisGroup(group, replicas=self.acks + 1)
        super().__init__(self.group, data_dir, plan, programs=programs, stopping=stopping)

    @property
    def judged_settings(self) -> Settings:
        """The settings with the address of the primary alone."""
        return msgspec.structs.replace(self.settings, redis_url=plain_url(self.group.named()))

    @property
    def redis(self) -> Redis:
        """A client of the server that the sentinels name."""
        url = plain_url(self.group.named())
        if self._redis is None or self._redis_url != url:
            if self._redis is not None:
                self._redis.close()
            self._redis, self._redis_url = client_of(url), url
        return self._redis

    def primary(self) -> RedisProcess:
        """The server that the sentinels name."""
        return self.group.named()

    def replicas(self) -> Sequence[RedisProcess]:
        """The other servers that run."""
        named = self.group.named()
        return [each for each in self.group.servers if each.is_running and each is not named]

    def take_back(self, server: RedisProcess) -> None:
        """Starts a killed server: as a replica, if the sentinels name another primary."""
        named = self.group.named()
        server.start(*([] if named is server else [f"replicaof 127.0.0.1 {named.port}"]))

    @contextmanager
    def replicas_cut_off(self) -> Iterator[None]:
        """No replica gets anything from the primary inside."""
        primary, replicas = self.group.named(), [each for each in self.group.servers if each.is_running]
        replicas = [each for each in replicas if each is not primary and each.role() == "slave"]
        try:
            cut_off(primary, *replicas)
            yield
        finally:
            allow_replication(*replicas)

    @contextmanager
    def sentinel_down(self, value: float) -> Iterator[None]:
        """A sentinel is killed inside, and returns. `value`: from 0 to 1, which one."""
        watcher = self.group.sentinels[1 + int(value * 2)]  # rounds ask the first one
        watcher.kill()
        yield
        watcher.start_again()

    def sequences(self) -> dict[str, int] | None:
        """The last sequence of each card; None while Redis does not answer."""
        try:
            return super().sequences()
        except RedisError:  # of the sentinel
            return None


class OnSentinelsWithAcks(OnSentinels):
    """The exchange with `TCGX_REPLICA_ACKS=1` and two replicas, so that one that confirms is left after a kill."""

    acks = 1
