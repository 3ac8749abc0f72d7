"""What runs on a Ray worker: a host, whose slots take items as they come and whose results are streamed back together.

A host is a plain task that is fed over a connection of its own, or, where the driver cannot be reached in that way, an
actor. Both stream the same messages: first who they are, then results, and an empty one now and then while a timeout
needs a sign of life. A host ends when it has had nothing to do for a moment: its CPU may be what another map needs, and
a process that is there begins the next task within milliseconds.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from themis.backends._chunk import Pace, Run
from themis.backends._feed import Address, Feed
from themis.backends._slots import make_slots
from themis.backends._wire import pack_runs, unpack_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from themis.backends._slots import Slots

POLL_SECONDS = 0.05
"""How often a host that has nothing to say looks whether it is time to end. Ray's cancel interrupts no longer wait."""

SIGN_OF_LIFE_SECONDS = 0.5
"""How often a worker with nothing to say says so, where items have a timeout."""

STUCK = b"stuck"
"""The message of a worker in which an item is overdue and cannot be given up."""

OVER = b"over"
"""The last message of a worker that had nothing to do: it has taken in what it had results for, and nothing since."""

UNREACHABLE = b"unreachable:"
"""How the message of a worker begins that cannot reach its driver; then the reason."""

IDLE_SECONDS, ACTOR_IDLE_SECONDS = 0.2, 2.0
"""How long a host stays that has nothing to do; an actor, which needs a new process to come back, for longer."""

FIRST_SECONDS = 2.0
"""How long it waits for its first items: the driver may be slow to hear that it is there."""

MESSAGE_BYTES = 1_000_000
"""Results of about this size travel together, larger ones one by one."""

LEAVE_SECONDS = 0.3
"""How long a worker that has to end waits for its last results to leave. What gets lost is run again."""

GRACE_SECONDS = 0.02
"""How long a plain function may run on when its host was told to leave."""

KILL_SECONDS = 10.0
"""How long such a host waits for the driver to kill it, before it does so itself."""


@dataclass(frozen=True)
class Order:
    """What a host is to do.

    Attributes:
        key: Of the function.
        timeout: Seconds for one item.
        linger: Results of so many seconds travel together: messages are what costs, a streamed value about 0.15 ms on
            either side.
        waits: The function is known to wait.
        idle: Seconds that it stays without anything to do.
    """

    key: str
    timeout: float | None
    linger: float
    waits: bool
    idle: float


_NOTHING = Run(0, [])

_functions: OrderedDict[str, Callable[[Any], Any]] = OrderedDict()  # unpickled once per worker process
_MAX_FUNCTIONS = 4


def serve(function: bytes, order: Order, address: Address) -> Iterator[bytes]:
    """The messages of a host that is fed over a connection to the driver."""
    host = Host(function, order)
    try:
        feed = Feed(address, host.put, host.leave, host.ended)
    except OSError as error:
        host.close()
        yield UNREACHABLE + f"{address.host}:{address.port}: {error}".encode()
        return
    try:
        yield from host.messages()
    finally:
        feed.close()
        host.close()
        host.go()


class ActorHost:
    """An actor that is a host, fed by calls."""

    def __init__(self, function: bytes, order: Order) -> None:
        self._host = Host(function, order)

    def put(self, size: int, data: bytes) -> None:
        """Take in one chunk; from now on `size` items are in progress at once."""
        self._host.put(size, data)

    def leave(self) -> None:
        """Begin nothing more, cancel coroutines."""
        self._host.leave()

    def messages(self) -> Iterator[bytes]:
        """What the host has to say; soon after the actor ends, also where nobody is there to end it."""
        yield from self._host.messages()
        import ray

        # Not from in here: the last messages would be lost with the process.
        me = ray.get_runtime_context().current_actor
        ending = threading.Timer(LEAVE_SECONDS, ray.kill, [me])
        ending.daemon = True
        ending.start()


