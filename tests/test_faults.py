"""The Ray engine when things die, hang or leave: exactly the expected results, and nothing left behind.

Workers are killed, items end or block their process, drivers go away in the middle of a map; what is checked is the
set of results, their order, what the items themselves wrote down while they ran, and the processes and resources
afterwards. tests/test_nodes.py does the same to whole nodes. The rounds marked `soak` repeat it at other moments.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from test_cluster import alive, descendants, wait_until

from themis import evaluate
from themis.backends import LocalExecutionBackend, RayExecutionBackend, executions
from themis.backends._feed import Door
from themis.backends._wire import pack_function
from themis.errors import ExecutionError, TaskError, TaskTimeoutError, UsageError, WorkerCrashedError
from themis.testing import ModelServer

NORMAL, SOAK = 2, 20
ROUNDS = [*range(NORMAL), *(pytest.param(number, marks=pytest.mark.soak) for number in range(NORMAL, NORMAL + SOAK))]
WORKERS = 16
LEAVE_SECONDS = 3.0
"""How long leaving a map may take; it should be one, and something else may have the CPUs."""
MAX_RUNS = 8
"""How often an item that ends its process may begin: in leases and groups an eighth of those before, thrice alone."""
EXIT_SECONDS = LEAVE_SECONDS + 3.0
"""The same for a whole program, which says goodbye to its cluster too."""
QUIET_SECONDS = 5.0
"""How long after leaving something of the map may still be seen running."""
FREE_SECONDS = 20.0
"""How long after that Ray may count it: what its nodes have free gets around at a pace of its own."""


# -- what items write down, who is killed, how long a test may take


class Diary:
    """What items wrote down while they ran, in any process: (item, process id, clock), in order of writing."""

    def __init__(self, path):
        self.path = str(path)

    def write(self, item):
        """One line; a single append is atomic between processes."""
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(f"{item} {os.getpid()} {time.monotonic()}\n")

    def lines(self):
        """Every line so far."""
        if not Path(self.path).exists():
            return []
        rows = [line.split() for line in Path(self.path).read_text(encoding="utf-8").splitlines()]
        return [(int(item), int(pid), float(clock)) for item, pid, clock in rows]

    def pids(self):
        """The processes that have begun an item."""
        return {pid for _, pid, _ in self.lines()}

    def count(self, item):
        """How many times an item has begun."""
        return sum(line[0] == item for line in self.lines())

    def begun_after(self, clocks):
        """The items that began after the moment that `clocks` has for them."""
        return sorted({item for item, _, clock in self.lines() if clock > clocks.get(item, float("inf"))})


@pytest.fixture
def diary(tmp_path):
    """An empty diary."""
    return Diary(tmp_path / "diary")


class Killer:
    """While it is entered, SIGKILL to a random one of some processes after random pauses, from a thread of its own."""

    def __init__(self, pids, seed, pause, at_most):
        self.killed = []
        self._pids = pids
        self._random = random.Random(seed)
        self._pause = pause
        self._at_most = at_most
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while len(self.killed) < self._at_most and not self._over.wait(self._random.uniform(*self._pause)):
            if victims := sorted(filter(alive, self._pids())):
                self.killed.append(self._random.choice(victims))
                os.kill(self.killed[-1], signal.SIGKILL)


def killer(pids, seconds, *seed):
    """A killer for a map that lasts about so many seconds; the seed decides when and whom it kills."""
    return Killer(pids, repr(seed), (0.1, 0.5) if seconds < 2 else (0.2, 1.2), at_most=1 if seconds < 2 else 3)


@contextmanager
def within(seconds):
    """Fail what takes longer, wherever it waits: a hang must not hold up the other tests."""
    rang = []

    def ring(*_):
        rang.append(True)
        raise KeyboardInterrupt  # of the exceptions of a signal handler Ray's own waits let only this one through

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except KeyboardInterrupt:
        if not rang:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not rang, f"not within {seconds} s"


def run(func, items, seconds=30, **options):
    """All outcomes of a map on Ray that ends within so many seconds."""
    with within(seconds):
        return list(RayExecutionBackend().map(func, items, return_exceptions=True, **options))


def failures(outcomes):
    """Position -> type of error, of those outcomes that are errors."""
    return {number: type(outcome) for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)}


def living_actors(ray):
    """The actors that the cluster knows and that are not dead."""
    return [actor for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]


def twice_and_executions(x):
    """Twice the item, and how often it may have begun."""
    return 2 * x, executions()


async def twice_and_executions_async(x):
    """The same on the event loop."""
    return 2 * x, executions()


# -- workers that are killed


def stay(diary, mean, x):
    """3x + 1 after a random time, another one each time that it runs."""
    diary.write(x)
    time.sleep(random.uniform(0, 2 * mean))
    return 3 * x + 1


async def stay_async(diary, mean, x):
    """The same on the event loop."""
    diary.write(x)
    await asyncio.sleep(random.uniform(0, 2 * mean))
    return 3 * x + 1


KILLS = [  # each kind once: a short map and a long one, one of them ordered
    *((stay, 1, 0), (stay_async, 4, 1)),
    *(
        pytest.param(func, seconds, number, marks=pytest.mark.soak)
        for func in (stay, stay_async)
        for seconds in (1, 4)
        for number in range(NORMAL, NORMAL + SOAK)
    ),
]


@pytest.mark.parametrize(("func", "seconds", "number"), KILLS)
def test_killed_workers_lose_and_double_nothing(ray_session, diary, func, seconds, number):
    """After SIGKILLs every result is there once, in order where asked for; no item runs again once it was taken."""
    ordered = number % 2 == 0
    mean = 0.016
    items = range(int(seconds * WORKERS / mean))
    results, clocks = [], {}

    with killer(diary.pids, seconds, func.__name__, seconds, number) as kills, within(60):
        options = {"max_workers": WORKERS, "ordered": ordered}
        for result in RayExecutionBackend().map(partial(func, diary, mean), items, **options):
            results.append(result)
            clocks[(result - 1) // 3] = time.monotonic()

    assert kills.killed
    assert (results if ordered else sorted(results)) == [3 * x + 1 for x in items]
    assert diary.begun_after(clocks) == []


def test_no_item_is_blamed_for_a_death_before_it_began(ray_session, diary):
    """With a kill every tenth of a second only an item that has begun three times may be given up, and no other."""
    items = range(800)

    with Killer(diary.pids, 0, pause=(0.01, 0.2), at_most=9) as kills:
        outcomes = run(partial(stay, diary, 0.016), items, seconds=60, max_workers=WORKERS)

    given_up = failures(outcomes)
    assert len(kills.killed) > 3
    assert [x for x in given_up if diary.count(x) < 3] == []
    assert set(given_up.values()) <= {WorkerCrashedError}
    assert [outcomes[x] for x in items if x not in given_up] == [3 * x + 1 for x in items if x not in given_up]


@pytest.mark.parametrize("number", ROUNDS)
def test_killed_workers_cost_no_record(ray_session, tmp_path, number):
    """evaluate() whose workers are killed stores each generation once, asks again only what was in flight."""
    seconds = 4 if number % 2 else 1
    latency = random.Random(number).uniform(0.02, 0.05)
    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(int(seconds * WORKERS / latency))]
    pids = []

    def ask(place, **options):
        return evaluate(rows, "openai/m", base_url=server.base_url, storage=tmp_path / place, **options)

    with ModelServer(lambda prompt: prompt.removeprefix("q")) as server:
        expected = ask("local", execution_backend=LocalExecutionBackend())
        server.latency, asked_before = latency, len(server.requests)
        with killer(lambda: set(pids), seconds, "evaluate", seconds, number) as kills, within(90):
            result = ask(
                "ray",
                execution_backend=RayExecutionBackend(),
                max_workers=WORKERS,
                on_result=lambda update: pids.append(int(update.generation.worker.rpartition(":")[2])),
            )
        n_asked = len(server.requests) - asked_before

    assert kills.killed
    assert result.report.status == "complete"
    assert result.report.metrics == expected.report.metrics
    ids = stored_ids(tmp_path / "ray" / result.run_id)
    assert len(ids) == len(rows)
    assert sorted(ids) == sorted(record.id for record in expected.generations)
    assert len(rows) <= n_asked <= len(rows) + len(kills.killed) * 2 * WORKERS


def test_the_number_of_executions_reaches_the_record(ray_session, tmp_path):
    """The answer to a question during which a worker died says that it was attempted twice."""
    flag = tmp_path / "died"

    def model(prompt):
        if prompt == "q3" and not flag.exists():
            flag.touch()
            leave("kill")
        return prompt.removeprefix("q")

    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(6)]
    result = evaluate(
        rows, model, storage=tmp_path / "runs", execution_backend=RayExecutionBackend(), max_workers=1, run_id="r"
    )

    attempts = {g.prompt: g.attempts for g in result.generations}
    assert attempts["q3"] == 2
    assert attempts["q0"] == 1
    assert max(attempts.values()) == 2
    assert result.report.status == "complete"


def stored_ids(folder):
    """The id of every row of every stored part, as often as it is there."""
    from pyarrow import dataset

    return dataset.dataset(sorted((folder / "generations").glob("*.parquet"))).to_table(["id"])["id"].to_pylist()


# -- who goes on after a death


def die_once(flag):
    """End this process, unless some process has done so before."""
    if not flag.exists():
        flag.touch()
        leave("kill")


async def half_a_second(diary, fatal, flag, x):
    """The item after half a second; the fatal one ends its process, the first time."""
    diary.write(x)
    if x == fatal:
        die_once(flag)
    await asyncio.sleep(0.5)
    return x


def test_after_a_death_the_others_go_on(ray_session, diary, tmp_path):
    """While what a dead worker had in progress runs again by itself, the process that is left goes on with the rest."""
    func = partial(half_a_second, diary, 40, tmp_path / "died")
    results = RayExecutionBackend().map(func, range(100_000), max_workers=WORKERS, ordered=False)
    clocks = {}

    with within(60):
        while len(clocks) < 400:
            clocks[next(results)] = time.monotonic()
    results.close()

    again = sorted(x for x in clocks if diary.count(x) > 1)
    first, last = min(clocks[x] for x in again), max(clocks[x] for x in again)
    others = sum(first < clock < last for x, clock in clocks.items() if x not in again)
    assert 40 in again
    assert 2 <= len(again) <= WORKERS
    # The process that is left has half the slots until another is up, less what two with three suspects each take.
    assert others > 0.25 * (WORKERS - 2) * (last - first) / 0.5


def test_a_worker_in_place_of_a_dead_one_gets_its_share(ray_session, diary):
    """Soon after a worker was killed, two are at work again, each on no less than a third of the items."""
    results = RayExecutionBackend().map(partial(stay_async, diary, 0.05), range(100_000), max_workers=64, ordered=False)

    with within(60):
        taken = [next(results) for _ in range(1_000)]
        os.kill(min(filter(alive, diary.pids())), signal.SIGKILL)
        time.sleep(1)  # what it had begun is out of sight
        while len(share := shares(diary, time.monotonic() - 1)) != 2 or min(share) <= 1 / 3:
            taken += [next(results) for _ in range(200)]
    results.close()

    assert len(set(taken)) == len(taken)


def shares(diary, since):
    """The part of each process of the items that have begun since then."""
    late = [pid for _, pid, clock in diary.lines() if clock > since]
    return [late.count(pid) / len(late) for pid in set(late)]


def counted_stay(diary, mean, x):
    """The item, and how often it may have begun; after a random time."""
    diary.write(x)
    time.sleep(random.uniform(0, 2 * mean))
    return x, executions()


def test_executions_are_never_too_low(ray_session, diary):
    """What has begun twice says so, also where its worker died, unheard, while the consumer was away."""
    results = RayExecutionBackend().map(partial(counted_stay, diary, 0.02), range(400), max_workers=4)

    with within(60):
        said = dict(next(results) for _ in range(60))
        time.sleep(0.1)
        for pid in filter(alive, diary.pids()):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        said |= dict(results)

    begun = {x: diary.count(x) for x in said}
    assert said.keys() == set(range(400))
    assert max(begun.values()) > 1
    assert [x for x in said if said[x] < begun[x]] == []


# -- sources and consumers that take their time


@pytest.mark.parametrize(
    "func", [twice_and_executions, pytest.param(twice_and_executions_async, marks=pytest.mark.soak)]
)
def test_a_slow_source_is_served_as_it_comes(ray_session, func):
    """With an item every 0.4 s results come as their items do, not when the window is full or the source ends."""
    pulled, behind = [], []

    def source():
        for x in range(8):
            pulled.append(x)
            yield x
            time.sleep(0.4)

    with within(30):
        for result in RayExecutionBackend().map(func, source(), max_workers=4):
            behind.append(len(pulled) - len(behind))
            assert result == (2 * (len(behind) - 1), 1)

    assert len(behind) == 8
    assert max(behind) <= 4


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(
    ("hosts", "timeout"),
    [
        ("tasks", 0.5),
        ("actors", None),
        pytest.param("tasks", None, marks=pytest.mark.soak),
        pytest.param("actors", 0.5, marks=pytest.mark.soak),
    ],
)
def test_a_consumer_that_pauses_makes_no_item_run_again(ray_session, monkeypatch, hosts, timeout):
    """Workers that leave while the consumer is away, also past an item that hangs, lose nothing that has begun."""
    monkeypatch.setattr("themis.backends._staff.ACTOR_IDLE_SECONDS", 0.2)
    if hosts == "actors":
        monkeypatch.setenv("RAY_USE_TLS", "1")

    def work(x):
        if x == 2 and timeout is not None:
            time.sleep(30)
        return executions()

    options = {"max_workers": 1, "buffersize": 1, "timeout": timeout, "return_exceptions": True}
    said = []
    with within(60):
        for outcome in RayExecutionBackend().map(work, range(8), **options):
            said.append(outcome)
            time.sleep(random.uniform(0.15, 0.45))

    assert failures(said) == ({} if timeout is None else {2: TaskTimeoutError})
    assert [outcome for outcome in said if outcome != 1] == [said[2]] * (timeout is not None)


# -- workers that cannot connect to the driver


def hinder(monkeypatch, how):
    """Let workers that try to connect reach nobody, or allow no connections of our own at all."""
    if how == "forbidden":
        monkeypatch.setenv("RAY_USE_TLS", "1")  # read by the backend; the session that runs is as it was
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    lane = Door.lane
    monkeypatch.setattr(Door, "lane", lambda door: (lane(door)[0]._replace(port=port), lane(door)[1]))


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(
    ("how", "func"),
    [
        ("unreachable", stay),
        ("forbidden", stay_async),
        pytest.param("forbidden", stay, marks=pytest.mark.soak),
        pytest.param("unreachable", stay_async, marks=pytest.mark.soak),
    ],
)
def test_without_connections_nothing_is_lost_either(ray_session, monkeypatch, diary, how, func):
    """Where workers cannot connect to the driver a map goes on in actors: exact and in order, also after a kill."""
    hinder(monkeypatch, how)
    items = range(600)

    with killer(diary.pids, 1, "actors", func.__name__) as kills, within(60):
        results = list(RayExecutionBackend().map(partial(func, diary, 0.03), items, max_workers=WORKERS))

    assert kills.killed
    assert results == [3 * x + 1 for x in items]


# -- items that end their process


def leave(how):
    """End this process, without a chance for anything in it."""
    if how == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal is on its way


def deadly(diary, poison, how, x):
    """3x + 1; the poisoned items end their process."""
    if x in poison:
        diary.write(x)
        leave(how)
    time.sleep(random.uniform(0, 0.01))
    return 3 * x + 1


async def deadly_async(diary, poison, how, x):
    """The same on the event loop."""
    if x in poison:
        diary.write(x)
        leave(how)
    await asyncio.sleep(random.uniform(0, 0.01))
    return 3 * x + 1


def deadly_at_once(diary, poison, x):
    """3x + 1 in no time; the poisoned items end their process."""
    if x in poison:
        diary.write(x)
        leave("exit")
    return 3 * x + 1


def check_poison(diary, outcomes, poison):
    """Exactly the poisoned items surface, located, each after three deaths of its own; the others have results."""
    assert failures(outcomes) == dict.fromkeys(poison, WorkerCrashedError)
    for x in poison:
        assert (outcomes[x].index, outcomes[x].item) == (x, x)
        assert 3 <= diary.count(x) <= MAX_RUNS
    assert all(outcome == 3 * x + 1 for x, outcome in enumerate(outcomes) if x not in poison)


@pytest.mark.parametrize(
    ("func", "how", "poison", "count"),
    [(deadly, "exit", 150, 300), (deadly_async, "kill", 150, 300), (deadly, "kill", 7_000, 8_000)],
)
def test_a_poison_item_surfaces_alone(ray_session, diary, func, how, poison, count):
    """An item that ends its process, early or late, surfaces after three runs by itself, and no neighbour does."""
    outcomes = run(partial(func, diary, {poison}, how), range(count), max_workers=WORKERS)

    check_poison(diary, outcomes, {poison})


def test_three_poison_items_at_once(ray_session, diary):
    """Three items that end their process beside each other surface, and no other item."""
    outcomes = run(partial(deadly, diary, {40, 41, 47}, "kill"), range(120), max_workers=WORKERS)

    check_poison(diary, outcomes, {40, 41, 47})


def test_a_poison_item_among_many_trivial_ones(ray_session, diary):
    """Among 20,000 items that take no time the deadly one is found after as few deaths, and alone, as among a few."""
    outcomes = run(partial(deadly_at_once, diary, {13_000}), range(20_000), seconds=60)

    check_poison(diary, outcomes, {13_000})


async def deadly_among_many(diary, poison, x):
    """3x + 1 after a second; the poisoned items end their process when many others are in progress there."""
    diary.write(x)
    if x in poison:
        await asyncio.sleep(0.2)
        leave("kill")
    await asyncio.sleep(1)
    return 3 * x + 1


def test_a_poison_item_among_many_in_progress(ray_session, diary):
    """Of 64 that were in progress in its process the deadly one surfaces, and no other begins more than four times."""
    outcomes = run(partial(deadly_among_many, diary, {150}), range(300), seconds=60, max_workers=128)

    check_poison(diary, outcomes, {150})
    assert max(diary.count(x) for x in range(300) if x != 150) <= 4


def test_a_poison_item_ends_the_map_where_exceptions_do(ray_session, diary):
    """An only item that ends its process runs three times, no more, and its error is raised."""
    with within(20), pytest.raises(WorkerCrashedError) as caught:
        list(RayExecutionBackend().map(partial(deadly, diary, {7}, "kill"), [7]))

    assert (caught.value.index, caught.value.item) == (0, 7)
    assert diary.count(7) == 3


# -- items that hang


def hang(how):
    """Never return; only "sleep" leaves the interpreter to other threads."""
    if how == "sleep":
        time.sleep(600)
    elif how == "call":
        ctypes.PyDLL(None).sleep(600)  # a PyDLL keeps the lock of the interpreter
    else:
        re.match(r"(a+)+$", "a" * 40 + "b")  # tries every way to cut 40 letters
    raise AssertionError("it should have hung")


def hanging(diary, stuck, how, x):
    """3x + 1 after 0.2 s; some items never end."""
    if x in stuck:
        diary.write(x)
        hang(how)
    time.sleep(0.2)
    return 3 * x + 1


async def hanging_async(diary, stuck, how, x):
    """The same on the event loop, which an item that hangs holds up."""
    if x in stuck:
        diary.write(x)
        hang(how)
    await asyncio.sleep(0.2)
    return 3 * x + 1


@pytest.fixture
def diary_of_hanging(diary):
    """A diary of items that hang; a process that still does when the test ends is killed."""
    yield diary
    for pid in filter(alive, diary.pids()):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("func", "how", "first"),
    [
        (hanging, "sleep", 3),
        (hanging, "call", 20),
        pytest.param(hanging_async, "sleep", 3, marks=pytest.mark.soak),
        pytest.param(hanging, "regex", 3, marks=pytest.mark.soak),
    ],
)
def test_an_item_that_hangs_times_out_alone_and_its_process_ends(ray_session, diary_of_hanging, func, how, first):
    """Hanging items, as many as there are slots, time out; all others have results, and no process hangs on."""
    stuck, items = {first, first + 1}, range(first + 9)

    outcomes = run(partial(func, diary_of_hanging, stuck, how), items, max_workers=2, timeout=1)

    assert failures(outcomes) == dict.fromkeys(stuck, TaskTimeoutError)
    assert [(outcomes[x].index, outcomes[x].item) for x in stuck] == [(x, x) for x in stuck]
    assert [outcomes[x] for x in items if x not in stuck] == [3 * x + 1 for x in items if x not in stuck]
    pids = diary_of_hanging.pids()
    wait_until(lambda: not any(map(alive, pids)), "the end of the processes that hung", QUIET_SECONDS)


def slow(long, x):
    """The item after a moment; a few take a minute."""
    time.sleep(60 if x in long else 0.03)
    return x


async def slow_async(long, x):
    """The same on the event loop."""
    await asyncio.sleep(60 if x in long else 0.03)
    return x


@pytest.mark.parametrize("func", [slow, slow_async])
def test_items_that_take_long_hold_up_no_other(ray_session, func):
    """While two of four slots have an item that takes a minute, the other two work on."""
    with within(15):
        results = RayExecutionBackend().map(partial(func, {0, 7}), range(10_000), max_workers=4, ordered=False)
        taken = [next(results) for _ in range(150)]
        results.close()

    assert len(set(taken)) == 150
    assert {0, 7}.isdisjoint(taken)


# -- leaving


def beats(x):
    """How often an item writes, 20 times a second: one in 20 for half a minute, the others for a quarter second."""
    return 600 if x % 20 == 0 else 5


def beat(diary, x):
    """The item, which has written a line for each beat."""
    for _ in range(beats(x)):
        diary.write(x)
        time.sleep(0.05)
    return x


async def beat_async(diary, x):
    """The same on the event loop."""
    for _ in range(beats(x)):
        diary.write(x)
        await asyncio.sleep(0.05)
    return x


def by_break(results, enough):
    """Leave the loop over a map; how long that took."""
    for _ in results():
        if enough():
            began = time.monotonic()
            break
    return time.monotonic() - began


def by_exception(results, enough):
    """The same by an exception in the loop's body."""
    with pytest.raises(LookupError):  # noqa: PT012 - the loop is what is tested
        for _ in results():
            if enough():
                began = time.monotonic()
                raise LookupError
    return time.monotonic() - began


