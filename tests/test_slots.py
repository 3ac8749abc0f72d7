"""Slots: how many threads a function gets, how short items travel together, what is given up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from themis.backends import executions
from themis.backends._chunk import Chunk, Failed
from themis.backends._slots import make_slots
from themis.errors import TaskTimeoutError


def results(slots, chunk, seconds=20.0):
    """Every result of a chunk by position, and the runs in which they came."""
    slots.put(chunk)
    found, runs = {}, []
    until = time.monotonic() + seconds
    while len(found) < len(chunk.items):
        assert time.monotonic() < until, f"{len(found)} of {len(chunk.items)} after {seconds} s"
        for run in slots.take(0.05):
            runs.append(run)
            for index, value in enumerate(run.values, run.start):
                assert index not in found
                found[index] = value
    slots.close()
    return [found[index] for index in sorted(found)], runs


def spin(seconds):
    """Keep a CPU busy."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return threading.get_ident()


def test_short_items_travel_in_runs():
    """100,000 short items cross in few runs, each result once and in its place."""
    values, runs = results(make_slots(lambda x: x + 1, 32, None), Chunk(7, list(range(100_000))))

    assert values == list(range(1, 100_001))
    assert len(runs) < 2_000


def test_a_function_that_waits_gets_every_thread():
    """40 naps in 40 slots take about as long as one."""
    slots = make_slots(lambda _: (time.sleep(0.3), threading.get_ident())[1], 40, None)
    began = time.monotonic()

    threads, _ = results(slots, Chunk(0, [None] * 40))

    assert len(set(threads)) == 40
    assert time.monotonic() - began < 40 * 0.3 / 4


def test_a_function_that_computes_gets_one_thread():
    """Items that keep the CPU busy run one after the other: more threads would only share it."""
    threads, _ = results(make_slots(spin, 16, None), Chunk(0, [0.02] * 30))

    assert len(set(threads)) == 1


def test_items_behind_a_slow_one_do_not_wait_for_it():
    """A short item is given to another thread when one of its piece turns out to be long."""
    slow = threading.Event()
    slots = make_slots(lambda x: slow.wait(10) if x == 5_000 else x, 8, None)
    slots.put(Chunk(0, list(range(10_000))))

    done = 0
    until = time.monotonic() + 5
    while done < 9_999 and time.monotonic() < until:
        done += sum(len(run.values) for run in slots.take(0.05))
    slow.set()

    assert done == 9_999


def test_one_hanging_item_among_short_ones_times_out_alone():
    """Of 2,000 short items and one that hangs exactly that one is given up, and the others have their results."""
    hang = threading.Event()
    slots = make_slots(lambda x: hang.wait(60) if x == 700 else x, 4, 0.4)

    values, _ = results(slots, Chunk(0, list(range(2_000))))
    hang.set()

    assert [value for value in values if type(value) is not Failed] == [x for x in range(2_000) if x != 700]
    assert isinstance(values[700].error, TaskTimeoutError)
    assert slots.abandoned() <= 1


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_fewer_slots_hold_as_soon_as_items_end(kind):
    """After resize() no more items are in progress than it says, once those that had begun have ended."""
    progress, peaks, lock = [0], [], threading.Lock()

    def begin():
        with lock:
            progress[0] += 1
            peaks.append(progress[0])

    def end():
        with lock:
            progress[0] -= 1

    def nap(_):
        begin()
        time.sleep(0.03)
        end()

    async def nap_async(_):
        begin()
        await asyncio.sleep(0.03)
        end()

    slots = make_slots(nap if kind == "thread" else nap_async, 8, None, waits=True)
    slots.put(Chunk(0, list(range(32))))
    while len(peaks) < 16:
        time.sleep(0.005)
    slots.resize(2)
    seen = len(peaks)
    left = 32
    while left:
        left -= sum(len(run.values) for run in slots.take(0.05))
    slots.close()

    assert max(peaks) == 8
    assert max(peaks[seen + 8 :]) <= 2


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_executions_can_be_read_inside_the_function(kind):
    """executions() says how often an item has begun; items that did not run again are not touched by one that did."""

    async def read_async(_):
        return executions()

    slots = make_slots(read_async if kind == "coroutine" else lambda _: executions(), 1, None)
    slots.put(Chunk(0, [None, None], execution=3))
    slots.put(Chunk(2, [None, None]))
    found = {}
    while len(found) < 4:
        for run in slots.take(0.05):
            found.update(enumerate(run.values, run.start))
    slots.close()

    assert found == {0: 3, 1: 3, 2: 1, 3: 1}


def test_a_coroutine_that_holds_up_the_loop_has_timed_out():
    """A coroutine that blocks past its timeout and then returns is a TaskTimeoutError, not a success."""

    async def blocks(_):
        time.sleep(0.4)
        return "late"

    values, _ = results(make_slots(blocks, 1, 0.2), Chunk(0, [None]))

    assert isinstance(values[0].error, TaskTimeoutError)


def test_a_coroutine_that_will_not_be_cancelled_frees_its_slot():
    """With one slot the next coroutine runs although the one before ignores its cancellation."""

    async def stubborn(x):
        until = time.monotonic() + x
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return x

    began = time.monotonic()
    values, _ = results(make_slots(stubborn, 1, 0.2), Chunk(0, [8.0, 0.0]))

    assert isinstance(values[0].error, TaskTimeoutError)
    assert values[1] == 0.0
    assert time.monotonic() - began < 6


def test_results_of_model_calls_are_handed_over_together():
    """What ends within a tenth of an item's time is taken together while items wait; a lone one is not held up."""

    async def call(seconds):
        await asyncio.sleep(seconds)

    slots = make_slots(call, 32, None)
    slots.put(Chunk(0, [0.05 + 0.0005 * (number % 32) for number in range(320)]))
    taken = []
    while sum(taken) < 320:
        taken.append(sum(len(run.values) for run in slots.take()))
    slots.put(Chunk(320, [0.2]))
    began = time.monotonic()
    slots.take()
    slots.close()

    assert len(taken) < 160, taken
    assert time.monotonic() - began < 0.3
