"""How far a run is, shown while it goes on: a bar on a terminal or in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

if TYPE_CHECKING:
    from types import TracebackType

    from themis.run import Update

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""

SHOW_SECONDS = 0.2
"""How often a notebook's line changes."""


class Tally:
    """Counts what a progress display says: answers, what is with workers, errors, and the mean of the main metric."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.new = 0
        self.errors = 0
        self.score = 0.0
        self.scored = 0
        self._map = ""

    def add(self, update: Update) -> None:
        """Count one answer."""
        self.new += 1
        self.errors += update.generation.status == "error"
        main = update.evaluations[0] if update.evaluations else None
        if main is not None and main.score is not None:
            self.score += main.score
            self.scored += 1

    def text(self, update: Update) -> str:
        """The counts in a few words."""
        rate = self.new / max(time.monotonic() - self.began, 1e-9)
        parts = [f"{rate:.1f}/s"]
        if (progress := update.progress) is not None:
            parts.append(f"{progress.out} with workers")
            parts += [f"{progress.again} run again"] * (progress.again > 0)
            parts += [f"{progress.nodes} nodes"] * (progress.nodes > 1)
        parts.append(f"{self.errors} errors")
        if self.scored:
            parts.append(f"score {self.score / self.scored:.3f} over {self.scored}")
        return ", ".join(parts)


class Progress:
    """The display of one run: `evaluate(..., on_result=Progress("gsm8k"))`.

    As a context manager it shows a bar on a terminal, and takes it away at the end; otherwise it writes lines. A
    notebook gets one line that changes.

    Args:
        title: What is evaluated.
        console: Where it shows; default stderr.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(stderr=True, highlight=False)
        self._tally = Tally()
        self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._shown: Any = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_jupyter:
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
            total, counts = update.n_total, self._tally.text(update)
            self._bar.update(self._task, completed=update.n_done, total=total, counts=counts)
            return
        pause = SHOW_SECONDS if self._console.is_jupyter else LINE_SECONDS
        last = self._console.is_jupyter and update.n_done == update.n_total
        if last or time.monotonic() - self._last_line >= pause:
            self._last_line = time.monotonic()
            self._write(update)

    def _write(self, update: Update) -> None:
        total = "?" if update.n_total is None else update.n_total
        line = f"{self._title}: {update.n_done}/{total} ({self._tally.text(update)})"
        if not self._console.is_jupyter:
            self._console.print(line, highlight=False)
        elif self._shown is None:
            self._shown = _display(line)
        else:
            self._shown.update({"text/plain": line}, raw=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _display(line: str) -> Any:
    """A line in the output of a notebook's cell, which can be changed later."""
    from IPython import display

    return display.display({"text/plain": line}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
