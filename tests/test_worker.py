"""What a crew on Ray knows of its workers: which items each has, how fast they go."""

from __future__ import annotations

import pytest

from themis.backends._chunk import Pace, Run
from themis.backends._worker import Tempo, Worker


def test_results_are_struck_off_their_leases():
    """A worker's loss names the leases that have items left, in the order of leasing, and no other."""
    worker = Worker(stream=None, way=None, size=2, up=True)
    worker.add(100, 110, 10)
    worker.add(0, 3, 3)
    worker.add(50, 60, 10)

    assert worker.note([Run(100, [None] * 4), Run(0, [None] * 3), Run(107, [None])]) == 8
    loss = worker.loss("gone", Tempo())

    assert worker.n_left == 15
    assert loss.leases == [range(100, 110), range(50, 60)]
    assert (loss.suspects, loss.begun) == (2, 15)


def test_what_a_worker_left_untouched_is_no_suspect():
    """Of the items of a worker that ended in order none has begun, whatever its share was."""
    worker = Worker(stream=None, way=None, size=4, up=True)
    worker.add(7, 12, 5)

    loss = worker.untouched()

    assert (loss.leases, loss.suspects, loss.begun) == ([range(7, 12)], 0, 0)


def test_a_smaller_share_holds_once_so_few_are_left():
    """A worker counts with its old share until no more items are left than its new one."""
    worker = Worker(stream=None, way=None, size=8)
    worker.add(0, 20, 20)
    worker.resize(2)

    assert (worker.in_progress(), worker.shrinks) == (8, True)

    worker.note([Run(0, [None] * 18)])

    assert (worker.in_progress(), worker.shrinks) == (2, False)


def test_tempo_follows_the_messages_of_late():
    """Items that got ten times slower are taken for slow after some messages."""
    tempo = Tempo()
    for _ in range(10):
        tempo.note(100, Pace(0.1, None), 5_000)

    assert tempo.seconds == pytest.approx(0.001)
    assert tempo.items_in(0.2, slots=16) == pytest.approx(3_200, rel=0.01)
    assert tempo.result_bytes == pytest.approx(50)

    for _ in range(20):
        tempo.note(100, Pace(1.0, None), 5_000)

    assert tempo.seconds == pytest.approx(0.01, rel=0.05)


def test_a_function_that_computes_has_no_more_in_progress_than_threads():
    """Of sixteen slots a function that computes on one thread uses one; before anything is known all may be used."""
    tempo = Tempo()

    assert (tempo.at_once(16), tempo.items_in(1.0, slots=16)) == (16, 0)

    tempo.note(4, Pace(8.0, 1), 100)

    assert (tempo.at_once(16), tempo.items_in(10.0, slots=16), tempo.waits) == (1, 5, False)
