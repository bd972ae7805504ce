"""What a person sees while it measures: bars in a terminal, else a line every few seconds; always on standard error."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_SECONDS = 3.0
REFRESHES_A_SECOND = 4  # each one takes a little of the measured machine


class Task:
    """One thing that goes from 0 to `total`."""

    def __init__(self, board: "Board", what: str, total: int, task_id: TaskID | None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._board = board
        self._task_id = task_id
        self._started = time.monotonic()
        self._ended = 0.0

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """So many are done."""
        done = min(done, self.total)
        if done == self.done:
            return
        self.done = done
        if done >= self.total:
            self._ended = time.monotonic()
        self._board.changed(self, self._task_id)

    def rate(self) -> float:
        """How many a second, since the task was made."""
        return self.done / ((self._ended or time.monotonic()) - self._started)

    def line(self) -> str:
        """The state in words: how many, how fast, how long still."""
        rate = self.rate()
        left = f", {(self.total - self.done) / rate:.0f} s left" if 0 < self.done < self.total else ""
        return f"{self.what}: {self.done:,}/{self.total:,}, {rate:,.0f}/s{left}"


class Board:
    """All tasks of a benchmark. Use it as a context."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
                refresh_per_second=REFRESHES_A_SECOND,
            )
            if self._console.is_terminal
            else None
        )
        self._running: list[Task] = []
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()

    def task(self, what: str, total: int) -> Task:
        """A new task; it is shown from now on."""
        task = Task(self, what, total, self._bars.add_task(what, total=total, rate="") if self._bars else None)
        self._running.append(task)
        return task

    def say(self, sentence: str) -> None:
        """A line of its own."""
        if self._bars:
            self._bars.console.print(sentence, highlight=False)
        else:
            print(sentence, file=sys.stderr, flush=True)

    def changed(self, task: Task, task_id: TaskID | None) -> None:
        """Shows where all are, unless that was written just now; the end of a task is always shown."""
        if self._bars and task_id is not None:
            self._bars.update(task_id, completed=task.done, rate=f"{task.rate():,.0f}/s")
            return
        if task.done >= task.total:
            self._running.remove(task)
            self.say(task.line())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(" | ".join(one.line() for one in self._running))
