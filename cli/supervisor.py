"""Child processes: a supervisor starts them, restarts them and stops them in order; none outlives this process.

On Linux the kernel ends every child when the thread that started it ends (`PR_SET_PDEATHSIG`). So even a supervisor
that was killed with -9 leaves no child behind. Children must be started from the main thread.
"""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import msgspec
import structlog

from cli.arguments import SERVICES
from cli.watchdog import Watchdog
from core.errors import StartError
from core.heartbeat import DESCRIPTOR_VARIABLE
from core.service import BACKLOG, cancel_and_wait
from core.settings import variable

PR_SET_PDEATHSIG = 1
RESTART_SECONDS_MIN = 0.1
RESTART_SECONDS_MAX = 5.0
REFUSED_CODE = 1
REFUSED_SECONDS_MAX = 60.0
"""The longest delay before the restart of a service that ends with `REFUSED_CODE`: its reason rarely goes away."""
STEADY_SECONDS = 10.0
REACHABLE_SECONDS = 5.0
"""The interval at which members are checked for a removed socket."""
ALL = "all"
READY_SECONDS = 60.0
"""How long the new process of a service may take until it works."""

log = structlog.get_logger()

# The lookup is done once, here: between fork and exec as little as possible may run.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Account(msgspec.Struct, frozen=True):
    """The user that a process runs as, with this one group and no others."""

    name: str
    uid: int
    gid: int


class Process:
    """A child process in a session of its own, which Ctrl-C in the terminal does not reach.

    The process belongs to no event loop: it may be started in one `asyncio.run` and stopped in another.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        folder: Path | None = None,
        stdin: bytes = b"",
        output: IO[bytes] | None = None,
        account: Account | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """Starts the process. `stdin` is its whole input; without `output` it inherits the output of this process.

        Raises:
            StartError: the program cannot be executed.
        """
        self._stop_signal = stop_signal
        try:
            self._popen = subprocess.Popen(
                list(argv),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                pass_fds=inherited,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                preexec_fn=_ends_with_us(stop_signal),  # noqa: PLW1509 -- two system calls, and no lock is taken
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise StartError(f"{argv[0]} cannot be started: {error}") from error
        self._write(stdin)

    def _write(self, text: bytes) -> None:
        if self._popen.stdin is None:
            return
        # A child that has ended already does not read; its exit code and its log have the reason.
        with suppress(BrokenPipeError), self._popen.stdin as pipe:
            pipe.write(text)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ended(self) -> bool:
        """Whether the process has ended. The rest of its process group is then killed: an orphaned worker would keep
        the port of the next service."""
        if self._popen.returncode is not None:
            return True
        if not _is_zombie(self._popen):
            return False
        # The zombie still owns its process id, so this cannot be another group of the same number.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        return True

    async def wait(self) -> int:
        """Waits for the end; returns the exit code, or minus the number of the signal that killed the process."""
        while not self.ended():
            await _end_of(self._popen)
        code: int = self._popen.returncode
        return code

    def kill(self) -> None:
        """Sends SIGKILL, unless the process has ended."""
        self._popen.kill()

    async def stop(self, *, seconds: float, number: signal.Signals | None = None) -> bool:
        """Sends the stop signal, or `number`, and kills the process after `seconds`; False if it had to be killed."""
        if self.ended():
            return True
        self._popen.send_signal(number or self._stop_signal)
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            self._popen.kill()
            await self.wait()
            return False
        return True


def _ends_with_us(number: signal.Signals) -> Callable[[], None] | None:
    parent = os.getpid()
    prctl = _prctl
    if prctl is None:
        return None

    def between_fork_and_exec() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # the parent ended before the kernel knew of the wish
            os._exit(1)

    return between_fork_and_exec


def _is_zombie(popen: subprocess.Popen[bytes]) -> bool:
    if sys.platform != "linux":
        return popen.poll() is not None
    try:
        return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


async def _end_of(popen: subprocess.Popen[bytes]) -> None:
    if sys.platform != "linux":
        await asyncio.to_thread(popen.wait)
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(popen.pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class Member(Protocol):
    """A member of a `Supervisor`: a service or an embedded server."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""

    @property
    def serves(self) -> bool:
        """Whether other members need this one: when it is back, members that wait for a restart are started at once."""

    def log_tail(self) -> str:
        """Returns the end of the member's own log; empty if it has none."""

    async def start(self) -> None:
        """Starts the member unless it runs, at the same address as before. Raises `StartError`."""

    async def wait(self) -> int:
        """Waits until it has ended; its exit code."""

    async def stop(self) -> None:
        """Stops the member if it runs."""

    async def end_if_unreachable(self) -> None:
        """Ends the member if no client can reach it any more, so that it is started again."""


