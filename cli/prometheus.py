"""The Prometheus of `tcgx up --observe`: its configuration, and its command line."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.supervisor import Process
from observe import files

RETENTION = "7d"
SIZE_MAX = "2GB"
SCRAPE_SECONDS = 5


def program() -> str | None:
    """The path of Prometheus; None if it is not installed."""
    return shutil.which("prometheus")


def write_config(
    folder: Path,
    targets: Mapping[str, Sequence[int]],
    *,
    rules: Mapping[str, Any] | None = None,
    seconds: float = SCRAPE_SECONDS,
) -> Path:
    """Writes the configuration and the rules of alerts; the path of the configuration.

    `targets`: the ports of metrics by the name of a service. `seconds`: the interval of scrapes and rules.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alerts.json").write_text(files.text(rules or files.rules()))
    interval = f"{round(seconds * 1_000)}ms"
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["alerts.json"],
        "scrape_configs": [
            {
                "job_name": f"tcgx-{service}",
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
            for service, ports in targets.items()
        ],
    }
    path = folder / "prometheus.json"
    path.write_text(json.dumps(config, indent=2))
    return path


def command(path: str, config: Path, folder: Path, port: int) -> list[str | Path]:
    """The command line. It listens on this machine alone."""
    return [
        path,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--storage.tsdb.retention.size={SIZE_MAX}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


def process(path: str, config: Path, folder: Path, port: int) -> Process:
    """Starts a Prometheus of its own, whose lines go to a file."""
    with (folder / "prometheus.log").open("ab") as output:
        return Process(command(path, config, folder, port), environment=dict(os.environ), output=output)
