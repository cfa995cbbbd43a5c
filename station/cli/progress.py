"""Progress bars on a terminal, for commands that run for long."""

import sys
import threading
from typing import TYPE_CHECKING

from station import log
from station.cli import Context
from station.text import printable

if TYPE_CHECKING:
    from rich.progress import TaskID


class Bars:
    """Progress bars, one for each EC at work, on a terminal. Log lines below a warning are left out meanwhile.

    `unit` is what is counted, such as pages. Threads share it.
    """

    def __init__(self, context: Context, unit: str) -> None:
        self._settings = context.settings.log
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._on = sys.stderr.isatty() and not context.quiet
        if not self._on:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("EC {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[counts]}}", markup=False),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "Bars":
        if self._on:
            self._progress.start()
            # Set up again, so that lines go through the bars' own standard error and above them.
            level = {"info": "warning"}.get(self._settings.level, self._settings.level)
            log.configure(self._settings.format, level)
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._progress.stop()
            log.configure(self._settings.format, self._settings.level)

    def show(self, id_pa: str, running: bool, done: int, total: int, counts: str) -> None:
        """Show how far an EC is, with its counts in words; once it is not `running` its bar goes."""
        if not self._on:
            return
        with self._lock:
            task = self._tasks.get(id_pa)
            if not running:
                if task is not None:
                    self._progress.remove_task(task)
                    del self._tasks[id_pa]
                return
            if task is None:
                task = self._tasks[id_pa] = self._progress.add_task(printable(id_pa), counts="")
            self._progress.update(task, completed=done, total=total or None, counts=counts)
