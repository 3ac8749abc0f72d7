"""How one call maps over its backend: as many at once as it says, with what a user's own backend accepts."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from themis.backends.execution import DEFAULT_MAX_WORKERS, EngineBackend
from themis.work import AsyncWork, BlockingWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from themis.backends import ExecutionBackend
    from themis.models.base import Model
    from themis.scoring.base import Metric
    from themis.work import Item


@dataclass(frozen=True)
class Maps:
    """The maps of one call. Results come as they complete, an item's error in its place.

    Attributes:
        backend: Where they run.
        max_workers: Items in progress at once; None for the backend's own number.
        timeout: Seconds for one item.
    """

    backend: ExecutionBackend
    max_workers: int | None
    timeout: float

    def in_progress(self) -> int:
        """Items in progress at once."""
        if isinstance(self.backend, EngineBackend):
            return self.backend._limit(self.max_workers)  # noqa: SLF001 - the same package
        return self.max_workers or DEFAULT_MAX_WORKERS

    def map(self, func: Callable[[Any], Any], items: Iterable[Any], timeout: float | None) -> Iterator[Any]:
        """The results of a function."""
        options: dict[str, Any] = {"ordered": False, "return_exceptions": True}
        if self.max_workers is not None:
            options["max_workers"] = self.max_workers
        if isinstance(self.backend, EngineBackend) and timeout is not None:
            options["timeout"] = timeout
        accepted = inspect.signature(self.backend.map).parameters
        return self.backend.map(func, items, **{name: value for name, value in options.items() if name in accepted})

    def ask(self, model: Model, metrics: Sequence[Metric], items: Iterable[Item]) -> Iterator[Any]:
        """What a model answers, scored by these metrics: a Done for each item."""
        on_loop = self.backend.supports_async and not model.blocking
        work = (AsyncWork if on_loop else BlockingWork)(model, tuple(metrics))
        return self.map(work, items, None if model.bounds_time else self.timeout)


@contextmanager
def closing(iterator: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Closes the iterator at the end where it can be closed; a user's backend may return any iterable."""
    try:
        yield iterator
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