def by_close(results, enough):
    """The same by close()."""
    iterator = results()
    while not enough():
        next(iterator)
    began = time.monotonic()
    iterator.close()
    return time.monotonic() - began


@pytest.fixture
def as_it_was(ray_session):
    """When the test is over, the cluster has the free resources and the actors that it had before."""
    cpus = ray_session.cluster_resources()["CPU"]
    wait_until(lambda: ray_session.available_resources().get("CPU") == cpus, "an idle cluster", 10)
    actors, free = living_actors(ray_session), ray_session.available_resources()

    def all_back():
        now = ray_session.available_resources()
        return all(now.get(name, 0) >= amount for name, amount in free.items())

    yield
    gc.collect()  # a caught error holds the map that raised it until then
    wait_until(all_back, f"{free} free again", FREE_SECONDS)
    assert living_actors(ray_session) == actors


def wait_until_quiet(diary):
    """Return when no item writes any more."""

    def quiet():
        before = len(diary.lines())
        time.sleep(0.5)
        return len(diary.lines()) == before

    wait_until(quiet, "the end of what the map was running", QUIET_SECONDS)


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(
    ("func", "leave_loop", "after"),
    [(beat, by_break, 0.0), (beat_async, by_break, 2.5), (beat, by_exception, 2.5), (beat_async, by_close, 0.0)],
)
def test_leaving_a_map_leaves_nothing_running(ray_session, diary, func, leave_loop, after):
    """Leaving, early or late, is quick; what was running stops, nothing more begins, and Ray is as it was."""

    def results():
        return RayExecutionBackend().map(partial(func, diary), range(10_000), max_workers=8, ordered=False)

    def enough():
        lines = diary.lines()
        return len(lines) > 20 and time.monotonic() - lines[0][2] > after

    with within(30):
        seconds = leave_loop(results, enough)

    assert seconds < LEAVE_SECONDS
    wait_until_quiet(diary)


