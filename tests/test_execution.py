"""The execution backends: the shipped ones and the seed page's through the contract suite, broken ones caught by it."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from themis.backends import (
    ExecutionBackend,
    LocalExecutionBackend,
    RayExecutionBackend,
    SequentialExecutionBackend,
)
from themis.backends._ray_crew import RayCrew
from themis.backends.ray import check_address, check_reachable
from themis.errors import ExecutionError, TaskTimeoutError, UsageError
from themis.testing import ExecutionBackendTests


class TestSequential(ExecutionBackendTests):
    """The contract on the caller's thread."""

    def backend(self):
        return SequentialExecutionBackend()


class TestLocal(ExecutionBackendTests):
    """The contract on threads."""

    def backend(self):
        return LocalExecutionBackend()


@pytest.mark.usefixtures("ray_session")
class TestRay(ExecutionBackendTests):
    """The contract on a Ray cluster."""

    def backend(self):
        return RayExecutionBackend()


class SeedLocal(ExecutionBackend):
    """The seed page's thread pool."""

    concurrent = True

    def map(self, func, items, max_workers=None, **kwargs):
        with ThreadPoolExecutor(max_workers=max_workers) as executor:
            futures = [executor.submit(func, item) for item in items]
            for future in as_completed(futures):
                yield future.result()

    def shutdown(self):
        pass


class SeedRay(ExecutionBackend):
    """The seed page's Ray loop: as many items at once as there are CPUs."""

    def map(self, func, items, **kwargs):
        import ray

        @ray.remote
        def remote_func(item):
            return func(item)

        futures = [remote_func.remote(item) for item in items]
        for future in futures:
            yield ray.get(future)


class SeedOrdered(SeedLocal):
    """The seed page's thread pool, results taken in the order of the input."""

    def map(self, func, items, max_workers=None, **kwargs):
        with ThreadPoolExecutor(max_workers=max_workers) as executor:
            yield from [future.result() for future in [executor.submit(func, item) for item in items]]


class TestSeedOrdered(ExecutionBackendTests):
    """A class written from the seed page passes what it has the options for."""

    def backend(self):
        return SeedOrdered()


@pytest.mark.usefixtures("ray_session")
class TestSeedRay(ExecutionBackendTests):
    """The seed page's Ray loop passes what it has the options for."""

    def backend(self):
        return SeedRay()


class Wrapped(LocalExecutionBackend):
    """A correct backend, to be broken in one place."""


class LosesLast(Wrapped):
    def map(self, func, items, max_workers=None, timeout=None, **options):
        results = list(super().map(func, items, max_workers, timeout, **options))
        yield from results[:-1]


class Doubles(Wrapped):
    def map(self, func, items, *args, **options):
        for number, result in enumerate(super().map(func, items, *args, **options)):
            yield result
            if number == 0:
                yield result


class Unordered(Wrapped):
    def map(self, func, items, max_workers=None, timeout=None, *, ordered=True, **options):
        return super().map(func, items, max_workers, timeout, ordered=False, **options)


class Eager(Wrapped):
    def map(self, func, items, max_workers=None, timeout=None, *, buffersize=None, **options):
        import itertools

        return super().map(func, list(itertools.islice(items, 5000)), max_workers, timeout, **options)


class Swallows(Wrapped):
    def map(self, func, items, max_workers=None, timeout=None, *, return_exceptions=False, **options):
        for result in super().map(func, items, max_workers, timeout, return_exceptions=True, **options):
            if return_exceptions or not isinstance(result, Exception):
                yield result


class Untimed(Wrapped):
    def map(self, func, items, max_workers=None, timeout=None, *, return_exceptions=False, **options):
        return super().map(func, items, max_workers, None, return_exceptions=return_exceptions, **options)


class OneAtATime(Wrapped):
    def map(self, func, items, max_workers=None, timeout=None, **options):
        return super().map(func, items, 1, timeout, **options)


