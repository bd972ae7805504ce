"""An exchange on several hosts, of which some lose power or others: a short `python -m testing.distributed`."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from testing import hosts
from testing.distributed import CANT, Trial
from testing.processes import finished

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(bool(hosts.why_not()), reason=f"there can be no hosts here: {hosts.why_not()}"),
]
TRIAL_SECONDS = 300.0


def test_what_is_cut_apart_or_unplugged_gets_no_answer_and_the_machine_keeps_its_network() -> None:
    before = subprocess.run(["ip", "-oneline", "link"], capture_output=True, text=True, check=True).stdout
    script = """
        import socket
        from testing.hosts import cut_apart, network

        def reaches(one, other):
            with other.inside(), socket.create_server((other.address, 0)) as server:
                port = server.getsockname()[1]
                with one.inside():
                    try:
                        socket.create_connection((other.address, port), timeout=0.5).close()
                    except TimeoutError:
                        return False
                    return True

        with network() as hosts:
            one, other, third = (hosts.add(name) for name in ("one", "other", "third"))
            print(reaches(one, other))
            with cut_apart([one], [other]):
                print(reaches(one, other), reaches(other, one), reaches(one, third), reaches(third, other))
            print(reaches(other, one))
            other.unplug()
            print(reaches(one, other), reaches(other, one))
            other.plug_in()
            print(reaches(one, other))
    """
    seen = finished([sys.executable, "-P", "-c", dedent(script)])
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout.split("\n") == ["True", "False False True True", "True", "False False", "True", ""]
    assert subprocess.run(["ip", "-oneline", "link"], capture_output=True, text=True, check=True).stdout == before


def test_a_primary_without_power_and_a_rack_without_the_others_lose_nothing(tmp_path: Path) -> None:
    result = tmp_path / "trial.json"
    command = [sys.executable, "-P", "-m", "testing.distributed", "--kinds", "power,rack", "--roles", "primary"]
    done = finished([*command, "--json", result], seconds=TRIAL_SECONDS)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    trial = msgspec.json.decode(result.read_bytes(), type=Trial)
    assert trial.violations == []
    assert trial.acknowledged == trial.sent > 500
    # Nobody else has the slots of the primary: its card stands still until a replica is promoted.
    assert [flows[0].orders > 1 for flows in trial.flows.values()] == [True, True]


def test_where_there_can_be_no_hosts_it_says_so(tmp_path: Path) -> None:
    seen = finished([sys.executable, "-P", "-m", "testing.distributed"], variables={"PATH": str(tmp_path)})
    assert seen.returncode == CANT
    assert "iproute2" in seen.stderr