DRIVER = """
import asyncio, os, signal, sys, time
from themis.backends import RayExecutionBackend

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
address, path, kind, way, seconds = sys.argv[1:]

def write(x):
    with open(path, "a") as file:
        file.write(f"{x} {os.getpid()} {time.monotonic()}\\n")

def beats(x):
    return 600 if x % 20 == 0 else 5

def beat(x):
    for _ in range(beats(x)):
        write(x)
        time.sleep(0.05)

async def beat_async(x):
    for _ in range(beats(x)):
        write(x)
        await asyncio.sleep(0.05)

backend = RayExecutionBackend(address) if address else RayExecutionBackend(num_cpus=2)
results = backend.map(beat_async if kind == "coroutine" else beat, range(10_000), max_workers=8, ordered=False)
next(results)
until = time.monotonic() + float(seconds)
while time.monotonic() < until:
    next(results)
print("begun", flush=True)
if way == "raise":
    raise LookupError
if way != "end":
    try:
        list(results)
    except KeyboardInterrupt:
        print("left", flush=True)
        raise
"""
"""A program that maps on Ray and is left, or leaves, in the middle."""


@contextmanager
def driver(address, diary, kind, way, seconds=0.0):
    """The program, so many seconds after its first result, in a session of its own like one in a terminal."""
    command = [sys.executable, "-c", DRIVER, address, diary.path, kind, way, str(seconds)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    program = subprocess.Popen(command, start_new_session=True, **pipes)
    try:
        with within(30):
            assert program.stdout.readline() == "begun\n"
        yield program
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(
    ("kind", "way"),
    [("plain", "end"), ("coroutine", "raise"), ("plain", "SIGINT"), ("coroutine", "SIGKILL")],
)
def test_a_driver_that_goes_leaves_nothing_running(ray_session, diary, kind, way):
    """A program that ends, fails, is interrupted or killed in a map is gone at once, and so is what it had running."""
    address = ray_session.get_runtime_context().gcs_address

    with driver(address, diary, kind, way, 2.5 if way == "SIGINT" else 0.0) as program:
        began = time.monotonic()
        if way.startswith("SIG"):
            os.kill(program.pid, getattr(signal, way))
        program.wait(30)
        seconds = time.monotonic() - began

    assert seconds < EXIT_SECONDS
    wait_until_quiet(diary)


@pytest.mark.parametrize(
    ("kind", "way"), [("plain", "interrupt"), pytest.param("coroutine", "end", marks=pytest.mark.soak)]
)
def test_a_driver_takes_its_own_ray_along(diary, kind, way):
    """Ctrl-C is a KeyboardInterrupt within a moment; the Ray that a program started leaves no process at its end."""
    with driver("", diary, kind, way) as program:
        started = {*descendants(program.pid)}
        if way == "interrupt":
            began = time.monotonic()
            os.killpg(program.pid, signal.SIGINT)  # as a terminal does: every process of the group gets it
            with within(30):
                assert program.stdout.readline() == "left\n"
            assert time.monotonic() - began < LEAVE_SECONDS
        started |= {*descendants(program.pid)}
        program.wait(30)

    assert diary.pids() <= started
    wait_until(lambda: not any(map(alive, started)), "the end of Ray's processes", 10)
    wait_until_quiet(diary)


# -- a million items


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 9))])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_million_items(ray_session, ordered, number):
    """Of 10^6 items each gives its own result once, in input order where asked for."""
    count = 1_000_000
    seen = bytearray(count)
    in_order = True

    with within(200):
        for place, result in enumerate(RayExecutionBackend().map(lambda x: 3 * x + 1, range(count), ordered=ordered)):
            x, rest = divmod(result, 3)
            assert rest == 1
            seen[x] += 1
            in_order = in_order and x == place

    assert seen == bytes([1]) * count
    assert in_order or not ordered