@pytest.mark.parametrize(
    ("backend", "caught_by"),
    [
        (LosesLast(), "test_every_item_gives_its_result_once"),
        (Doubles(), "test_every_item_gives_its_result_once"),
        (Unordered(), "test_default_order_is_input_order"),
        (SeedLocal(), "test_default_order_is_input_order"),
        (Eager(), "test_an_endless_input_is_pulled_within_the_window"),
        (Swallows(), "test_an_exception_keeps_its_type_and_ends_the_map"),
        (Untimed(), "test_a_timeout_hits_the_slow_item_alone"),
        (OneAtATime(), "test_items_run_at_the_same_time"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ExecutionBackend) else "",
)
def test_the_suite_catches_a_broken_backend(backend, caught_by):
    """A backend that is broken in one way fails the test that is there for it."""
    method = getattr(ExecutionBackendTests(), caught_by)
    kwargs = {"ordered": True} if "ordered" in inspect.signature(method).parameters else {}

    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        method(backend, **kwargs)

    assert not isinstance(caught.value, pytest.skip.Exception)


def test_sequential_runs_on_the_callers_thread():
    """Without a timeout a plain function runs on the caller's thread, so a debugger stops in it."""
    here = threading.get_ident()

    assert list(SequentialExecutionBackend().map(lambda _: threading.get_ident(), range(2))) == [here, here]


def test_sequential_pulls_one_item_at_a_time():
    """Each item is pulled when its result is asked for."""
    pulled = []
    results = SequentialExecutionBackend().map(str, (pulled.append(x) or x for x in range(9)))

    next(results)

    assert pulled == [0]


def test_the_constructor_says_how_many_workers():
    """LocalExecutionBackend(max_workers=n) has n items in progress where the call does not say."""
    progress, peak, lock = 0, 0, threading.Lock()

    def work(x):
        nonlocal progress, peak
        with lock:
            progress += 1
            peak = max(peak, progress)
        time.sleep(0.02)
        with lock:
            progress -= 1

    list(LocalExecutionBackend(max_workers=3).map(work, range(20)))

    assert peak == 3


def test_one_exception_object_for_several_items_keeps_each_position():
    """An exception object that several items raise arrives once for each, with its own index."""
    shared = ValueError("shared")

    def fail(x):
        raise shared

    results = list(LocalExecutionBackend().map(fail, "abc", return_exceptions=True))

    assert [(error.index, error.item) for error in results] == [(0, "a"), (1, "b"), (2, "c")]


def test_what_has_ended_can_be_had_without_waiting():
    """finished() gives every result that has arrived and was not taken, each once, and waits for none."""
    hang = threading.Event()
    results = LocalExecutionBackend(max_workers=4).map(
        lambda x: hang.wait(60) if x == 3 else x, range(40), ordered=False
    )
    first = next(results)
    until = time.monotonic() + 10
    rest = []
    while len(rest) < 38 and time.monotonic() < until:
        rest += results.finished()
    results.close()
    hang.set()

    assert sorted([first, *rest]) == [x for x in range(40) if x != 3]


def test_progress_counts_what_happened():
    """A map knows how many items have ended, how many of them with an error, and how many are on their way."""
    results = LocalExecutionBackend(max_workers=2).map(lambda x: 1 // x, [1, 0, 1], return_exceptions=True)
    before = results.progress
    outcomes = list(results)
    after = results.progress

    assert (before.done, before.per_second) == (0, 0.0)
    assert len(outcomes) == 3
    assert (after.done, after.failed, after.out, after.waiting, after.again) == (3, 1, 0, 0, 0)


def test_an_abandoned_item_does_not_hold_up_interpreter_exit():
    """A thread that hangs after its timeout keeps no process alive."""
    script = """
        import time
        from themis.backends import LocalExecutionBackend
        print([type(r).__name__ for r in LocalExecutionBackend().map(
            lambda x: time.sleep(60), [1], timeout=0.2, return_exceptions=True)])
    """
    began = time.monotonic()

    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.strip() == "['TaskTimeoutError']"
    assert time.monotonic() - began < 10


def test_ray_runs_functions_of_files_that_workers_cannot_import(ray_session, tmp_path, monkeypatch):
    """A function of a module that the workers do not have travels by value, its own helpers and errors included."""
    (tmp_path / "deep_helper_of_mine.py").write_text("class Mine(Exception): pass\ndef add(x): return x + 1\n")
    (tmp_path / "module_of_mine.py").write_text(
        "import deep_helper_of_mine as d\ndef work(x):\n    if x == 2: raise d.Mine(x)\n    return d.add(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import deep_helper_of_mine
    import module_of_mine

    results = list(RayExecutionBackend().map(module_of_mine.work, range(3), return_exceptions=True))

    assert results[:2] == [1, 2]
    assert isinstance(results[2], deep_helper_of_mine.Mine)


def test_ray_uses_several_processes(ray_session):
    """Items of one map run in more than one worker process."""
    import os

    def pid(_):
        time.sleep(0.02)
        return os.getpid()

    pids = set(RayExecutionBackend().map(pid, range(200), max_workers=16))

    assert len(pids) >= 2
    assert os.getpid() not in pids


def test_ray_runs_the_neighbours_of_a_killed_worker_again(ray_session, tmp_path):
    """After SIGKILL of a worker every item has its result exactly once, and only unfinished items ran twice."""
    import os
    import signal

    flag = tmp_path / "killed"

    def work(x):
        time.sleep(0.01)
        if x == 50 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = list(RayExecutionBackend().map(work, range(300), max_workers=16, ordered=False))

    assert flag.exists()
    assert sorted(results) == list(range(300))


def test_ray_sends_short_items_many_at_a_time(ray_session, monkeypatch):
    """While a second worker is awaited the first gets 20,000 items that take no time in few messages."""
    sizes = []

    def submit(self, chunk, send=RayCrew.submit):
        sizes.append(len(chunk.items))
        send(self, chunk)

    monkeypatch.setattr(RayCrew, "submit", submit)
    # Two workers are asked for, and one has a place.
    hold = ray_session.remote(num_cpus=1.5)(lambda: time.sleep(60)).remote()
    try:
        results = list(RayExecutionBackend().map(str, range(20_000)))
    finally:
        ray_session.cancel(hold, force=True)

    assert results == [str(number) for number in range(20_000)]
    assert len(sizes) < 200


def test_ray_keeps_its_workers_from_one_map_to_the_next(ray_session):
    """The end of a map kills no process that is already at work for the next one."""
    import os

    pids = set()
    for _ in range(100):
        pids.update(RayExecutionBackend().map(lambda _: os.getpid(), range(10), max_workers=2))

    assert len(pids) <= 8


def test_ray_leaves_a_session_that_it_did_not_start(ray_session):
    """shutdown() does not end a Ray that was there before."""
    with RayExecutionBackend() as backend:
        list(backend.map(str, range(3)))

    assert ray_session.is_initialized()


def test_ray_pickles_and_starts_nothing_when_made():
    """Making and pickling a backend touches no cluster."""
    import pickle

    backend = pickle.loads(pickle.dumps(RayExecutionBackend(address="10.255.255.1:6379")))

    assert isinstance(backend, RayExecutionBackend)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": "a:1", "num_cpus": 2}, "give one"),
        ({"task_options": {"max_retries": 3}}, "belongs to the backend"),
    ],
)
def test_ray_options_that_contradict_are_refused(options, says):
    """Options that cannot hold together are refused when the backend is made."""
    with pytest.raises(UsageError, match=says):
        RayExecutionBackend(**options)


def test_ray_num_cpus_must_be_a_number():
    """num_cpus is a whole number from 1."""
    with pytest.raises(ValueError, match="num_cpus"):
        RayExecutionBackend(num_cpus=0)


@pytest.mark.parametrize(
    ("address", "says"),
    [("ray://127.0.0.1:10001", "ray job submit"), ("http://127.0.0.1:8265", "ray job submit")],
)
def test_ray_client_and_dashboard_addresses_point_to_jobs(address, says):
    """An address that is no cluster's head says which one to give."""
    with pytest.raises(UsageError, match=says):
        check_address(address)


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [("127.0.0.1:1", ExecutionError, "no Ray cluster answers"), ("garbage", UsageError, "HOST:PORT")],
)
def test_ray_says_at_once_that_no_cluster_answers(address, error, says):
    """An address that nobody answers at is an error within seconds, where Ray itself would try for minutes."""
    with pytest.raises(error, match=says):
        check_reachable(address)


