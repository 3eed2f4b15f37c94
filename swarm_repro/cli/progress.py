"""Live progress of a run, on stderr and only on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from swarm_repro.completion import Completion
from swarm_repro.ledger import PendingCall

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from swarm_repro.simulation.plan import Plan
    from swarm_repro.study.worker import Report


def _counting(*said: str) -> Progress:
    """A bar that counts, with what is said beside it, and an estimate of the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *map(TextColumn, said),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # SWARM's own report is captured; ours comes when the display is gone.
        redirect_stdout=False,
        redirect_stderr=False,
    )


class RunProgress:
    """Calls, tokens, tokens per second, epoch, and an estimate of the time left."""

    def __init__(self, plan: Plan) -> None:
        """Prepare the display of a run.

        Args:
            plan: The run; it tells how many calls there will be at least.
        """
        self._plan = plan
        self._display: Progress | None = None
        self._task: TaskID | None = None
        self._tokens = 0
        self._start = time.monotonic()

    def __enter__(self) -> RunProgress:
        if sys.stderr.isatty():
            self._display = _counting("steps", "{task.fields[shown]}")
            self._task = self._display.add_task(
                self._plan.mode.value, total=self._plan.epochs * self._plan.steps, shown=""
            )
            self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def on_wait(self, waited_s: float) -> None:
        """Show that a server is still loading its model."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, shown=f"server is loading, {waited_s:.0f} s")

    def on_call(self, call: PendingCall, completion: Completion) -> None:
        """Show one more call."""
        if self._display is None or self._task is None:
            return
        self._tokens += completion.usage.completion or 0
        elapsed_s = max(time.monotonic() - self._start, 1e-6)
        epoch, step = call.at or (0, 0)
        calls = int(self._display.tasks[0].fields.get("calls", 0)) + 1
        self._display.update(
            self._task,
            completed=epoch * self._plan.steps + step,
            calls=calls,
            shown=(
                f"epoch {epoch + 1}/{self._plan.epochs}  {calls} calls  {self._tokens} tokens  "
                f"{self._tokens / elapsed_s:.0f} tokens/s"
            ),
        )


class Bar:
    """How far a command is in its phases, on stderr and only on a terminal."""

    def __init__(self) -> None:
        """Prepare the display."""
        self._display: Progress | None = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._display = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %, left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def phase(self, name: str) -> Callable[[int, int], None] | None:
        """Begin a phase.

        Args:
            name: What is being done.

        Returns:
            What to call with the work done so far and all there is; None where nobody looks.
        """
        display = self._display
        if display is None:
            return None
        task = display.add_task(name, total=None)
        return lambda done, total: display.update(task, completed=done, total=total)


class StudyProgress:
    """Runs of a study, and an estimate of the time left."""

    def __init__(self, name: str) -> None:
        """Prepare the display of a study.

        Args:
            name: What it is called.
        """
        self._name = name
        self._display: Progress | None = None
        self._task: TaskID | None = None
        self._failed = 0

    def __enter__(self) -> StudyProgress:
        if sys.stderr.isatty():
            self._display = _counting("runs{task.fields[shown]}")
            self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def on_begin(self, total: int, before: int) -> None:
        """Show how many runs there are, and how many were finished before."""
        if self._display is not None:
            self._task = self._display.add_task(self._name, total=total, completed=before, shown="")

    def on_report(self, report: Report) -> None:
        """Show that a run has ended."""
        if self._display is None or self._task is None:
            return
        self._failed += report.exit_code != 0
        shown = f", {self._failed} failed" if self._failed else ""
        self._display.update(self._task, advance=1, shown=shown)
