"""The one loop under every backend, with a crew that loses what it was given whenever chance says so."""

from __future__ import annotations

import random
import time
from collections import deque
from types import SimpleNamespace

import pytest

from themis.backends._chunk import Pace, Run
from themis.backends._crew import Crew, Loss, News
from themis.backends._engine import Results, Window
from themis.backends._ray_crew import RayCrew
from themis.backends._table import Table
from themis.backends._waiting import Waiting
from themis.backends._worker import Tempo, Worker


class LosingCrew(Crew):
    """Takes leases of any size, ends them in pieces, and loses some, with whatever it may say of them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._leases: list[tuple[range, dict[int, object], bool]] = []
        self._losses_left = 20

    def wants(self, waiting: int, *, alone: int = 0, apart: bool = False) -> int:
        if len(self._leases) > 4:
            return 0
        return alone or self._chance.randint(0 if self._leases else 1, waiting)

    def submit(self, chunk) -> None:
        items = dict(enumerate(chunk.items, chunk.start))
        self._leases.append((range(chunk.start, chunk.stop), items, chunk.alone))

    def wait(self, timeout: float | None) -> News:
        news = News()
        if not self._leases or (timeout == 0 and self._chance.random() < 0.5):
            return news
        lease, left, alone = self._leases[self._chance.randrange(len(self._leases))]
        self._end_some(left, news)
        if not left:
            self._leases.remove((lease, left, alone))
        elif self._losses_left and self._chance.random() < 0.5:
            self._leases.remove((lease, left, alone))
            self._lose(lease, len(left), news)
        return news

    def _end_some(self, left: dict[int, object], news: News) -> None:
        for number in self._chance.sample(sorted(left), self._chance.randint(0, len(left))):
            news.runs.append(Run(number, [left.pop(number)]))

    def _lose(self, lease: range, n_left: int, news: News) -> None:
        self._losses_left -= 1
        begun = self._chance.randint(0, n_left)
        # Alone, an item may end its worker twice at most here: it is not the item's fault.
        suspects = self._chance.randint(0, begun) if len(lease) > 1 else 0
        by_node, together = self._chance.random() < 0.3, self._chance.choice([1, 1, 7])
        news.losses.append(Loss([lease], suspects, begun, "chance", by_node=by_node, together=together))

    def close(self) -> None:
        self._leases.clear()


@pytest.mark.parametrize("ordered", [True, False])
def test_whatever_is_lost_every_item_ends_once(ordered):
    """Whatever a crew loses, and when, each item has exactly one result, in input order where that is asked."""
    for seed in range(300):
        chance = random.Random(seed)
        n_items, size = chance.choice([1, 12, 100, 2_000]), chance.choice([1, 8, 64, 1_000])
        window = Window(size, fixed=chance.random() < 0.5)
        results = Results(
            lambda chance=chance: LosingCrew(chance),
            range(n_items),
            window=window,
            ordered=ordered,
            return_exceptions=True,
        )

        found = list(results)

        assert (found if ordered else sorted(found)) == list(range(n_items)), f"seed {seed}"


class Listener(Crew):
    """Takes all that it is offered, and notes what has to be apart, and what alone."""

    def __init__(self) -> None:
        self.leases: list[tuple[bool, range]] = []
        self.alone: list[range] = []
        self._apart = False

    def wants(self, waiting: int, *, alone: int = 0, apart: bool = False) -> int:
        self._apart = apart
        return alone or min(waiting, 200)

    def submit(self, chunk) -> None:
        self.leases.append((self._apart, range(chunk.start, chunk.stop)))
        self.alone += [range(chunk.start, chunk.stop)] if chunk.alone else []

    def wait(self, timeout: float | None) -> News:
        return News()

    def close(self) -> None:
        self.leases.clear()


@pytest.mark.parametrize(("n_leases", "apart"), [(20, True), (1, False)])
def test_what_many_leases_lost_together_is_cut_and_runs_apart(n_leases, apart):
    """A deadly item may be in any lease of a dead worker: of many items each lease runs apart, however short it is."""
    waiting, crew = Waiting(Table(ordered=True, keep_errors=True)), Listener()
    waiting.add(range(200 * n_leases))
    waiting.lease(crew)
    given = [lease for _, lease in crew.leases]
    crew.leases.clear()

    waiting.recover(Loss(given, 0, 200 * n_leases, "chance"))
    waiting.lease(crew)

    assert [lease for _, lease in crew.leases] == given
    assert {each for each, _ in crew.leases} == {apart}

    crew.leases.clear()
    waiting.recover(Loss(given, 0, 0, "its worker had nothing to do, and left"))
    waiting.lease(crew)

    assert {each for each, _ in crew.leases} == {apart}


def test_suspects_run_again_in_groups_and_each_group_by_itself():
    """Of suspects that may share a process as many do; whoever was in a group that is lost again is one once more."""
    waiting, crew = Waiting(Table(ordered=True, keep_errors=True)), Listener()
    waiting.add(range(200))
    waiting.lease(crew)
    crew.leases.clear()

    waiting.recover(Loss([range(200)], 150, 200, "chance", together=40))
    waiting.lease(crew)

    groups = [lease for _, lease in crew.leases]
    assert groups == [range(40), range(40, 80), range(80, 120), range(120, 150), range(150, 200)]

    crew.leases.clear()
    waiting.recover(Loss([range(40)], 40, 40, "chance", together=1))
    waiting.lease(crew)

    assert [lease for _, lease in crew.leases] == [range(number, number + 1) for number in range(40)]


@pytest.mark.parametrize(
    ("seconds", "n_left", "together"), [(0.001, 30, 1), (0.1, 16, 2), (4.0, 1, 1), (4.0, 64, 8), (None, 64, 8)]
)
def test_suspects_share_processes_where_one_by_one_would_take_long(seconds, n_left, together):
    """Items of a millisecond run again one by one; those that take longer, or that nothing is known of, in groups."""
    tempo, worker = Tempo(), Worker(None, SimpleNamespace(ended=False), up=True, size=64, heard=time.monotonic())
    if seconds is not None:
        tempo.note(100, Pace(100 * seconds, None), 100)
    worker.add(0, n_left, n_left)

    loss = worker.loss("chance", tempo)

    assert (loss.suspects, loss.together) == (n_left, together)


def test_no_more_suspects_share_a_process_than_its_slots():
    """Of a worker with two slots that was not heard of for long many are suspects, and two of them go together."""
    tempo, worker = Tempo(), Worker(None, SimpleNamespace(ended=False), up=True, size=2, heard=time.monotonic() - 10)
    tempo.note(100, Pace(10.0, None), 100)
    worker.add(0, 30, 30)

    loss = worker.loss("chance", tempo)

    assert (loss.suspects, loss.together) == (30, 2)


def test_no_item_is_suspected_of_a_lost_node_before_the_third():
    """What is lost with its node runs again as before, in one lease; whoever is in it a third time runs by itself."""
    waiting, crew = Waiting(Table(ordered=True, keep_errors=True)), Listener()
    waiting.add(range(10))
    for expected in ([(False, range(10))], [(False, range(10))], [(False, range(10))]):
        waiting.lease(crew)
        assert crew.leases == expected
        crew.leases.clear()
        waiting.recover(Loss([range(10)], 10, 10, "its node is gone", by_node=True))

    waiting.lease(crew)

    assert [lease for _, lease in crew.leases] == [range(number, number + 1) for number in range(10)]


def test_a_suspect_whose_node_is_lost_is_one_still():
    """Items that run by themselves do so again after their node was lost."""
    waiting, crew = Waiting(Table(ordered=True, keep_errors=True)), Listener()
    waiting.add(range(10))
    waiting.lease(crew)
    waiting.recover(Loss([range(10)], 10, 10, "chance", together=5))
    waiting.lease(crew)

    waiting.recover(Loss([range(5)], 5, 5, "its node is gone", by_node=True))
    waiting.lease(crew)

    assert crew.alone == [range(5), range(5, 10), range(5)]


def test_idle_slots_do_not_wait_for_a_worker_that_takes_nothing():
    """While one worker has its last item apart, what waits goes to the other's idle slots, and is not kept for it."""
    crew = object.__new__(RayCrew)
    busy, last = (Worker(None, SimpleNamespace(ended=False), up=True) for _ in range(2))
    busy.add(0, 3, 3)
    last.add(3, 4, 1)
    last.apart = True
    crew._limit, crew._withheld, crew._plan, crew._shared = 16, 0, deque(), ([], 0)
    crew._cluster = SimpleNamespace(shape=SimpleNamespace(processes=2, tasks=4))
    crew._staff = SimpleNamespace(tempo=Tempo(), workers=[busy, last], away=0.0)

    assert (crew.wants(2), crew._target) == (2, busy)