class Service:
    """A service of this project; its output is the output of this process."""

    serves = False

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        stop_seconds: float,
        hung_seconds: float = 0,
        listener: socket.socket | None = None,
        hand_over_signal: signal.Signals = signal.SIGTERM,
        hand_over_seconds: float = 0.0,
    ) -> None:
        """`listener`: a bound socket, on which every process of this service accepts connections, one after the other.

        A process without a heartbeat for `hung_seconds` is killed; 0: never. `hand_over_signal` stops a process whose
        successor works. Its end may then take `hand_over_seconds` more.
        """
        self.name = name
        self._hung_seconds = hung_seconds
        self._watchdogs: dict[Process, Watchdog] = {}
        self._argv = tuple(argv)
        self._environment = {name: text for name, text in environment.items() if name != DESCRIPTOR_VARIABLE}
        self._stop_seconds = stop_seconds
        self._listener = listener
        self._hand_over_signal = hand_over_signal
        self._hand_over_seconds = hand_over_seconds
        self._process: Process | None = None
        self._predecessor: Process | None = None
        self._successor: Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process and not self._process.ended() else None

    def log_tail(self) -> str:
        """Returns an empty text: a service has no log file of its own."""
        return ""

    async def start(self) -> None:
        """Starts the service unless it runs.

        Raises:
            StartError: the program cannot be executed.
        """
        if self.pid is None:
            self._process = self._spawn()

    def _spawn(self, ready_fd: int = 0) -> Process:
        environment, inherited = self._environment, [ready_fd] if ready_fd else []
        if ready_fd:
            environment = environment | {variable("ready_fd"): str(ready_fd)}
        if self._listener:
            self._listener.listen(BACKLOG)
            inherited.append(self._listener.fileno())
            environment = environment | {variable("listen_fd"): str(self._listener.fileno())}
        if not self._hung_seconds:
            return Process(self._argv, environment=environment, inherited=inherited)
        watchdog = Watchdog(self.name, hung_seconds=self._hung_seconds)
        try:
            with watchdog.pipe() as (variables, heartbeats):
                process = Process(self._argv, environment=environment | variables, inherited=[*inherited, heartbeats])
        except BaseException:
            watchdog.close()
            raise
        self._watchdogs[process] = watchdog
        return process

    async def wait(self) -> int:
        """Waits until it has ended, and has no successor, and kills it if it hangs; its exit code."""
        while self._process:
            awaited = self._process
            code = await self._end_of(awaited)
            if awaited is self._process:
                return code
        return 0

    async def _end_of(self, process: Process) -> int:
        """Waits until a process has ended, and kills it if it hangs; its exit code."""
        watchdog = self._watchdogs.get(process)
        if watchdog is None:
            return await process.wait()
        watching = asyncio.create_task(watchdog.watch(process.kill), name=f"watch {self.name}")
        try:
            return await process.wait()
        finally:
            await cancel_and_wait(watching)
            if process.ended():
                self._forget(process)

    def _forget(self, process: Process) -> None:
        """Closes the pipe of a process that has ended."""
        if watchdog := self._watchdogs.pop(process, None):
            watchdog.close()

    async def replace(self, *, seconds: float) -> None:
        """Starts a successor; once that works, the present process is stopped.

        Raises:
            StartError: the successor does not work within `seconds`. It is stopped, and the present process stays.
        """
        successor = await self._start_successor(seconds)
        self._predecessor, self._process, self._successor = self._process, successor, None
        await self._stop_predecessor(seconds=self._stop_seconds + self._hand_over_seconds)
        if successor.ended():
            raise StartError(f"the new process of {self.name} ended while the old one stopped; it is started again")

    async def _start_successor(self, seconds: float) -> Process:
        ready, ready_fd = os.pipe()
        try:
            try:
                successor = self._successor = self._spawn(ready_fd)
            finally:
                os.close(ready_fd)
            try:
                async with asyncio.timeout(seconds):
                    works = await _gets_a_byte(ready)
            except BaseException as error:
                await self._stop(successor)
                if isinstance(error, TimeoutError):
                    text = f"the new process of {self.name} does not work after {seconds:g} s; the old one goes on"
                    raise StartError(text) from error
                raise
            if not works:
                await self._stop(successor)
                ending = _ending(await successor.wait())
                raise StartError(
                    f"the new process of {self.name} has ended ({ending}), its lines in the log of `tcgx up` say why; "
                    "the old one goes on"
                )
        finally:
            os.close(ready)
        return successor

    async def _stop_predecessor(self, *, seconds: float) -> None:
        if self._predecessor is None:
            return
        if not await self._predecessor.stop(seconds=seconds, number=self._hand_over_signal):
            log.warning("killed, because it did not stop in time", service=self.name, stop_seconds=seconds)
        self._forget(self._predecessor)
        self._predecessor = None

    async def end_if_unreachable(self) -> None:
        """Does nothing: the socket of a service has no path."""

    async def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL after `stop_seconds`. New connections are refused from now on."""
        if self._listener:
            self._listener.close()
        for process in (self._successor, self._predecessor, self._process):
            if process:
                await self._stop(process)

    async def _stop(self, process: Process) -> None:
        if not await process.stop(seconds=self._stop_seconds):
            log.warning("killed, because it did not stop in time", service=self.name, stop_seconds=self._stop_seconds)
        self._forget(process)


async def _gets_a_byte(descriptor: int) -> bool:
    """Waits for a byte in a pipe; False if all its writers have gone without one."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return bool(os.read(descriptor, 1))