# -- several maps


def napping(x):
    """Twice the item, after 5 ms."""
    time.sleep(0.005)
    return 2 * x


async def napping_async(x):
    """The same on the event loop."""
    await asyncio.sleep(0.005)
    return 2 * x


@pytest.mark.usefixtures("as_it_was")
def test_many_maps_taken_in_turns(ray_session):
    """Six maps that last, on two CPUs, of which each waits for the others' results: none holds what another needs."""
    funcs = [napping, napping_async] * 3

    with within(60):
        maps = [RayExecutionBackend().map(func, range(600), max_workers=4) for func in funcs]
        rows = list(zip(*maps, strict=True))

    assert rows == [(2 * x,) * 6 for x in range(600)]


def test_maps_begun_on_several_threads_send_whole_functions():
    """What a function needs of the user's own modules travels by value whatever other threads pickle meanwhile."""
    func, packed, errors = partial(stay, None, 0.0), [], []

    def pack():
        try:
            packed.extend(pack_function(func)[1] for _ in range(100))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=pack, daemon=True) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads get in each other's way at once, not once a day
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(interval)

    assert errors == []
    assert len(packed) == 800
    assert len({len(data) for data in packed}) == 1


# -- where it runs


def twice(x):
    """Twice the item."""
    return 2 * x


