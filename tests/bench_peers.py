"""The peers of `tests/bench_execution.py`: other ways to apply a function to many items, each as its users would.

Each is a context manager: it takes the function, starts its workers, gives `run(items) -> results`, and stops them.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Run: TypeAlias = "Callable[[Iterable[Any]], Iterable[Any]]"

WORKERS = 2
"""Processes of every peer that has processes: the CPUs of the Ray that the benchmark starts."""
IN_FLIGHT = 2 * WORKERS
"""Chunks of the hand-tuned peer: one for each worker to run, one to wait for it."""


@contextmanager
def plain_loop(func: Callable[[Any], Any]) -> Iterator[Run]:
    """One process, one thread, no library."""
    yield partial(map, func)


@contextmanager
def threads(func: Callable[[Any], Any], size: int) -> Iterator[Run]:
    """ThreadPoolExecutor.map: submits everything, results in order."""
    with ThreadPoolExecutor(size) as executor:
        yield partial(executor.map, func)


@contextmanager
def one_loop(func: Callable[[Any], Any], size: int) -> Iterator[Run]:
    """A coroutine function on one event loop of this process, `size` in progress, results at the end."""

    async def gather(items: Iterable[Any]) -> list[Any]:
        source, results = iter(items), []

        async def work() -> None:
            for item in source:
                results.append(await func(item))

        await asyncio.gather(*(work() for _ in range(size)))
        return results

    yield lambda items: asyncio.run(gather(items))


@contextmanager
def chunked_tasks(func: Callable[[Any], Any], chunk: int) -> Iterator[Run]:
    """Ray tasks written by hand for one purpose: the function sent once, few chunks in flight, results in order."""
    import ray

    sent = ray.put(func)
    task = ray.remote(_apply_to_all)

    def run(items: Iterable[Any]) -> Iterator[Any]:
        source = iter(items)
        running: deque[Any] = deque()
        while batch := list(islice(source, chunk)):
            running.append(task.remote(sent, batch))
            if len(running) == IN_FLIGHT:
                yield from ray.get(running.popleft())
        while running:
            yield from ray.get(running.popleft())

    yield run


def _apply_to_all(func: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    return [func(item) for item in items]


@contextmanager
def one_task_per_item(func: Callable[[Any], Any]) -> Iterator[Run]:
    """The seed's loop: all items submitted, results taken in the order of submission."""
    import ray

    @ray.remote
    def task(item: Any) -> Any:
        return func(item)

    def run(items: Iterable[Any]) -> Iterator[Any]:
        futures = [task.remote(item) for item in items]
        for future in futures:
            yield ray.get(future)

    yield run


class _Caller:
    """An actor that applies one function."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._func = func

    def call(self, item: Any) -> Any:
        return self._func(item)


class _AsyncCaller:
    """An actor that awaits one coroutine function, many times at once."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._func = func

    async def call(self, item: Any) -> Any:
        return await self._func(item)


@contextmanager
def _actors(kind: type, func: Callable[[Any], Any], **options: Any) -> Iterator[list[Any]]:
    import ray

    actors: list[Any] = [ray.remote(kind).options(**options).remote(func) for _ in range(WORKERS)]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


@contextmanager
def actor_pool(func: Callable[[Any], Any]) -> Iterator[Run]:
    """ray.util.ActorPool.map, one call for each item."""
    from ray.util import ActorPool

    with _actors(_Caller, func) as actors:
        yield lambda items: ActorPool(actors).map(lambda actor, item: actor.call.remote(item), items)


@contextmanager
def async_actors(func: Callable[[Any], Any], size: int) -> Iterator[Run]:
    """Async actors with `size` calls in progress over all of them, one call for each item."""
    import ray

    with _actors(_AsyncCaller, func, max_concurrency=size // WORKERS) as actors:

        def run(items: Iterable[Any]) -> Iterator[Any]:
            futures = [actors[number % WORKERS].call.remote(item) for number, item in enumerate(items)]
            for future in futures:
                yield ray.get(future)

        yield run


@contextmanager
def ray_pool(func: Callable[[Any], Any], chunk: int) -> Iterator[Run]:
    """ray.util.multiprocessing.Pool.imap_unordered."""
    from ray.util.multiprocessing import Pool

    with Pool(WORKERS) as pool:
        yield lambda items: pool.imap_unordered(func, items, chunksize=chunk)


@contextmanager
def ray_data(func: Callable[[Any], Any], batch: int) -> Iterator[Run]:
    """Ray Data: map_batches over a range, read batch by batch. Takes a range from 0 only."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False

    def apply(columns: dict[str, Any]) -> dict[str, Any]:
        return {"id": [func(item) for item in columns["id"].tolist()]}

    def run(items: Iterable[Any]) -> Iterator[Any]:
        table = ray.data.range(len(items)).map_batches(apply, batch_size=batch)  # type: ignore[arg-type]
        for columns in table.iter_batches(batch_size=batch):
            yield from columns["id"].tolist()

    logging.disable(logging.WARNING)  # it sets up its loggers anew for each dataset
    try:
        yield run
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def process_pool(func: Callable[[Any], Any], method: str, **options: Any) -> Iterator[Run]:
    """A method of multiprocessing.Pool."""
    # Spawned: a fork would copy Ray's locks, but not the threads that hold them.
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        while len(set(pool.map(_process, range(2 * WORKERS), 1))) < WORKERS:
            pass  # one of them is still starting
        yield partial(getattr(pool, method), func, **options)


def _process(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


@contextmanager
def loky(func: Callable[[Any], Any]) -> Iterator[Run]:
    """joblib.Parallel with its default backend, all results at the end."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    try:
        yield lambda items: joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(func)(item) for item in items)
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