def test_a_coroutine_that_passes_over_its_cancellation_has_timed_out():
    """A result that comes after the timeout is a TaskTimeoutError, not a success."""

    async def stubborn(x):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return x

    (error,) = LocalExecutionBackend().map(stubborn, [1], timeout=0.1, return_exceptions=True)

    assert isinstance(error, TaskTimeoutError)


def test_ray_refuses_a_second_session(ray_session):
    """A process that uses one Ray cannot use another, and the error names both."""
    with pytest.raises(UsageError, match="already uses the Ray at"):
        list(RayExecutionBackend(address="127.0.0.1:1").map(str, [1]))


def test_what_cannot_be_pickled_is_named(ray_session):
    """A function or an item that cannot travel is named, and items beside it keep their results."""
    lock = threading.Lock()

    with pytest.raises(UsageError, match=r"<lambda> cannot be sent"):
        list(RayExecutionBackend().map(lambda x: lock, [1]))
    results = list(RayExecutionBackend().map(str, [1, lock, 3], return_exceptions=True))

    assert results[0::2] == ["1", "3"]
    assert isinstance(results[1], UsageError)
    assert results[1].index == 1


def test_a_result_that_cannot_be_pickled_is_an_error_of_its_item(ray_session):
    """A result that cannot travel is that item's error alone."""
    results = list(
        RayExecutionBackend().map(lambda x: threading.Lock() if x == 1 else x, range(3), return_exceptions=True)
    )

    assert results[0::2] == [0, 2]
    assert "cannot be pickled" in str(results[1])


def test_an_exception_arrives_with_the_workers_traceback(ray_session):
    """The cause of an exception from a Ray worker shows the worker's traceback."""

    def inner(x):
        raise LookupError(x)

    with pytest.raises(LookupError) as caught:
        list(RayExecutionBackend().map(inner, [1]))

    assert "in inner" in str(caught.value.__cause__)


def test_a_map_that_ray_cannot_run_says_so(ray_session):
    """A wrong task option is reported with Ray's own words instead of hanging."""
    with pytest.raises((ExecutionError, ValueError), match="num_cpu"):
        list(RayExecutionBackend(task_options={"num_cpu": 1}).map(str, [1]))


def test_several_threads_may_send_functions_at_once(tmp_path, monkeypatch):
    """Functions of a module that workers cannot import travel by value, also when many threads pack them at once."""
    from themis.backends._wire import pack_function

    (tmp_path / "packed_by_many.py").write_text(
        "import time\nclass Slow:\n    def __reduce__(self):\n        time.sleep(0.003)\n        return Slow, ()\n"
        "slow = Slow()\ndef work(x):\n    return slow\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import packed_by_many

    with ThreadPoolExecutor(8) as executor:
        packed = list(executor.map(lambda _: pack_function(packed_by_many.work)[1], range(40)))

    assert len(set(packed)) == 1
    assert len(packed[0]) > 200  # a reference by name would be a tenth of that
