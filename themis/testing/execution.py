"""The contract of ExecutionBackend as tests: subclass ExecutionBackendTests and give it a backend.

    class TestMyBackend(ExecutionBackendTests):
        def backend(self):
            return MyBackend()

Tests of what a backend does not claim to do (its flags) are skipped by name, never passed in silence. The functions
that are mapped stand at module level, so that backends which pickle by reference can be tested too.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from themis.errors import TaskError, TaskTimeoutError, WorkerCrashedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from themis.backends.execution import ExecutionBackend

CLOSE_SECONDS = 1.0


class CustomError(Exception):
    """An exception with a state of its own."""


class UnbuildableError(Exception):
    """An exception that pickles and cannot be rebuilt: it needs two arguments and remembers one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def double(x: int) -> int:
    """Twice the item."""
    return 2 * x


async def double_async(x: int) -> int:
    """Twice the item, after a turn of the event loop."""
    await asyncio.sleep(0.001)
    return 2 * x


def later_is_faster(x: int) -> int:
    """The item itself; small items take longer."""
    time.sleep(0.002 * max(0, 20 - x))
    return x


def fail_on_three(x: int) -> int:
    """The item itself; 3 raises."""
    if x == 3:
        raise CustomError("three")
    return x


def unbuildable(x: int) -> int:
    """Never anything but an exception that cannot travel."""
    raise UnbuildableError("one", f"two {x}")


def stop(x: int) -> int:
    """Never anything but StopIteration."""
    raise StopIteration(x)


def leave(x: int) -> int:
    """The item itself; 2 asks the interpreter to exit."""
    if x == 2:
        raise SystemExit(2)
    return x


def nap(x: float) -> float:
    """The item itself, after as many seconds."""
    time.sleep(x)
    return x


async def nap_async(x: float) -> float:
    """The item itself, after as many seconds on the event loop."""
    await asyncio.sleep(x)
    return x


def raise_timeout(x: int) -> int:
    """Never anything but a TimeoutError of its own."""
    raise TimeoutError(f"mine {x}")


def die_on_two(x: int) -> int:
    """The item itself; 2 ends the process at once."""
    if x == 2:
        os._exit(1)
    return x


class Marked:
    """An item that writes its number to a file when it is worked on, with the seconds that it takes."""

    def __init__(self, path: str, number: int, seconds: float = 0.0) -> None:
        self.path, self.number, self.seconds = path, number, seconds

    def begun(self) -> int:
        """The number, after having written it down."""
        with open(self.path, "a", encoding="utf-8") as file:  # noqa: PTH123 - one append, atomic between processes
            file.write(f"{self.number}\n")
        return self.number


def mark(item: Marked) -> int:
    """The item's number, written down when it began."""
    number = item.begun()
    time.sleep(item.seconds)
    return number


