"""A private Docker engine from Debian's packages, and images made on this machine: nothing is installed or changed.

All files are in one folder. The engine runs in mount, network and process namespaces of its own, so the end of the
first process in them ends the engine and every container.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from core.errors import StartError

ROOT = Path(__file__).resolve().parents[2]
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SERVERS_RELEASE = "trixie"
"""The Debian release of the images: its Python is that of the Dockerfile."""
PYTHON_VERSION = "3.13"
ENGINE_RELEASE = "bookworm"
ENGINE_PACKAGES = (
    *("docker.io", "containerd", "runc", "tini", "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11"),
    *("libmnl0", "libnetfilter-conntrack3", "libnfnetlink0", "libedit2", "libbsd0", "libmd0", "libdevmapper1.02.1"),
    "debootstrap",
)
LATER_PACKAGES = ("docker-compose",)
"""Of `SERVERS_RELEASE`: the older release has an older compose."""
BASE_PACKAGES = "python3-minimal,libpython3-stdlib,python3-venv,ca-certificates"
SERVER_PACKAGES = ("redis-server", "redis-tools", "postgresql-17")
LOCKS = ("requirements.lock", "requirements-build.lock")
GLIBC_MINORS = (41, 39, 36, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
SPARE = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")
CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "tcgx-containers"


def why_not() -> str:
    """Why no private engine can be started here; empty if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux"
    missing = [
        name for name in ("apt-get", "dpkg-deb", "unshare", "ip", "tar", "chroot") if not shutil.which(name, path=PATH)
    ]
    if missing or not KEYRING.exists():
        return f"it needs Debian, and here is no {', '.join(missing) or KEYRING}"
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        return "this machine or container may make no namespaces"
    return ""


PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _digest_of_locks(tree: Path) -> str:
    return hashlib.sha256(b"".join((tree / name).read_bytes() for name in LOCKS)).hexdigest()[:12]


