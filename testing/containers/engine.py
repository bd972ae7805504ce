"""The client of a Docker engine, and the images."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import StartError
from testing.containers.machine import ROOT, Folder, bring_loopback_up

START_SECONDS = 60.0
TICK_SECONDS = 0.1
COMMAND_SECONDS = 1_200.0
BASE_IMAGE = "python:3.13-slim-bookworm"
STANDINS: Mapping[str, Sequence[str]] = {
    "redis:8.2-bookworm": ('ENTRYPOINT ["/usr/local/bin/start-redis"]', "WORKDIR /data"),
    "postgres:18-bookworm": ('ENTRYPOINT ["/usr/local/bin/start-postgres"]',),
}
"""Images of the compose file that are made from Debian's servers where no registry answers."""
COMPOSE = "docker-compose.yml"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/build"}


class Engine:
    """Runs `docker` and `docker compose`."""

    def __init__(self, environment: Mapping[str, str], *, compose: Sequence[str]) -> None:
        self._environment = dict(environment)
        self._compose = compose

    def docker(self, *words: str, check: bool = True, **variables: str) -> str:
        """What `docker WORDS` prints.

        Raises:
            StartError: it fails.
        """
        return self._run(["docker", *words], variables, check=check)

    def compose(self, *words: str, project: str, tree: Path = ROOT, **variables: str) -> str:
        """What `docker compose WORDS` prints, with the compose file of a tree of this project."""
        command = [*self._compose, "--project-name", project, "--file", str(tree / COMPOSE), *words]
        return self._run(command, variables, check=True)

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def load(self, tree: Path, image: str, changes: Sequence[str]) -> None:
        """Makes an image of a file tree."""
        options = [word for change in changes for word in ("--change", change)]
        with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
            done = subprocess.run(
                ["docker", "import", *options, "-", image],
                stdin=tar.stdout,
                capture_output=True,
                env=self._environment,
                check=False,
            )
        if done.returncode or tar.returncode:
            raise StartError(f"image {image} can't be made: {done.stderr.decode()}")

    def _run(self, command: Sequence[str], variables: dict[str, str], *, check: bool) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment | variables,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if check and done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise StartError(f"{' '.join(command)} ended with {done.returncode}:\n{end}")
        return done.stdout


def running() -> Engine | None:
    """The engine that `docker` reaches here; None if there is none."""
    if not shutil.which("docker"):
        return None
    engine = Engine(os.environ, compose=("docker", "compose"))
    try:
        engine.docker("version")
        engine.docker("compose", "version")
    except StartError:
        return None
    return engine


@contextmanager
def private(folder: Folder) -> Iterator[Engine]:
    """An engine of the folder, in the present namespaces, with the base image and the images of the servers."""
    bring_loopback_up()
    folder.engine.mkdir()
    environment = folder.environment()
    with (folder.path / "engine.log").open("wb") as log:
        process = subprocess.Popen(folder.engine_command(), stdout=log, stderr=log, env=environment)
    engine = Engine(environment, compose=("docker-compose",))
    try:
        _wait_until_it_answers(engine, process, folder)
        engine.load(folder.base, BASE_IMAGE, ['CMD ["python3"]'])
        for image, changes in STANDINS.items():
            engine.load(folder.servers, image, changes)
        yield engine
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_it_answers(engine: Engine, process: "subprocess.Popen[bytes]", folder: Folder) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if engine.docker("version", "--format", "{{.Server.Version}}", check=False).strip():
            return
        time.sleep(TICK_SECONDS)
    end = "\n".join((folder.path / "engine.log").read_text(errors="replace").splitlines()[-10:])
    raise StartError(f"the engine does not start; the end of its log:\n{end}")


@contextmanager
def context(folder: Path, wheels: Path | None, tree: Path = ROOT) -> Iterator[Path]:
    """A folder with the files that `.dockerignore` lets into the image, and wheels where the build has no index."""
    made = folder / "context"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        for name in (".dockerignore", "Dockerfile", COMPOSE, *sorted(allowed(tree))):
            source = tree / name
            if source.is_dir():
                shutil.copytree(source, made / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, made / name)
        if wheels is not None:
            shutil.copytree(wheels, made / "wheels")
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def allowed(tree: Path = ROOT) -> set[str]:
    """The files and folders that `.dockerignore` lets into the image."""
    lines = (tree / ".dockerignore").read_text().splitlines()
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def build(
    engine: Engine, where: Path, tag: str, *, is_offline: bool, is_fresh: bool = False, revision: str = ""
) -> None:
    """Builds the image as the compose file says."""
    arguments = {"REVISION": revision or "unknown"} | (OFFLINE if is_offline else {})
    options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    if is_fresh:
        options.append("--no-cache")
    unused = dict.fromkeys(("REDIS_PASSWORD", "POSTGRES_PASSWORD", "TCGX_JWT_SECRET"), "of no use in a build")
    engine.compose("build", *options, "migrate", project="build", tree=where, TCGX_IMAGE=tag, **unused)