class Host:
    """Runs items of one function as they come. `put`, `leave` and `ended` are called on another thread."""

    def __init__(self, function: bytes, order: Order) -> None:
        self._slots = make_slots(load(order.key, function), 1, order.timeout, waits=order.waits)
        self._outbox = Outbox(self._slots, order)
        self._lock = threading.Lock()
        self._n_put = 0
        self._n_sent = 0
        self._busy = time.monotonic()  # when it last had an item
        self._idle_seconds = order.idle
        self._error: Exception | None = None
        self._ended = False
        self._leaving = False
        self._over = False

    def put(self, size: int, data: bytes | bytearray) -> None:
        """Take in one chunk; from now on `size` items are in progress at once. An error of that ends the host."""
        try:
            self._put(size, data)
        except Exception as error:  # noqa: BLE001 - raised where the driver hears of it
            self._error = error
            self._slots.report(_NOTHING)

    def _put(self, size: int, data: bytes | bytearray) -> None:
        chunks, unbuildable = unpack_chunk(data)
        with self._lock:
            if self._over:  # the driver hears that the host ended, and that these had not begun
                return
            self._n_put += len(unbuildable) + sum(len(chunk.items) for chunk in chunks)
            self._slots.resize(size)
            for run in unbuildable:
                self._slots.report(run)
            for chunk in chunks:
                self._slots.put(chunk)

    def leave(self) -> None:
        """Begin nothing more, cancel coroutines, and end."""
        with self._lock:
            self._over = self._leaving = True
        self._slots.close()
        self._slots.report(_NOTHING)  # whoever waits for results hears of it now

    def ended(self) -> None:
        """Nothing more will come: end when everything is done."""
        self._ended = True

    def close(self) -> None:
        """Begin nothing more."""
        self._slots.close()

    def messages(self) -> Iterator[bytes]:
        """Who it is, then messages about the items of every chunk. It ends once there is nothing to do."""
        yield introduction()
        while not self._is_over():
            if self._error is not None:
                raise self._error
            runs = [run for run in self._outbox.collect(self._n_put - self._n_sent) if run is not _NOTHING]
            if runs:
                self._n_sent += sum(len(run.values) for run in runs)
                self._busy = time.monotonic()
            yield from self._outbox.messages(runs)
        if not self._leaving:
            yield OVER

    def go(self) -> None:
        """Leave the process to others, or end it where items hold threads in it that will not give them back."""
        if self._leaving:
            self._wait_for_the_kill()
        elif self._slots.abandoned():
            time.sleep(LEAVE_SECONDS)
            os._exit(0)

    def _is_over(self) -> bool:
        with self._lock:
            stays = self._idle_seconds if self._n_put else max(self._idle_seconds, FIRST_SECONDS)
            idle = self._n_sent == self._n_put and time.monotonic() - self._busy >= stays
            self._over = self._over or idle or (self._ended and self._n_sent == self._n_put)
            return self._over

    def _wait_for_the_kill(self) -> None:
        """Where a plain function runs on: the process must not be given to another task, and so has to end."""
        until = time.monotonic() + GRACE_SECONDS
        while self._slots.in_progress() and time.monotonic() < until:
            time.sleep(GRACE_SECONDS / 10)
        if self._slots.in_progress():
            # Never back from here: the driver's kill would hit whoever had the process by then. What only holds items
            # that were given up is not known to the driver, and goes by itself.
            time.sleep(KILL_SECONDS if self._n_sent < self._n_put else 0.0)
            os._exit(0)


class Outbox:
    """Makes messages of what ends in slots."""

    def __init__(self, slots: Slots, order: Order) -> None:
        self._slots = slots
        self._timed = order.timeout is not None
        self._linger = order.linger
        self._spoke = time.monotonic()
        self._n_together = 16

    def collect(self, enough: int) -> list[Run]:
        """What has ended by now, after a short wait; may be nothing. `enough` results need no wait for more."""
        return self._slots.take(POLL_SECONDS, self._linger, enough)

    def messages(self, runs: list[Run]) -> Iterator[bytes]:
        """The results in messages of sane size; a sign of life where nothing was said for long."""
        now = time.monotonic()
        if runs:
            pace = self._slots.pace()
            total = sum(len(run.values) for run in runs)
            left = deque(runs)
            while left:
                group = _cut(left, self._n_together)
                n_values = sum(len(run.values) for run in group)
                message = pack_runs(group, Pace(pace.seconds * n_values / total, pace.threads))
                self._n_together = max(1, min(64 * self._n_together, MESSAGE_BYTES * n_values // len(message)))
                yield message
        elif self._timed and now - self._spoke > SIGN_OF_LIFE_SECONDS:
            yield STUCK if self._slots.stuck() else b""
        else:
            return
        self._spoke = now


def _cut(runs: deque[Run], count: int) -> list[Run]:
    """The first runs of so many values, taken out; a long one is cut."""
    group: list[Run] = []
    while runs and count:
        run = runs.popleft()
        if len(run.values) > count:
            runs.appendleft(Run(run.start + count, run.values[count:], run.failed))
            run = Run(run.start, run.values[:count], run.failed)
        group.append(run)
        count -= len(run.values)
    return group


def introduction() -> bytes:
    """The first message: where the worker is."""
    import ray

    return pickle.dumps(ray.get_runtime_context().get_node_id())


def load(key: str, function: bytes) -> Callable[[Any], Any]:
    """The function, unpickled once per process."""
    if key not in _functions:
        _functions[key] = pickle.loads(function)  # noqa: S301 - from our own driver
        while len(_functions) > _MAX_FUNCTIONS:
            _functions.popitem(last=False)
    _functions.move_to_end(key)
    return _functions[key]
