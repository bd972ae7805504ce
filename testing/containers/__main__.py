"""`python -m testing.containers`: builds the image, runs it with compose, kills every container under load.

Where no Docker engine answers, root on Debian gets a private one: it is made of Debian's packages in a folder, and
removed with it. The exit code is 0 if nothing was lost, 1 if something was, and 3 if this machine can't run containers.
"""

import argparse
import contextlib
import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import StartError
from testing.chaos.checker import Violation
from testing.containers import engine as engines
from testing.containers import machine, sbom, trial
from testing.containers.engine import Engine
from testing.containers.machine import ROOT, Folder
from testing.waiting import NotInTime

CANT = 3
IMAGE, FIRST_IMAGE, BEFORE_IMAGE = "tcgx:trial", "tcgx:trial-first", "tcgx:trial-before"
DIFFERENCES_SHOWN = 20
BEGAN = time.monotonic()


def say(text: str) -> None:
    """Prints a line with the time since the beginning."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m testing.containers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each container is killed (1)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the load (1)")
    parser.add_argument("--twice", action="store_true", help="build twice, and compare the layers")
    parser.add_argument("--sbom", type=Path, help="keep the bill of materials of the image in this file (SPDX)")
    parser.add_argument("--cache", type=Path, help="a folder that keeps packages and file trees for the next run")
    parser.add_argument("--private", action="store_true", help="a private engine, even where one answers")
    parser.add_argument("--before", help="a revision whose data is upgraded, too (the last tag, if there is one)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        if given.inside:
            with engines.private(Folder(given.inside)) as engine:
                say("a private engine runs")
                return _try(engine, given, Folder(given.inside))
        found = None if given.private else engines.running()
        if found is not None:
            say("a Docker engine answers here")
            with tempfile.TemporaryDirectory() as place:
                return _try(found, given, None, Path(place))
        return _privately(given)
    except (StartError, NotInTime) as error:
        print(f"containers: {error}", file=sys.stderr)
        return 1


def _privately(given: argparse.Namespace) -> int:
    reason = machine.why_not()
    if reason:
        print(f"containers: no Docker engine answers, and a private one can't be started: {reason}", file=sys.stderr)
        return CANT
    with _folder(given.cache) as place:
        folder = Folder(place)
        before = _tree_of(_revision(given), place)
        folder.prepare(lambda step: say(f"makes: {step}"), [ROOT, *([before] if before else [])])
        words = ["--inside", str(place), "--rounds", str(given.rounds), "--seed", str(given.seed)]
        words += ["--before", given.before] if given.before else []
        words += ["--sbom", str(given.sbom.absolute())] if given.sbom else []
        return folder.run_inside([*words, *(["--twice"] if given.twice else [])])


def _revision(given: argparse.Namespace) -> str:
    """The revision of before; empty if there is none. The tag of this very revision is not before it."""
    return given.before or _git("describe", "--tags", "--abbrev=0", "HEAD^")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if not done.returncode else ""


def _tree_of(revision: str, place: Path) -> Path | None:
    """The files of a revision, in a folder of `place`; None without a revision.

    Raises:
        StartError: there is no such revision.
    """
    if not revision:
        return None
    if not _git("rev-parse", "--verify", f"{revision}^{{commit}}"):
        raise StartError(f"--before: {revision!r} is no revision of {ROOT}")
    tree = place / "before"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    with subprocess.Popen(["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=True)
    return tree


@contextlib.contextmanager
def _folder(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartError(f"--cache: another run uses {cache}") from None
            yield cache.absolute()
        return
    # A disk, not memory.
    with tempfile.TemporaryDirectory(prefix="tcgx-containers-", dir="/var/tmp") as place:
        yield Path(place)


def _try(engine: Engine, given: argparse.Namespace, folder: Folder | None, place: Path | None = None) -> int:
    faults = _build(engine, given, folder, place or Path())
    with trial.removed_afterwards(trial.Stack(engine, IMAGE, is_private=folder is not None)) as stack:
        try:
            outcome = trial.run(stack, rounds=given.rounds, seed=given.seed, say=say)
        except (StartError, NotInTime):
            print(stack.logs(), file=sys.stderr)
            raise
    faults += _upgraded(engine, given, folder, place or Path())
    say(f"stopped in {outcome.stop_seconds:.1f} s with {outcome.exit_codes}; up again in {outcome.again_seconds:.1f} s")
    lost = _count(outcome.violations, "lost")
    doubled = _count(outcome.violations, "doubled")
    print(
        f"{len(outcome.kills)} kills; {outcome.sent} orders sent, {outcome.repeats} requests repeated, "
        f"{outcome.acknowledged} orders acknowledged, {outcome.trades} trades; lost {lost}, doubled {doubled}"
    )
    faults += [*outcome.faults, *map(str, outcome.violations)]
    faults += [f"{name} ended with {code}" for name, code in outcome.exit_codes.items() if code]
    for fault in faults:
        print(f"FAULT  {fault}")
    return 1 if faults else 0


def _build(engine: Engine, given: argparse.Namespace, folder: Folder | None, place: Path) -> list[str]:
    is_offline = folder is not None
    revision = _git("rev-parse", "--short=12", "HEAD")
    faults = []
    with engines.context(folder.path if folder else place, folder.wheels(ROOT) if folder else None) as files:
        began = time.monotonic()
        engines.build(engine, files, IMAGE, is_offline=is_offline, revision=revision)
        size = engine.inspect(IMAGE)["Size"]
        say(f"image built in {time.monotonic() - began:.1f} s, {size / 1e6:.0f} MB")
        if given.twice:
            engine.docker("tag", IMAGE, FIRST_IMAGE)
            engines.build(engine, files, IMAGE, is_offline=is_offline, is_fresh=True, revision=revision)
            both = (trial.contents(engine, FIRST_IMAGE, files), trial.contents(engine, IMAGE, files))
            different = trial.differences(both)
            say(f"built again: {len(different)} differences; without the time of the build sha256:{both[1].digest}")
            faults += [f"two builds differ: {one}" for one in different[:DIFFERENCES_SHOWN]]
        target = given.sbom.absolute() if given.sbom else files / "sbom.spdx.json"
        bill = sbom.write(engine, IMAGE, target)
        say(f"bill of materials: {bill.packages} packages, {len(bill.missing)} of the image's Python missing")
        faults += [f"the bill of materials lacks {one}" for one in bill.missing]
    return faults + [f"image: {fault}" for fault in trial.image_faults(engine, IMAGE)]


def _upgraded(engine: Engine, given: argparse.Namespace, folder: Folder | None, place: Path) -> list[str]:
    """Upgrades an exchange of the revision of before; what went wrong."""
    revision = _revision(given)
    tree = _tree_of(revision, folder.path if folder else place)
    if tree is None:
        say("there is no tag, and so no version of before to upgrade from")
        return []
    began = time.monotonic()
    wheels = folder.wheels(tree) if folder else None
    with engines.context(folder.path if folder else place, wheels, tree) as files:
        engines.build(engine, files, BEFORE_IMAGE, is_offline=folder is not None, revision=revision)
    say(f"image of {revision} built in {time.monotonic() - began:.1f} s")
    stack = trial.Stack(engine, BEFORE_IMAGE, is_private=folder is not None, tree=tree)
    with trial.removed_afterwards(stack):
        try:
            found = trial.upgrade(stack, IMAGE, seed=given.seed, say=say)
        except (StartError, NotInTime):
            print(stack.logs(), file=sys.stderr)
            raise
    for line in found.migrations:
        print(line)
    print(
        f"upgraded from {revision}: {found.acknowledged_before} acknowledged before, {found.acknowledged} in all, "
        f"{found.trades} trades; lost {_count(found.violations, 'lost')}, doubled {_count(found.violations, 'doubled')}"
    )
    return [f"upgrade: {violation}" for violation in found.violations]


def _count(violations: list[Violation], rule: str) -> int:
    return len([violation for violation in violations if violation.rule == rule])


if __name__ == "__main__":
    sys.exit(main())
