"""`tcgx chaos`: rounds of faults on throw-away exchanges, one after the other."""

import argparse
import asyncio
import sys
import threading
import time
from pathlib import Path

from cli import paths
from core.errors import StartError
from core.settings import Settings
from testing.chaos import report
from testing.chaos import round as rounds
from testing.chaos.exchange import Stopped
from testing.chaos.machine import compiler, libfaketime, may_mount
from testing.chaos.plan import KINDS, Plan, plan
from testing.chaos.round import Outcome
from testing.servers import folder


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """The exit code, which is 1 where a rule does not hold. A signal ends the present round, with its servers.

    Raises:
        StartError: a file can't be written or is missing, or an exchange does not start.
    """
    if arguments.report:
        runs = report.read(arguments.report)
        outcomes = sorted((one for run in runs for one in run.rounds), key=lambda outcome: outcome.seed)
        print(f"{report.summary(outcomes, runs)}\n\n{report.markdown(outcomes)}")
        return 0
    if arguments.results:
        paths.check_file(arguments.results)
    if arguments.faketime and not arguments.faketime.is_file():
        raise StartError(f"--faketime {arguments.faketime}: there is no such file")
    stopping = threading.Event()
    # Servers end with the thread that started them, so one thread runs all rounds.
    work = asyncio.ensure_future(asyncio.to_thread(_rounds, arguments, settings, stopping))
    try:
        outcomes = await asyncio.shield(work)
    except asyncio.CancelledError:
        stopping.set()
        await asyncio.wait([work])
        _finish(arguments, work.result())
        raise
    _finish(arguments, outcomes)
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _finish(arguments: argparse.Namespace, outcomes: list[Outcome]) -> None:
    """Shows the table, and writes the results, of the rounds that are done."""
    if outcomes:
        print(f"\n{report.table(outcomes)}")
    if arguments.results:
        about = {
            "command": _command(arguments.seed, arguments.rounds, arguments.setup),
            "left_out": _left_out(arguments.faketime),
        }
        arguments.results.write_bytes(report.encoded(outcomes, about))


def _rounds(arguments: argparse.Namespace, settings: Settings, stopping: threading.Event) -> list[Outcome]:
    left_out = _left_out(arguments.faketime)
    for kind, reason in left_out.items():
        print(f"left out: {kind}, because {reason}", flush=True)
    library = arguments.faketime or libfaketime()
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for number in range(arguments.rounds):
        planned: Plan = plan(arguments.seed + number, arguments.setup).without(left_out)
        try:
            outcome = rounds.run(planned, programs=settings, library=library, stopping=stopping)
        except Stopped:
            break
        outcomes.append(outcome)
        print(
            "\n".join([report.line(outcome), *report.details(outcome, _command(planned.seed, 1, planned.setup))]),
            flush=True,
        )
        _progress(outcomes, arguments.rounds, time.monotonic() - began)
    return outcomes


def _left_out(library: Path | None) -> dict[str, str]:
    """Kinds of fault that this machine can't make, each with the reason."""
    reasons = {}
    if not (library or libfaketime()):
        reasons["clock"] = "libfaketime is not installed (Debian: apt install libfaketime)"
    if not compiler():
        reasons["fsync"] = "no C compiler is installed, which makes the library whose fsync fails"
    with folder() as where:
        if not may_mount(where):
            reasons["disk"] = "only root can mount a small disk, and this user or container can't"
    return {kind.name: reasons[kind.needs] for kind in KINDS if kind.needs in reasons}


def _progress(outcomes: list[Outcome], total: int, seconds: float) -> None:
    """Standard error gets a line about the run so far."""
    done = len(outcomes)
    rate = sum(outcome.acknowledged for outcome in outcomes) / sum(outcome.load_seconds for outcome in outcomes)
    left = (total - done) * seconds / done
    print(f"round {done} of {total}, {rate:,.0f} orders/s, {left:,.0f} s left", file=sys.stderr, flush=True)


def _command(seed: int, count: int, setup: str) -> str:
    option = "" if setup == "single" else f" --setup {setup}"
    return f"tcgx chaos --rounds {count} --seed {seed}{option}"
