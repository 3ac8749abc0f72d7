"""The lease table: each item's result once, in order where that is asked for."""

from __future__ import annotations

import random

import pytest

from themis.backends._chunk import Chunk, Failed, Run
from themis.backends._table import Table


def leases(sizes):
    """Leases of these sizes, one after the other."""
    start = 0
    for size in sizes:
        yield Chunk(start, [f"item {start + n}" for n in range(size)])
        start += size


@pytest.mark.parametrize("ordered", [True, False])
def test_every_result_is_taken_once_whatever_the_order_of_arrival(ordered):
    """Runs that arrive in any order, some of them twice, give each result once; in order where that is asked for."""
    rng = random.Random(4)
    table = Table(ordered=ordered, keep_errors=True)
    runs = []
    for chunk in leases([5, 1, 17, 40, 3]):
        table.hand_out(chunk)
        at = chunk.start
        while at < chunk.stop:
            end = min(chunk.stop, at + rng.randint(1, 6))
            runs.append(Run(at, [10 * n for n in range(at, end)]))
            at = end
    rng.shuffle(runs)
    taken = []
    for number, run in enumerate(runs):
        table.finish(run)
        if number % 3 == 0:
            table.finish(run)
            taken += table.take()
    taken += table.take()

    assert (taken if ordered else sorted(taken)) == [10 * n for n in range(66)]
    assert table.n_done == 66


def test_ordered_results_wait_for_those_before_them():
    """Nothing is taken past the first item without a result."""
    table = Table(ordered=True, keep_errors=True)
    for chunk in leases([3, 3]):
        table.hand_out(chunk)
    table.finish(Run(3, ["d", "e", "f"]))
    table.finish(Run(1, ["b"]))

    assert table.take() == []

    table.finish(Run(0, ["a"]))

    assert table.take() == ["a", "b"]


def test_unfinished_items_come_back_in_runs():
    """Of a lost lease exactly the items without a result come back, with their positions."""
    table = Table(ordered=False, keep_errors=True)
    for chunk in leases([4, 6]):
        table.hand_out(chunk)
    table.finish(Run(5, [1, 2]))
    table.finish(Run(9, [3]))

    assert [(chunk.start, chunk.items) for chunk in table.unfinished(range(4, 10))] == [
        (4, ["item 4"]),
        (7, ["item 7", "item 8"]),
    ]


def test_errors_carry_position_and_item():
    """An error knows which item it is of, also when one object stands for several."""
    table = Table(ordered=True, keep_errors=True)
    for chunk in leases([3]):
        table.hand_out(chunk)
    error = ValueError("shared")
    table.finish(Run(0, ["fine", Failed(error), Failed(error)], failed=True))
    results = table.take()

    assert [(e.index, e.item) for e in results[1:]] == [(1, "item 1"), (2, "item 2")]
    assert table.n_failed == 2
