"""ExecutionBackend: how a function is applied to many items; here on threads and on the caller's own thread."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from themis.backends._crew import Crew, InlineCrew, SlotsCrew
from themis.backends._engine import Results, Window
from themis.backends._slots import is_coroutine_function, make_slots
from themis.registry import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

DEFAULT_MAX_WORKERS = 64
"""Items in progress where neither the backend nor the call says how many: model calls wait, they do not compute."""

BUFFER_FACTOR = 16
"""Default buffersize per worker: with less, ordered results stall behind one slow item."""


class ExecutionBackend(ABC):
    """Applies a function to many items. Write `map`; the rest has a default.

    The contract, which themis.testing.ExecutionBackendTests checks for what the four flags say:

    - Lazy: `items` may be endless. At most `buffersize` items are pulled and not yet taken by the consumer.
    - `ordered=True` yields in input order, `ordered=False` as results complete.
    - An exception of `func` ends the map with its own type, or is yielded in its place with `return_exceptions=True`.
    - `timeout` is seconds for one item, from when it begins; it surfaces as TaskTimeoutError.
    - Closing the iterator returns in under a second and begins nothing more.
    """

    supports_async: bool = False
    """Takes coroutine functions too."""
    concurrent: bool = False
    """Has several items in progress at once."""
    isolates_crashes: bool = False
    """Survives an item that ends its process."""
    preempts: bool = False
    """Ends an item that hangs in C, where others can only abandon it."""

    @abstractmethod
    def map(
        self,
        func: Callable[[Any], Any],
        items: Iterable[Any],
        max_workers: int | None = None,
        timeout: float | None = None,
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
        buffersize: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """The results of `func` for every item.

        Args:
            func: Applied to one item at a time; a coroutine function where the backend `supports_async`.
            items: Pulled lazily, on the thread that takes the results.
            max_workers: Items in progress at once, over all machines. Default: the backend's own.
            timeout: Seconds for one item, from when it begins; None for no limit.
            ordered: Input order, else as they complete.
            return_exceptions: Yield an item's exception in its place and go on.
            buffersize: Items that may be pulled and not yet taken; default 16 times max_workers.
            kwargs: Options of one backend; a shipped one refuses what it does not know.
        """

    def shutdown(self) -> None:  # noqa: B027 - optional
        """Give back what the backend holds. Idempotent."""

    def describe(self) -> dict[str, Any]:
        """What runs the work, as JSON, for a run's provenance."""
        return {"type": type(self).__name__}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


class EngineBackend(ExecutionBackend):
    """A backend on the shared loop: it supplies a crew and gets the whole contract."""

    supports_async = True

    def __init__(self, max_workers: int | None = None) -> None:
        self._max_workers = None if max_workers is None else positive("max_workers", max_workers)

    def map(
        self,
        func: Callable[[Any], Any],
        items: Iterable[Any],
        max_workers: int | None = None,
        timeout: float | None = None,
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
        buffersize: int | None = None,
        **kwargs: Any,
    ) -> Results:
        refuse_unknown(type(self).__name__, kwargs)
        if not callable(func):
            raise TypeError(f"func={func!r} is a {type(func).__name__}; give a function of one item")
        limit = self._limit(max_workers)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout={timeout!r}: give seconds above 0, or None for no limit")
        if buffersize is None:
            window = self._window(limit, fixed=max_workers is not None)
        else:
            window = Window(positive("buffersize", buffersize), fixed=True)
        return Results(
            partial(self._crew, func, limit, timeout),
            items,
            window=window,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )

    @abstractmethod
    def _crew(self, func: Callable[[Any], Any], limit: int, timeout: float | None) -> Crew:
        """What runs one map with `limit` items in progress and `timeout` seconds for each."""

    def _limit(self, max_workers: int | None) -> int:
        if max_workers is not None:
            return positive("max_workers", max_workers)
        return self._max_workers or DEFAULT_MAX_WORKERS

    def _window(self, limit: int, *, fixed: bool) -> Window:
        return Window(BUFFER_FACTOR * limit, fixed=fixed)


class LocalExecutionBackend(EngineBackend):
    """Runs items on daemon threads of this process, coroutine functions on one event loop.

    Args:
        max_workers: Items in progress at once where a call does not say; default 64.
    """

    concurrent = True

    def _crew(self, func: Callable[[Any], Any], limit: int, timeout: float | None) -> Crew:
        return SlotsCrew(make_slots(func, limit, timeout, busy=os.cpu_count() or 1))


class SequentialExecutionBackend(EngineBackend):
    """Runs one item after the other on the caller's thread, for debugging.

    Each item is pulled when its result is asked for. With a timeout, and for coroutine functions, items run on
    another thread, still one at a time. A `max_workers` is accepted and changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()

    def _limit(self, max_workers: int | None) -> int:
        super()._limit(max_workers)
        return 1

    def _window(self, limit: int, *, fixed: bool) -> Window:
        return Window(limit, fixed=True)

    def _crew(self, func: Callable[[Any], Any], limit: int, timeout: float | None) -> Crew:
        if timeout is None and not is_coroutine_function(func):
            return InlineCrew(func)
        return SlotsCrew(make_slots(func, limit, timeout))


def positive(name: str, value: Any) -> int:
    """The value itself when it is a whole number from 1; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give a whole number from 1")
    if value < 1:
        raise ValueError(f"{name}={value!r}: give a whole number from 1")
    return value


MAP_OPTIONS = ("max_workers", "timeout", "ordered", "return_exceptions", "buffersize")


def refuse_unknown(backend: str, options: dict[str, Any], known: Iterable[str] = MAP_OPTIONS) -> None:
    """Raise TypeError for an option that the backend does not know, naming the nearest that it does."""
    for name in options:
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise TypeError(f"{backend}.map() has no option {name!r}{hint} It takes {', '.join(known)}")
