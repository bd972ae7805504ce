"""`tcgx up --observe`: ports of metrics for all services, a Prometheus over them, and log files for /operate."""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from cli import prometheus
from cli.supervisor import Service
from core import service
from core.settings import Settings, variable

log = structlog.get_logger()

PORT_MAX = 65_535


class Observed(NamedTuple):
    """What is observed: the settings of the services, the port of metrics of each, and the Prometheus, if any."""

    settings: Settings
    ports: Mapping[str, int]
    members: Sequence[Service] = ()

    def environment_of(self, name: str) -> dict[str, str]:
        """The variables of a service that the others do not have."""
        return {variable("metrics_port"): str(self.ports.get(name, 0))}


def prepare(local: Settings, services: Sequence[str], *, is_on: bool) -> Observed:
    """Decides what is observed. Without `is_on`, services have metrics where TCGX_METRICS_PORT is set, and no more.

    `services`: names such as `engine` and `api-1`. Ports count up from TCGX_METRICS_PORT, or are free ones.
    """
    if local.log_dir and not is_on:
        service.configure_logging(local, "tcgx")
    if not is_on and not local.metrics_port:
        return Observed(local, {})
    first = local.metrics_port
    ports = {name: min(first + n, PORT_MAX) if first else 0 for n, name in enumerate(services)}
    if not first:
        ports = dict(zip(services, _free_ports(len(services)), strict=True))
    if not is_on:
        return Observed(local, ports)
    home = Path(local.data_dir).resolve()
    local = msgspec.structs.replace(local, log_dir=local.log_dir or str(home / "log"))
    service.configure_logging(local, "tcgx")
    if local.prometheus_url:
        return Observed(local, ports)
    program = prometheus.program()
    if program is None:
        log.warning("Prometheus is not installed, so /operate has log lines alone: apt-get install prometheus")
        return Observed(local, ports)
    (port,) = _free_ports(1)
    folder = home / "prometheus"
    config = prometheus.write_config(folder, _by_job(ports))
    member = Service(
        "prometheus",
        prometheus.command(program, config, folder, port),
        environment=dict(os.environ),
        stop_seconds=local.stop_seconds,
    )
    return Observed(msgspec.structs.replace(local, prometheus_url=f"http://127.0.0.1:{port}"), ports, [member])


def _by_job(ports: Mapping[str, int]) -> dict[str, list[int]]:
    """The ports of all processes of a kind: `api-1` and `api-2` are of the kind `api`."""
    jobs: dict[str, list[int]] = {}
    for name, port in ports.items():
        jobs.setdefault(name.partition("-")[0], []).append(port)
    return jobs


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