async def twice_async(x):
    """Twice the item, after a turn of the event loop."""
    await asyncio.sleep(0.001)
    return 2 * x


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("place", ["task", "actor"])
def test_a_map_inside_of_ray(ray_session, place):
    """A task and an actor of the user's own may map on the cluster that they run on."""

    class Inside:
        def results(self):
            async def twice_async(x):
                return 2 * x

            backend = RayExecutionBackend()
            functions = (lambda x: 2 * x), twice_async
            return [list(backend.map(func, range(300), max_workers=8)) for func in functions]

    with within(30):
        if place == "task":
            results = ray_session.get(ray_session.remote(lambda: Inside().results()).remote())
        else:
            results = ray_session.get(ray_session.remote(Inside).options(num_cpus=1).remote().results.remote())

    assert results == [[2 * x for x in range(300)]] * 2


@pytest.mark.parametrize("func", [twice, twice_async])
def test_a_map_inside_of_a_running_event_loop(ray_session, func):
    """Where an event loop is running, as in a notebook, a map works as anywhere."""

    async def main():
        return list(RayExecutionBackend().map(func, range(300), max_workers=8))

    with within(30):
        assert asyncio.run(main()) == [2 * x for x in range(300)]


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("func", [twice, twice_async])
def test_resources_that_can_never_be_met_are_an_error(ray_session, func):
    """Asking for what no node has is an error within seconds; it says what was asked and what there is."""
    backend = RayExecutionBackend(task_options={"resources": {"nothing_has_this": 1}})

    with within(20), pytest.raises((ExecutionError, UsageError), match="nothing_has_this") as caught:
        list(backend.map(func, range(3)))

    assert "CPU" in str(caught.value)


