"""What a person sees while it measures: bars in a terminal, else a line every few seconds; always on standard error."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

LINE_SECONDS = 3.0
NOTHING_YET: Mapping[str, Any] = {"count": "", "rate": "", "left": ""}
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

    def state(self) -> dict[str, Any]:
        """Texts: how many, how fast, and how long still where that is known."""
        rate = self.rate()
        return {
            "count": f"{self.done:,}/{self.total:,}",
            "rate": f"{rate:,.0f}/s",
            "left": f"{(self.total - self.done) / rate:,.0f} s left" if 0 < self.done < self.total else "",
        }

    def line(self) -> str:
        """The state in words."""
        return f"{self.what}: {', '.join(text for text in self.state().values() if text)}"


class Board:
    """All tasks of a benchmark. Use it as a context."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                *(TextColumn(f"{{task.fields[{name}]}}") for name in NOTHING_YET),
                console=self._console,
                refresh_per_second=REFRESHES_A_SECOND,
            )
            if self._console.is_terminal
            else None
        )
        self._running: list[Task] = []
        self._step: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        self.step("getting ready")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_step()
        if self._bars:
            self._bars.stop()

    def step(self, what: str) -> None:
        """What is done from now on, until the next step or task, where nothing can be counted."""
        self._end_step()
        if self._bars:
            self._step = self._bars.add_task(f"{what} …", total=None, **NOTHING_YET)
        else:
            self.say(f"{what} …")

    def _end_step(self) -> None:
        if self._bars and self._step is not None:
            self._bars.remove_task(self._step)
        self._step = None

    def task(self, what: str, total: int) -> Task:
        """A new task; it is shown from now on."""
        self._end_step()
        task = Task(self, what, total, self._bars.add_task(what, total=total, **NOTHING_YET) if self._bars else None)
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
            self._bars.update(task_id, completed=task.done, **task.state())
            return
        if task.done >= task.total:
            self._running.remove(task)
            self.say(task.line())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(" | ".join(one.line() for one in self._running))
