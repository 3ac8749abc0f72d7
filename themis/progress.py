"""How far a run is, shown while it goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from themis.run import Update

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""


class Tally:
    """Counts what a progress display says: answers, errors, rate, and the running mean of the main metric."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.new = 0
        self.errors = 0
        self.score = 0.0
        self.scored = 0

    def add(self, update: Update) -> None:
        """Count one answer."""
        self.new += 1
        self.errors += update.generation.status == "error"
        main = update.evaluations[0] if update.evaluations else None
        if main is not None and main.score is not None:
            self.score += main.score
            self.scored += 1

    def text(self) -> str:
        """The counts in a few words."""
        rate = self.new / max(time.monotonic() - self.began, 1e-9)
        parts = [f"{rate:.1f}/s", f"{self.errors} errors"]
        if self.scored:
            parts.append(f"score {self.score / self.scored:.3f} over {self.scored}")
        return ", ".join(parts)


class Progress:
    """The display of one run; call it with each Update."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._tally = Tally()
        self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich import progress

            columns = ("[progress.description]{task.description}", progress.BarColumn(), progress.MofNCompleteColumn())
            after = (progress.TimeRemainingColumn(), "{task.fields[counts]}")
            self._bar = progress.Progress(*columns, *after, console=self._console, transient=True)
            self._task = self._bar.add_task(self._title, total=None, counts="")
            self._bar.start()
        return self

    def __call__(self, update: Update) -> None:
        self._tally.add(update)
        if self._bar is not None:
            self._bar.update(self._task, completed=update.n_done, total=update.n_total, counts=self._tally.text())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            total = "?" if update.n_total is None else update.n_total
            self._console.print(f"{self._title}: {update.n_done}/{total} ({self._tally.text()})", highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
