"""The one loop under every execution backend: laziness, windows, order, leases.

A backend supplies a crew, which starts items and tells what became of them; the loop here decides what is pulled,
started, yielded and run again. It runs on the consumer's thread: between two results nothing is pulled. Items and
results move in runs, so that a short item costs a list element and not a message, a lock or a dictionary entry.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.backends._chunk import Failed
from themis.backends._table import Table
from themis.backends._waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from themis.backends._crew import Crew, News

PULL_SECONDS = 0.005
"""How long items are pulled before the crew hears of them: a slow source must not hold up what is there."""

BITE_SECONDS = 0.0005
"""Items are pulled together while so many take less than this."""

MAX_BITE = 16_384

AHEAD_SECONDS = 0.5
"""Work that a window without a bound of the caller's may hold ahead of the consumer."""

GROWTH = 16
"""Times what the consumer has taken, at most, that such a window holds."""


class MapProgress(NamedTuple):
    """How far a map is.

    Attributes:
        done: Items that have ended, with a result or an error.
        failed: How many of them with an error.
        waiting: Items that were pulled and are with no worker.
        out: Items that are with a worker, in progress or next in line.
        again: Items that were given to another worker because theirs died.
        nodes: Machines that have worked on items so far.
        seconds: Since the first result was asked for.
    """

    done: int = 0
    failed: int = 0
    waiting: int = 0
    out: int = 0
    again: int = 0
    nodes: int = 1
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Items that have ended per second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Results(Iterator[Any]):
    """The results of a map, as its contract says; the crew is made when the first one is asked for."""

    def __init__(
        self,
        make_crew: Callable[[], Crew],
        items: Iterable[Any],
        *,
        window: Window,
        ordered: bool,
        return_exceptions: bool,
    ) -> None:
        self._maps: list[_Map] = []
        table = Table(ordered=ordered, keep_errors=return_exceptions)
        self._rest: list[Iterator[Any]] = []
        # The generator knows nothing of this object: when the last name for it goes, it is closed at once.
        self._results = _flat(_run(make_crew, items, window, table, self._maps), self._rest)

    def __iter__(self) -> Iterator[Any]:  # noqa: PYI034 - see below
        return self._results  # a Python frame less for each result than through __next__

    def __next__(self) -> Any:
        return next(self._results)

    def finished(self) -> list[Any]:
        """What has ended by now and was not yet taken; nothing more is waited for."""
        rest = [result for batch in self._rest for result in batch]
        return rest + [result for running in self._maps for result in running.finished()]

    @property
    def progress(self) -> MapProgress:
        """How far the map is; what it was at the end, once it has ended."""
        return self._maps[0].progress() if self._maps else MapProgress()

    def close(self) -> None:
        """Cancel what has not ended, in under a second. Idempotent."""
        self._results.close()


def _flat(batches: Generator[list[Any], None, None], rest: list[Iterator[Any]]) -> Generator[Any, None, None]:
    """The results of every batch; `rest` has those of the present one that were not taken."""
    with closing(batches):
        for batch in batches:
            results = iter(batch)
            rest[:] = [results]
            yield from results


def _run(
    make_crew: Callable[[], Crew], items: Iterable[Any], window: Window, table: Table, maps: list[_Map]
) -> Generator[list[Any], None, None]:
    crew = make_crew()
    try:
        maps.append(_Map(crew, items, window, table))
        yield from maps[0].batches()
    finally:
        crew.close()


class Window:
    """How many items may be pulled and not yet taken by the consumer.

    Args:
        size: At least so many.
        fixed: Never more. Else up to GROWTH times what the consumer has taken, and no more than AHEAD_SECONDS of work:
            who takes millions of small results gets a large window, who takes ten does not.
    """

    def __init__(self, size: int, *, fixed: bool) -> None:
        self._size = size
        self._fixed = fixed

    def at(self, taken: int, seconds: float) -> int:
        """Its size after so many were taken in so many seconds."""
        if self._fixed or not taken:
            return self._size
        return max(self._size, min(GROWTH * taken, int(taken / max(seconds, 1e-3) * AHEAD_SECONDS)))


class _Map:
    """One map on its way: what was pulled, what is out on a lease, what waits for its turn."""

    def __init__(self, crew: Crew, items: Iterable[Any], window: Window, table: Table) -> None:
        self._crew = crew
        self._source = iter(items)
        self._source_error: Exception | None = None
        self._exhausted = False
        self._window = window
        self._table = table
        self._pulled = 0
        self._taken = 0
        self._bite = 1
        self._waiting = Waiting(table)
        self._began = time.monotonic()

    def batches(self) -> Generator[list[Any], None, None]:
        while True:
            self._pull()
            self._waiting.lease(self._crew)
            while 0 < len(self._waiting) == self._pulled - self._table.n_done:
                # Nobody has anything: to pull more would help nobody, and a source that blocks must not keep the crew
                # from being heard.
                self._note(self._crew.wait(None))
                self._waiting.lease(self._crew)
            self._collect()
            batch = self._table.take()
            self._taken += len(batch)
            if self._table.n_failed and any(type(value) is Failed for value in batch):
                first = next(number for number, value in enumerate(batch) if type(value) is Failed)
                yield batch[:first]
                raise batch[first].error
            if batch:
                yield batch
            if self._exhausted and self._taken == self._pulled:
                break
        if self._source_error is not None:  # only now: what was pulled before it has been delivered
            raise self._source_error

    def finished(self) -> list[Any]:
        """Results that are there, in the order in which they may be taken."""
        if self._table.n_done < self._pulled:
            self._note(self._crew.wait(0))
        return [value.error if type(value) is Failed else value for value in self._table.take()]

    def progress(self) -> MapProgress:
        table = self._table
        waiting = len(self._waiting)
        out = self._pulled - table.n_done - waiting
        seconds = time.monotonic() - self._began
        return MapProgress(table.n_done, table.n_failed, waiting, out, self._waiting.n_again, self._crew.nodes, seconds)

    def _room(self) -> int:
        if self._exhausted:
            return 0
        window = self._window.at(self._taken, time.monotonic() - self._began)
        return self._crew.window(window) - (self._pulled - self._taken)

    def _pull(self) -> None:
        until = time.monotonic() + PULL_SECONDS
        while (room := self._room()) > 0 and time.monotonic() < until:
            began = time.perf_counter()
            self._bite_off(min(room, self._bite))
            took = time.perf_counter() - began
            self._bite = min(2 * self._bite, MAX_BITE) if took < BITE_SECONDS else max(1, self._bite // 2)

    def _bite_off(self, count: int) -> None:
        items: list[Any] = []
        try:
            items.extend(islice(self._source, count))  # keeps what came before an error of the source
            self._exhausted = len(items) < count
        except Exception as error:  # noqa: BLE001 - raised once the pulled ones are through
            self._exhausted, self._source_error = True, error
        self._waiting.add(items)
        self._pulled += len(items)

    def _collect(self) -> None:
        if self._table.n_done < self._pulled:
            self._note(self._crew.wait(0 if self._room() > 0 else None))

    def _note(self, news: News) -> None:
        for run in news.runs:
            self._table.finish(run)
        for loss in news.losses:
            self._waiting.recover(loss)