def test_an_unknown_task_option_names_the_nearest(ray_session):
    """A misspelt task option is refused with the name that was meant."""
    with within(20), pytest.raises((UsageError, TypeError), match="num_cpus"):
        list(RayExecutionBackend(task_options={"num_cpu": 1}).map(twice, [1]))


# -- what cannot travel, and what must


class Unrebuildable:
    """Can be pickled; whoever unpickles it gets a ValueError about "no number"."""

    def __reduce__(self):
        return int, ("no number",)


def odd_result(x):
    """The item; 5 gives what cannot be rebuilt."""
    return Unrebuildable() if x == 5 else x


@pytest.mark.parametrize("ordered", [True, False])
def test_a_result_that_cannot_be_rebuilt_is_an_error_of_its_item(ray_session, ordered):
    """A result that pickles and cannot be rebuilt here is a TaskError of that item alone, which says why."""
    outcomes = run(odd_result, range(40), max_workers=4, ordered=ordered)

    (error,) = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert isinstance(error, TaskError)
    assert (error.index, error.item) == (5, 5)
    assert "no number" in str(error)
    rest = [outcome for outcome in outcomes if outcome is not error]
    assert (rest if ordered else sorted(rest)) == [x for x in range(40) if x != 5]


def test_an_item_that_cannot_be_rebuilt_is_an_error_of_that_item(ray_session):
    """An item that pickles and cannot be rebuilt on a worker is a TaskError of that item alone, which says why."""
    odd = Unrebuildable()

    outcomes = run(twice, [1, 2, odd, 4, 5], max_workers=4)

    assert failures(outcomes) == {2: TaskError}
    assert (outcomes[2].index, outcomes[2].item) == (2, odd)
    assert "no number" in str(outcomes[2])
    assert outcomes[:2] + outcomes[3:] == [2, 4, 8, 10]


