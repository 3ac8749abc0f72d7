"""The lease table of a map: which items are out, which have their result, what may be taken next."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any

from themis.backends._chunk import Chunk, Failed, Run

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Block:
    """The items of one lease, from when they are first handed out until all of them have ended."""

    __slots__ = ("done", "items", "left", "start", "stop", "values")

    def __init__(self, chunk: Chunk, keeps_values: bool) -> None:
        self.start, self.stop, self.items = chunk.start, chunk.stop, chunk.items
        self.left = len(chunk.items)
        self.done = bytearray(self.left)
        self.values: list[Any] = [None] * self.left if keeps_values else []


class Table:
    """Items that were handed out, by input position; and their results until these are taken.

    Args:
        ordered: Results are taken in input order, else as they came.
        keep_errors: An error is taken like any result, else it stays a Failed.
    """

    def __init__(self, *, ordered: bool, keep_errors: bool) -> None:
        self._ordered = ordered
        self._keep_errors = keep_errors
        self._starts: list[int] = []
        self._blocks: list[_Block] = []
        self._end = 0
        self._position = 0  # of the next result in the first block
        self._ready: list[Any] = []
        self.n_done = 0
        self.n_failed = 0

    def hand_out(self, chunk: Chunk) -> None:
        """Take in a lease; one whose items were handed out before changes nothing."""
        if chunk.start >= self._end:
            self._starts.append(chunk.start)
            self._blocks.append(_Block(chunk, self._ordered))
            self._end = chunk.stop

    def finish(self, run: Run) -> None:
        """Take in results. Each item is finished once: what comes later for it is dropped."""
        block = self._find(run.start)
        if block is None:
            return
        at, stop = run.start - block.start, run.start - block.start + len(run.values)
        if block.done.find(1, at, stop) >= 0:
            for number, value in enumerate(run.values, run.start):
                if not block.done[number - block.start]:
                    self.finish(Run(number, [value], run.failed))
            return
        values = self._surfaced(run, block) if run.failed else run.values
        block.done[at:stop] = b"\1" * (stop - at)
        block.left -= stop - at
        self.n_done += stop - at
        if self._ordered:
            block.values[at:stop] = values
        else:
            self._ready.extend(values)
            if not block.left:
                self._drop(block)

    def unfinished(self, chunk: Chunk | range) -> Iterator[Chunk]:
        """What has not ended of the items of a lease, in runs."""
        block = self._find(chunk.start)
        if block is None:
            return
        at, stop = chunk.start - block.start, chunk.stop - block.start
        while (at := block.done.find(0, at, stop)) >= 0:
            end = block.done.find(1, at, stop)
            end = stop if end < 0 else end
            yield Chunk(block.start + at, block.items[at:end])
            at = end

    def take(self) -> list[Any]:
        """The results that may be taken now."""
        if self._ordered:
            self._collect()
        ready, self._ready = self._ready, []
        return ready

    def _collect(self) -> None:
        while self._blocks:
            block, at = self._blocks[0], self._position
            end = block.done.find(0, at)
            end = len(block.done) if end < 0 else end
            self._ready.extend(block.values[at:end])
            block.values[at:end] = [None] * (end - at)  # a long lease must not keep what was taken
            self._position = end
            if end < len(block.done):
                return
            self._drop(block)
            self._position = 0

    def _find(self, index: int) -> _Block | None:
        number = bisect_right(self._starts, index) - 1
        block = self._blocks[number] if number >= 0 else None
        return block if block is not None and index < block.stop else None

    def _drop(self, block: _Block) -> None:
        number = bisect_right(self._starts, block.start) - 1
        del self._starts[number], self._blocks[number]

    def _surfaced(self, run: Run, block: _Block) -> list[Any]:
        return [
            self._surface(value.error, index, block.items[index - block.start]) if type(value) is Failed else value
            for index, value in enumerate(run.values, run.start)
        ]

    def _surface(self, error: BaseException, index: int, item: Any) -> Any:
        self.n_failed += 1
        error = located(error, index, item)
        return error if self._keep_errors else Failed(error)


def located(error: BaseException, index: int, item: Any) -> BaseException:
    """The error with `.index` and `.item`; a copy where one object stands for several items."""
    if getattr(error, "index", None) is not None and getattr(error, "item", None) is not item:
        trace = error.__traceback__
        error = copy(error).with_traceback(trace)
    with suppress(AttributeError):  # a class with slots: it arrives without them
        error.index, error.item = index, item  # type: ignore[attr-defined]
    return error