class Folder:
    """The folder with everything that is made. A step that is done is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.programs = path / "programs"
        self.base = path / "base"
        self.servers = path / "servers"
        self.engine = path / "engine"
        self.log = path / "prepare.log"

    def wheels(self, tree: Path) -> Path:
        """The wheels that the locks of a file tree name."""
        return self.path / f"wheels-{_digest_of_locks(tree)}"

    def prepare(self, say: Callable[[str], None], trees: Sequence[Path]) -> None:
        """Makes the programs of the engine, the file trees of images, and the wheels for these trees of the project.

        Raises:
            StartError: a step fails; its output is in the log.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        steps: Sequence[tuple[str, Callable[[], None]]] = (
            ("packages of the engine", self._unpack_programs),
            ("base image", self._make_base),
            ("image of Redis and PostgreSQL", self._make_servers),
            *((f"wheels of {_digest_of_locks(tree)}", partial(self._download_wheels, tree)) for tree in trees),
        )
        for name, step in steps:
            done = self.path / f"{name.replace(' ', '-')}.done"
            if not done.exists():
                say(name)
                step()
                done.touch()

    def environment(self) -> dict[str, str]:
        """The environment in which the programs of the engine run."""
        library = self.programs / "usr/lib" / f"{platform.machine()}-linux-gnu"
        return os.environ | {
            "PATH": f"{self.programs}/bin:{self.programs}/usr/bin:{self.programs}/usr/sbin:{PATH}",
            "LD_LIBRARY_PATH": f"{library}:{self.programs}/lib/{platform.machine()}-linux-gnu",
            "XTABLES_LIBDIR": str(library / "xtables"),
            "DOCKER_HOST": f"unix://{self.engine}/docker.sock",
            "DOCKER_CONFIG": str(self.engine / "client"),
            "DOCKER_BUILDKIT": "0",
        }

    def engine_command(self) -> list[str]:
        """The command that runs the engine."""
        return [
            *("dockerd", "--host", f"unix://{self.engine}/docker.sock", "--data-root", f"{self.engine}/data"),
            *("--exec-root", f"{self.engine}/exec", "--pidfile", f"{self.engine}/docker.pid"),
            *("--cgroup-parent", f"/{CGROUP}", "--storage-driver", "overlay2"),
        ]

    def run_inside(self, arguments: Sequence[str]) -> int:
        """Runs a command of this package in namespaces of its own, and removes what an engine leaves.

        The exit code is that of the command.
        """
        self.remove_engine()
        command = [*UNSHARE, str(self.programs / "usr/bin/tini"), "--", sys.executable, "-m", "testing.containers"]
        try:
            with subprocess.Popen([*command, *arguments], cwd=ROOT, env=os.environ | {"PATH": PATH}) as process:
                try:
                    return process.wait()
                finally:
                    process.kill()
        finally:
            self.remove_engine()

    def remove_engine(self) -> None:
        """Removes the data of the engine, and its control groups. Nothing of it runs."""
        shutil.rmtree(self.engine, ignore_errors=True)
        for group in [*CGROUPS.glob(f"*/{CGROUP}"), CGROUPS / CGROUP]:
            for inner in sorted(group.glob("**/"), reverse=True) if group.exists() else ():
                with suppress(OSError):
                    inner.rmdir()

    # -- steps

    def _unpack_programs(self) -> None:
        apt = self.path / "apt"
        for name in ("etc", "lists/partial", "cache/archives/partial", "packages"):
            (apt / name).mkdir(parents=True, exist_ok=True)
        (apt / "etc/debian.sources").write_text(
            f"Types: deb\nURIs: {MIRROR}\nSuites: {ENGINE_RELEASE} {SERVERS_RELEASE}\nComponents: main\n"
            f"Signed-By: {KEYRING}\n"
        )
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": apt / "etc",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": apt / "lists",
            "Dir::Cache": apt / "cache",
            "APT::Sandbox::User": "root",
        }
        apt_get = ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        self._run([*apt_get, "update"])
        wanted = [f"{name}/{ENGINE_RELEASE}" for name in ENGINE_PACKAGES]
        wanted += [f"{name}/{SERVERS_RELEASE}" for name in LATER_PACKAGES]
        self._run([*apt_get, "download", *wanted], cwd=apt / "packages")
        for package in sorted((apt / "packages").glob("*.deb")):
            self._run(["dpkg-deb", "-x", str(package), str(self.programs)])
        (self.programs / "bin").mkdir(exist_ok=True)
        for name in ("iptables", "ip6tables", "iptables-save", "iptables-restore"):
            link = self.programs / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(self.programs / "usr/sbin/xtables-nft-multi")
        shutil.rmtree(apt)

    def _make_base(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
        script = self.programs / "usr/sbin/debootstrap"
        options = ["--variant=minbase", f"--include={BASE_PACKAGES}", f"--keyring={KEYRING}"]
        shared = {"DEBOOTSTRAP_DIR": str(self.programs / "usr/share/debootstrap")}
        self._run(["sh", str(script), *options, SERVERS_RELEASE, str(self.base), MIRROR], environment=shared)
        (self.base / "usr/bin/python").symlink_to("python3")

    def _make_servers(self) -> None:
        shutil.rmtree(self.servers, ignore_errors=True)
        self._run(["cp", "--archive", str(self.base), str(self.servers)])
        refuses = self.servers / "usr/sbin/policy-rc.d"
        refuses.write_text("#!/bin/sh\nexit 101\n")
        refuses.chmod(0o755)
        shutil.copy("/etc/resolv.conf", self.servers / "etc/resolv.conf")
        configuration = self.servers / "etc/postgresql-common"
        configuration.mkdir(parents=True)
        (configuration / "createcluster.conf").write_text("create_main_cluster = false\n")
        install = ["apt-get", "install", "--yes", "-qq", "--no-install-recommends", *SERVER_PACKAGES]
        self._run(["chroot", str(self.servers), "apt-get", "update", "-qq"])
        self._run(["chroot", str(self.servers), *install], environment={"DEBIAN_FRONTEND": "noninteractive"})
        for name, text in ENTRY_SCRIPTS.items():
            script = self.servers / "usr/local/bin" / name
            script.write_text(text)
            script.chmod(0o755)
        for root in (self.base, self.servers):
            for name in SPARE:
                shutil.rmtree(root / name, ignore_errors=True)

    def _download_wheels(self, tree: Path) -> None:
        wheels = self.wheels(tree)
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir()
        machine = platform.machine()
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
        options = ["--python-version", PYTHON_VERSION, "--implementation", "cp"]
        for abi in (f"cp{PYTHON_VERSION.replace('.', '')}", "abi3", "none"):
            options += ["--abi", abi]
        for one in [*platforms, f"manylinux2014_{machine}", "any"]:
            options += ["--platform", one]
        for lock in LOCKS:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
            self._run([*pip, *options, "--require-hashes", "--requirement", str(tree / lock)])

    def _run(
        self, command: Sequence[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(
                ["nice", "-n", "5", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=os.environ | {"PATH": PATH} | (environment or {}),
                check=False,
            )
        if done.returncode:
            end = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise StartError(f"{command[0]} ended with {done.returncode}; the end of {self.log}:\n{end}")


ENTRY_SCRIPTS = {
    "start-redis": """#!/bin/sh
set -e
chown redis:redis /data
cd /data
exec setpriv --reuid redis --regid redis --init-groups "$@"
""",
    "start-postgres": """#!/bin/sh
# What the official image does with its variables, as far as the compose file needs it.
set -e
bin=/usr/lib/postgresql/17/bin data=/var/lib/postgresql/data
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
chown postgres:postgres /var/lib/postgresql
mkdir -p /run/postgresql && chown postgres:postgres /run/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password && chown postgres /tmp/password
    as "$bin/initdb" --pgdata "$data" --username "$POSTGRES_USER" --pwfile /tmp/password --encoding UTF8 \\
        --auth scram-sha-256
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$data/pg_hba.conf"
    printf 'CREATE DATABASE "%s";\\n' "$POSTGRES_DB" | as "$bin/postgres" --single -D "$data" postgres
fi
exec setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$data" -c 'listen_addresses=*'
""",
}
"""The first programs of the images that stand for those of a registry."""


def bring_loopback_up() -> None:
    """Brings the loopback interface of the present network namespace up."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