def test_items_of_modules_that_workers_cannot_import_travel(ray_session, tmp_path, monkeypatch):
    """Items and results that are objects of the user's own module cross both ways and keep their class."""
    (tmp_path / "shapes_of_mine.py").write_text(
        "class Square:\n    def __init__(self, side):\n        self.side = side\n"
        "    def grown(self):\n        return Square(self.side + 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import shapes_of_mine

    outcomes = run(lambda square: square.grown(), [shapes_of_mine.Square(side) for side in range(50)])

    assert failures(outcomes) == {}
    assert {type(square) for square in outcomes} == {shapes_of_mine.Square}
    assert [square.side for square in outcomes] == list(range(1, 51))


SHUT_DOWN = """
import sys, time
import ray
from themis.backends import RayExecutionBackend
from themis.errors import ExecutionError

ray.init(sys.argv[1], log_to_driver=False)
results = RayExecutionBackend().map(lambda x: time.sleep(0.05), range(10_000), max_workers=4)
next(results)
ray.shutdown()
try:
    list(results)
except ExecutionError as error:
    print(error, ray.is_initialized())
"""


def test_a_map_whose_ray_was_shut_down_says_so(ray_session):
    """A map whose session the user ended is an ExecutionError, and starts no session of its own."""
    address = ray_session.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", SHUT_DOWN, address], capture_output=True, text=True, timeout=60, check=False
    )

    assert "Ray was shut down while a map ran on it" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