async def mark_async(item: Marked) -> int:
    """The same on the event loop; "cancelled" is written down when it is cancelled."""
    number = item.begun()
    try:
        await asyncio.sleep(item.seconds)
    except asyncio.CancelledError:
        with open(item.path, "a", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123 - a line in a test
            file.write("cancelled\n")
        raise
    return number


def lines(path: str) -> list[str]:
    """What was written down so far."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return file.read().split()
    except FileNotFoundError:
        return []


def settled(path: str, seconds: float = 5.0) -> list[str]:
    """What was written down, once nothing has been added for a third of a second."""
    until = time.monotonic() + seconds
    before = lines(path)
    while time.monotonic() < until:
        time.sleep(0.3)
        now = lines(path)
        if now == before:
            break
        before = now
    return before


class ExecutionBackendTests:
    """Subclass and override `backend`."""

    def backend(self) -> ExecutionBackend:
        """A backend ready for use; each test shuts its own down. Called once per test."""
        raise NotImplementedError("override backend()")

    @pytest.fixture(name="it")
    def _it(self) -> Iterator[ExecutionBackend]:
        backend = self.backend()
        yield backend
        backend.shutdown()

    def needs(self, backend: ExecutionBackend, flag: str) -> None:
        """Skip by name what the backend does not claim to do."""
        if not getattr(backend, flag):
            pytest.skip(f"{type(backend).__name__}.{flag} is False")

    def takes(self, backend: ExecutionBackend, option: str) -> None:
        """Skip by name where a user's map has not this option."""
        if option not in inspect.signature(backend.map).parameters:
            pytest.skip(f"{type(backend).__name__}.map has no {option!r}")

    # What is yielded

    def test_every_item_gives_its_result_once(self, it: ExecutionBackend) -> None:
        """Results are those of the function, one for each item."""
        assert sorted(it.map(double, range(100))) == [2 * x for x in range(100)]

    def test_no_items_give_no_results(self, it: ExecutionBackend) -> None:
        """An empty input ends at once."""
        assert list(it.map(double, [])) == []

    def test_default_order_is_input_order(self, it: ExecutionBackend) -> None:
        """Results come in input order unless the caller says otherwise."""
        assert list(it.map(later_is_faster, range(24), max_workers=8)) == list(range(24))

    def test_unordered_gives_the_same_set(self, it: ExecutionBackend) -> None:
        """Without order every result still comes exactly once."""
        self.takes(it, "ordered")
        assert sorted(it.map(later_is_faster, range(24), max_workers=8, ordered=False)) == list(range(24))

    def test_unordered_yields_what_is_done(self, it: ExecutionBackend) -> None:
        """Without order a slow first item holds nobody up."""
        self.takes(it, "ordered")
        self.needs(it, "concurrent")
        results = list(it.map(nap, [1.0, 0.0, 0.0, 0.0], max_workers=4, ordered=False))
        assert results == [0.0, 0.0, 0.0, 1.0]

    def test_items_run_at_the_same_time(self, it: ExecutionBackend) -> None:
        """A concurrent backend has max_workers items in progress at once."""
        self.needs(it, "concurrent")
        list(it.map(nap, [0.0], max_workers=20))  # workers may take a while to start
        began = time.monotonic()
        list(it.map(nap, [0.25] * 20, max_workers=20))
        assert time.monotonic() - began < 20 * 0.25 / 2

    def test_closures_and_lambdas_are_functions(self, it: ExecutionBackend) -> None:
        """A function need not stand at module level."""
        offset = 7
        assert sorted(it.map(lambda x: x + offset, range(5))) == [7, 8, 9, 10, 11]

    def test_none_is_a_result(self, it: ExecutionBackend) -> None:
        """A result of None is yielded like any other."""
        assert list(it.map(lambda x: None, range(3))) == [None, None, None]

    def test_large_and_odd_items_arrive_whole(self, it: ExecutionBackend) -> None:
        """Items and results of a megabyte, and with any text in them, are not changed."""
        items = ["x" * 1_000_000, "\0\ud800 \N{SNOWMAN}", ""]
        assert list(it.map(lambda x: x, items)) == items

    def test_two_maps_at_once(self, it: ExecutionBackend) -> None:
        """Two maps of one backend may be consumed in turns."""
        first, second = iter(it.map(double, range(10))), iter(it.map(double, range(10, 20)))
        pairs = list(zip(first, second, strict=True))
        assert pairs == [(2 * x, 2 * (x + 10)) for x in range(10)]

    def test_maps_from_several_threads(self, it: ExecutionBackend) -> None:
        """Several threads may map at once."""
        results: dict[int, list[int]] = {}

        def run(number: int) -> None:
            results[number] = list(it.map(double, range(number, number + 20)))

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {n: [2 * x for x in range(n, n + 20)] for n in range(4)}

    # Laziness

    def test_nothing_is_pulled_before_the_first_result_is_asked_for(self, it: ExecutionBackend) -> None:
        """Making the iterator pulls no item."""
        self.takes(it, "buffersize")
        pulled: list[int] = []
        it.map(double, self._watched(pulled))
        assert pulled == []

    @pytest.mark.parametrize("ordered", [True, False])
    def test_an_endless_input_is_pulled_within_the_window(self, it: ExecutionBackend, ordered: bool) -> None:
        """At most `buffersize` items are pulled and not yet taken."""
        self.takes(it, "buffersize")
        pulled: list[int] = []
        results = it.map(double, self._watched(pulled), max_workers=2, buffersize=8, ordered=ordered)
        for taken, _ in enumerate(itertools.islice(results, 50), 1):
            assert len(pulled) <= taken + 8
        self._close(results)

    @pytest.mark.parametrize("ordered", [True, False])
    def test_the_default_window_is_bounded(self, it: ExecutionBackend, ordered: bool) -> None:
        """Without a buffersize at most 16 items per worker are pulled and not yet taken."""
        self.takes(it, "buffersize")
        pulled: list[int] = []
        results = it.map(double, self._watched(pulled), max_workers=4, ordered=ordered)
        next(results)
        assert len(pulled) <= 1 + 16 * 4
        self._close(results)

    def test_a_slow_source_holds_up_no_result(self, it: ExecutionBackend) -> None:
        """A result is yielded before a slow source has filled the window."""
        self.takes(it, "buffersize")
        list(it.map(double, [0]))  # workers may take a while to start
        source = (time.sleep(0.1) or x for x in range(30))  # type: ignore[func-returns-value]
        began = time.monotonic()
        results = it.map(double, source, max_workers=4)
        next(results)
        assert time.monotonic() - began < 1.5
        self._close(results)

    def test_a_failing_source_loses_nothing(self, it: ExecutionBackend) -> None:
        """What was pulled before the source raised is yielded, then the source's exception is raised."""
        self.takes(it, "buffersize")

        def source() -> Iterator[int]:
            yield from range(3)
            raise CustomError("source")

        got = []
        with pytest.raises(CustomError, match="source"):
            for result in it.map(double, source()):
                got.append(result)  # noqa: PERF402 - kept also when the loop is left by the exception
        assert got == [0, 2, 4]

    # Exceptions

    def test_an_exception_keeps_its_type_and_ends_the_map(self, it: ExecutionBackend) -> None:
        """The function's exception is raised to the consumer as itself."""
        with pytest.raises(CustomError, match="three"):
            list(it.map(fail_on_three, range(6)))

    def test_an_exception_says_which_item_it_was(self, it: ExecutionBackend) -> None:
        """A surfaced exception carries `.index` and `.item`."""
        self.takes(it, "return_exceptions")
        with pytest.raises(CustomError) as caught:
            list(it.map(fail_on_three, [5, 4, 3]))
        assert (caught.value.index, caught.value.item) == (2, 3)  # type: ignore[attr-defined]

    def test_the_traceback_shows_where(self, it: ExecutionBackend) -> None:
        """The traceback text names the function that raised, wherever it ran."""
        import traceback

        with pytest.raises(CustomError) as caught:
            list(it.map(fail_on_three, [3]))
        assert "fail_on_three" in "".join(traceback.format_exception(caught.value))

    def test_return_exceptions_yields_them_in_place(self, it: ExecutionBackend) -> None:
        """With return_exceptions the exception stands where the result would, and the map goes on."""
        self.takes(it, "return_exceptions")
        results = list(it.map(fail_on_three, range(6), return_exceptions=True))
        assert [x for x in results if not isinstance(x, Exception)] == [0, 1, 2, 4, 5]
        assert isinstance(results[3], CustomError)
        assert (results[3].index, results[3].item) == (3, 3)  # type: ignore[attr-defined]

    def test_what_cannot_travel_arrives_as_task_error(self, it: ExecutionBackend) -> None:
        """An exception that cannot be pickled and rebuilt arrives as TaskError with name and traceback."""
        self.takes(it, "return_exceptions")
        (error,) = it.map(unbuildable, [1], return_exceptions=True)
        assert isinstance(error, TaskError)
        assert error.type_name == "UnbuildableError"
        assert "in unbuildable" in error.traceback_text

    def test_stop_iteration_does_not_end_the_loop(self, it: ExecutionBackend) -> None:
        """A function's StopIteration arrives as TaskError: it must not look like the end of the results."""
        self.takes(it, "return_exceptions")
        results = list(it.map(stop, range(3), return_exceptions=True))
        assert [type(x) for x in results] == [TaskError] * 3

    def test_an_exiting_item_is_an_error_of_that_item(self, it: ExecutionBackend) -> None:
        """SystemExit in an item ends neither worker nor driver."""
        self.takes(it, "return_exceptions")
        results = list(it.map(leave, range(4), return_exceptions=True))
        assert results[:2] + results[3:] == [0, 1, 3]
        assert isinstance(results[2], TaskError)
        assert results[2].type_name == "SystemExit"

    # Timeouts

    def test_a_timeout_hits_the_slow_item_alone(self, it: ExecutionBackend) -> None:
        """Only the item that takes too long times out; its neighbours keep their results."""
        self.takes(it, "timeout")
        self.takes(it, "return_exceptions")
        results = list(it.map(nap, [0.0, 3.0, 0.01], max_workers=2, timeout=0.7, return_exceptions=True))
        assert results[0::2] == [0.0, 0.01]
        assert isinstance(results[1], TaskTimeoutError)
        assert (results[1].index, results[1].item) == (1, 3.0)

    def test_a_timeout_frees_the_slot(self, it: ExecutionBackend) -> None:
        """With one worker, items after a hanging one still run."""
        self.takes(it, "timeout")
        self.takes(it, "return_exceptions")
        began = time.monotonic()
        results = list(it.map(nap, [5.0, 0.0, 0.0], max_workers=1, timeout=0.5, return_exceptions=True))
        assert results[1:] == [0.0, 0.0]
        assert time.monotonic() - began < 4.5

    def test_time_spent_waiting_for_a_slot_does_not_count(self, it: ExecutionBackend) -> None:
        """The clock of an item starts when it begins, not when it is handed over."""
        self.takes(it, "timeout")
        self.takes(it, "return_exceptions")
        assert list(it.map(nap, [0.3] * 6, max_workers=2, timeout=0.8)) == [0.3] * 6

    def test_a_timeout_of_the_function_stays_its_own(self, it: ExecutionBackend) -> None:
        """A TimeoutError that the function raises is not taken for the backend's."""
        self.takes(it, "timeout")
        self.takes(it, "return_exceptions")
        (error,) = it.map(raise_timeout, [1], timeout=5, return_exceptions=True)
        assert type(error) is TimeoutError

    # Coroutine functions

    def test_coroutine_functions_are_awaited(self, it: ExecutionBackend) -> None:
        """A coroutine function gives its results like a plain one."""
        self.needs(it, "supports_async")
        assert list(it.map(double_async, range(50), max_workers=10)) == [2 * x for x in range(50)]

    def test_coroutine_functions_inside_a_running_loop(self, it: ExecutionBackend) -> None:
        """A map works where an event loop is already running, as in a notebook."""
        self.needs(it, "supports_async")

        async def cell() -> list[int]:
            return list(it.map(double_async, range(5)))

        assert asyncio.run(cell()) == [0, 2, 4, 6, 8]

    def test_coroutines_run_at_the_same_time_within_the_limit(self, it: ExecutionBackend) -> None:
        """Coroutines share the time they wait."""
        self.needs(it, "supports_async")
        self.needs(it, "concurrent")
        list(it.map(nap_async, [0.0], max_workers=50))
        began = time.monotonic()
        list(it.map(nap_async, [0.2] * 50, max_workers=50))
        assert time.monotonic() - began < 50 * 0.2 / 3

    def test_a_coroutine_times_out(self, it: ExecutionBackend) -> None:
        """A coroutine that takes too long is cancelled and surfaces as TaskTimeoutError."""
        self.takes(it, "timeout")
        self.needs(it, "supports_async")
        results = list(it.map(nap_async, [0.0, 30.0, 0.0], timeout=0.5, return_exceptions=True))
        assert results[0::2] == [0.0, 0.0]
        assert isinstance(results[1], TaskTimeoutError)

    # Leaving

    def test_max_workers_bounds_what_is_in_progress(self, it: ExecutionBackend, tmp_path: Any) -> None:
        """No more than max_workers items have begun while none has ended."""
        self.takes(it, "buffersize")
        path = str(tmp_path / "begun")
        results = it.map(
            mark, [Marked(path, n, 0.0 if n == 0 else 20.0) for n in range(20)], max_workers=3, ordered=False
        )
        assert next(results) == 0
        begun = settled(path)
        self._close(results)
        assert len(begun) <= 1 + 3

    def test_closing_is_quick_and_begins_nothing_more(self, it: ExecutionBackend, tmp_path: Any) -> None:
        """Closing returns in under a second while items hang, and what has not begun never does."""
        self.takes(it, "buffersize")
        path = str(tmp_path / "begun")
        results = it.map(
            mark, [Marked(path, n, 0.0 if n == 0 else 1.5) for n in range(40)], max_workers=4, ordered=False
        )
        next(results)
        self._close(results)
        begun = len(settled(path))
        time.sleep(1.5)
        assert len(lines(path)) == begun < 40

    def test_closing_cancels_coroutines(self, it: ExecutionBackend, tmp_path: Any) -> None:
        """Coroutines in progress are cancelled when the iterator is closed."""
        self.needs(it, "supports_async")
        self.needs(it, "concurrent")
        path = str(tmp_path / "begun")
        items = [Marked(path, n, 0.0 if n == 0 else 60.0) for n in range(4)]
        results = it.map(mark_async, items, max_workers=4, ordered=False)
        next(results)
        settled(path)
        self._close(results)
        assert settled(path).count("cancelled") == 3

    def test_a_backend_is_usable_after_everything(self, it: ExecutionBackend) -> None:
        """After an error and a closed map the next map works."""
        with pytest.raises(CustomError):
            list(it.map(fail_on_three, range(6)))
        assert list(it.map(double, range(6))) == [0, 2, 4, 6, 8, 10]

    def test_shutdown_may_be_called_twice(self, it: ExecutionBackend) -> None:
        """shutdown() is idempotent, and the context manager calls it."""
        with it as same:
            assert same is it
        it.shutdown()

    # Deaths

    def test_a_deadly_item_harms_no_other(self, it: ExecutionBackend) -> None:
        """An item that ends its process surfaces as WorkerCrashedError; every other item has its result once."""
        self.needs(it, "isolates_crashes")
        results = list(it.map(die_on_two, range(8), max_workers=4, return_exceptions=True))
        assert isinstance(results[2], WorkerCrashedError)
        assert (results[2].index, results[2].item) == (2, 2)
        assert results[:2] + results[3:] == [0, 1, 3, 4, 5, 6, 7]

    # Wrong use

    def test_unknown_options_are_refused_by_name(self, it: ExecutionBackend) -> None:
        """A misspelt option is a TypeError that names the nearest, raised before anything runs."""
        self.takes(it, "buffersize")
        with pytest.raises(TypeError, match="max_workers"):
            it.map(double, [], max_worker=3)

    @pytest.mark.parametrize("options", [{"max_workers": 0}, {"buffersize": -1}, {"timeout": 0}])
    def test_impossible_numbers_are_refused(self, it: ExecutionBackend, options: dict[str, Any]) -> None:
        """Numbers below what is possible are a ValueError that names the option, raised before anything runs."""
        self.takes(it, "buffersize")
        with pytest.raises(ValueError, match=next(iter(options))):
            it.map(double, [], **options)

    @staticmethod
    def _watched(pulled: list[int]) -> Iterator[int]:
        for x in itertools.count():
            pulled.append(x)
            yield x

    @staticmethod
    def _close(results: Any) -> None:
        began = time.monotonic()
        results.close()
        assert time.monotonic() - began < CLOSE_SECONDS
