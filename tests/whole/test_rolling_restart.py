"""Rolling restarts of a whole exchange under load: no request without its answer, no order lost.

`python -m testing.rolling_restart --rounds 10 --workers 2` is the long form.
"""

import pytest

from testing.exchange import TcgxUp, tcgx_up
from testing.processes import children, member_name, tcgx
from testing.rolling_restart import StrictLoad, door_of, judge
from testing.servers import client_of, folder
from testing.waiting import until

pytestmark = pytest.mark.server

SERVICES = ("api", "archiver", "engine")


def services(up: TcgxUp) -> dict[int, str]:
    """The services by process id."""
    found = {pid: member_name(pid) for pid in children(up.pid)}
    return {pid: name for pid, name in found.items() if name in SERVICES}


def test_all_services_are_replaced_under_load_and_no_request_is_lost() -> None:
    with folder() as where, tcgx_up(where, variables={"TCGX_API_WORKERS": "2"}) as up:
        before = services(up)
        with StrictLoad(door_of(up), think_seconds=(0.02, 0.1, 0.4)) as load:
            until(lambda: load.requests > 100)
            up.run("restart")
            up.run("restart", "api")
            until(lambda n=load.requests: load.requests > n + 100)  # type: ignore[misc]
        after = services(up)

        assert load.unanswered == []
        assert load.refused == []
        assert judge(up, load) == []
        assert sorted(before.values()) == sorted(after.values()) == ["api", "api", "archiver", "engine"]
        assert not before.keys() & after.keys()
        assert "ended unexpectedly" not in up.errors()


def test_a_service_without_a_successor_goes_on() -> None:
    """The new engine cannot start since the AOF was turned off; the old one was started before."""
    with folder() as where, tcgx_up(where) as up:
        before = services(up)
        (trader,) = up.traders(1)
        with client_of(up.urls.redis) as redis:
            redis.config_set("appendonly", "no")
        result = tcgx(where, "restart", "engine")

        assert result.returncode == 1
        assert result.stdout.startswith("1/1 engine: a new process starts beside process ")
        assert "the new process of engine has ended (exit code 1)" in result.stderr
        assert "the old one goes on" in result.stderr
        assert services(up) == before
        assert trader.place("pikachu", "buy", "5.50")["status"] == "open"