class Supervisor:
    """Keeps services and embedded servers running until it is told to stop."""

    def __init__(self, members: Sequence[Member], *, stop_order: Sequence[str] = ()) -> None:
        """Members start in their order, and stop in the order of the names in `stop_order` (default: reversed)."""
        by_name = {member.name: member for member in members}
        order = list(stop_order) or list(reversed(by_name))
        if len(by_name) != len(members) or sorted(order) != sorted(by_name):
            raise ValueError(f"stop_order must name every member once: {order} for {list(by_name)}")
        self._members = tuple(members)
        self._stopped_in_order = tuple(by_name[name] for name in order)
        self._pauses: set[asyncio.Event] = set()
        self._restart: asyncio.Task[None] | None = None
        self._keeps_running = False

    async def run_until(self, stop: asyncio.Event) -> None:
        """Starts every member, restarts a member that ends, and stops all members once `stop` is set.

        The members are stopped as well if this call is canceled or fails.

        Raises:
            StartError: a member cannot be started the first time.
        """
        try:
            for member in self._members:
                await member.start()
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep_running(member)) for member in self._members]
                keepers.append(group.create_task(self._check_reachable()))
                self._keeps_running = True
                await stop.wait()
                self._keeps_running = False
                await cancel_and_wait(*keepers)  # the start of a server may swallow one cancellation
        finally:
            self._keeps_running = False
            if self._restart:
                await cancel_and_wait(self._restart)
            await self.stop()

    async def restart(self, names: Sequence[str], tell: Callable[[str], None]) -> None:
        """Replaces the processes of services, one after the other (`Service.replace`). `tell` takes lines for a person.

        A name stands for all workers: `api` for `api-1` and `api-2`. `all` stands for the services of this project.

        Raises:
            StartError: a service is missing or does not get a successor, another restart is under way, or all stops.
        """
        running = [one for one in self._members if isinstance(one, Service)]
        if ALL in names:
            names = [name for one in running if (name := one.name.split("-")[0]) in SERVICES]
        services = [one for one in running if one.name.split("-")[0] in names]
        missing = set(names) - {one.name.split("-")[0] for one in services}
        if missing:
            raise StartError(f"{', '.join(sorted(missing))}: no such service runs here")
        if not self._keeps_running:
            raise StartError("the exchange is starting or stopping")
        if self._restart:
            raise StartError("another restart is under way")
        self._restart = asyncio.create_task(_replace_each(services, tell), name="restart")
        try:
            await asyncio.wait({self._restart})
            if self._restart.cancelled():
                raise StartError("the exchange was stopped before the end of the restart")
            self._restart.result()
        finally:
            self._restart = None

    async def stop(self) -> None:
        """Stops every member, one after the other, in the stop order."""
        for member in self._stopped_in_order:
            await member.stop()

    async def _check_reachable(self) -> None:
        while True:
            await asyncio.sleep(REACHABLE_SECONDS)
            for member in self._members:
                await member.end_if_unreachable()

    async def _keep_running(self, member: Member) -> None:
        clock = asyncio.get_running_loop().time
        delay, is_told = RESTART_SECONDS_MIN, False
        while True:
            started_at = clock()
            ending, refuses = await self._run(member)
            if clock() - started_at >= STEADY_SECONDS:
                delay, is_told = RESTART_SECONDS_MIN, False
            if delay <= RESTART_SECONDS_MAX:
                log.warning("ended unexpectedly, starts again", service=member.name, delay_seconds=delay, **ending)
            elif not is_told:
                is_told = True
                what = "does not start, for the reason above; it is tried again ever more rarely"
                log.error(what, service=member.name, delay_seconds_max=REFUSED_SECONDS_MAX)
            if await self._pause(delay):
                delay, is_told = RESTART_SECONDS_MIN, False
            else:
                delay = min(2 * delay, REFUSED_SECONDS_MAX if refuses else RESTART_SECONDS_MAX)

    async def _run(self, member: Member) -> tuple[dict[str, str], bool]:
        """Runs a member once; returns how it ended, and whether it refuses to work, perhaps for good."""
        is_start = member.pid is None
        try:
            await member.start()
        except (StartError, OSError) as error:  # one member that cannot be started is no reason to stop the others
            return {"ending": str(error)}, not member.serves
        if is_start and member.serves:
            for woken in self._pauses:
                woken.set()
        code = await member.wait()
        ending = {"ending": _ending(code)}
        if code > 0 and (words := member.log_tail()):
            ending["said"] = words
        return ending, code == REFUSED_CODE and not member.serves

    async def _pause(self, seconds: float) -> bool:
        """Waits before the next start; True if the return of a server has ended the wait early."""
        woken = asyncio.Event()
        self._pauses.add(woken)
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            return False
        finally:
            self._pauses.discard(woken)
        return True


async def _replace_each(services: Sequence[Service], tell: Callable[[str], None]) -> None:
    clock = asyncio.get_running_loop().time
    for number, one in enumerate(services, 1):
        began, former = clock(), one.pid
        tell(f"{number}/{len(services)} {one.name}: a new process starts beside process {former or '(none)'}")
        await one.replace(seconds=READY_SECONDS)
        log.info("replaced", service=one.name, former=former, process=one.pid)
        tell(f"{number}/{len(services)} {one.name}: process {one.pid} has taken over after {clock() - began:.1f} s")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
