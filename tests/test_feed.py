"""The connection by which a worker gets items while it runs."""

from __future__ import annotations

import queue
import socket
import threading
import time

import pytest

from themis.backends._feed import Address, Door, Feed

SECONDS = 10.0
"""How long anything here may take."""


class Ear:
    """What a worker's end was told, in order: chunks as (size, bytes), then "leave" and "ended"."""

    def __init__(self, address):
        self._told = queue.SimpleQueue()
        self.feed = Feed(address, self._put, lambda: self._told.put("leave"), lambda: self._told.put("ended"))

    def _put(self, size, data):
        self._told.put((size, bytes(data)))

    def next(self, count=1):
        """The next things told."""
        return [self._told.get(timeout=SECONDS) for _ in range(count)]


@pytest.fixture
def door():
    """A door on loopback."""
    door = Door("127.0.0.1")
    yield door
    door.close()


def test_what_is_sent_arrives_whole_and_in_order(door):
    """Chunks from before and after the connection, one of them of 20 MB, arrive in the order of sending."""
    address, lane = door.lane()
    large = bytes(range(256)) * 80_000
    lane.send(1, b"early")
    lane.send(2, large)

    ear = Ear(address)
    told = ear.next(2)
    lane.send(3, b"")
    lane.send(4, b"late")

    assert told + ear.next(2) == [(1, b"early"), (2, large), (3, b""), (4, b"late")]


def test_each_worker_gets_its_own(door):
    """With several workers at one door each gets what was sent to it, in whatever order they connect."""
    ways = [door.lane() for _ in range(5)]
    ears = [Ear(address) for address, _ in reversed(ways)][::-1]

    for number, (_, lane) in enumerate(ways):
        lane.send(1, str(number).encode())

    assert [ear.next() for ear in ears] == [[(1, str(number).encode())] for number in range(5)]


def test_a_stranger_gets_nothing(door):
    """Who does not know the token is hung up on, and the worker that does gets everything."""
    address, lane = door.lane()
    lane.send(1, b"secret")

    with socket.create_connection(address[:2], timeout=SECONDS) as stranger:
        stranger.sendall(b"x" * len(address.token))
        assert stranger.recv(100) == b""

    assert Ear(address).next() == [(1, b"secret")]


def test_a_token_opens_once(door):
    """A second connection with the same token is hung up on."""
    address, lane = door.lane()
    ear = Ear(address)
    lane.send(1, b"first")
    assert ear.next() == [(1, b"first")]

    with socket.create_connection(address[:2], timeout=SECONDS) as second:
        second.sendall(address.token)
        assert second.recv(100) == b""


def test_leaving_is_told_after_what_was_sent(door):
    """The word to leave comes after the chunks that were sent before it, and then nothing more."""
    address, lane = door.lane()
    lane.send(1, b"work")
    lane.leave()
    lane.close()

    assert Ear(address).next(3) == [(1, b"work"), "leave", "ended"]


def test_a_driver_that_hangs_up_ends_the_feed(door):
    """When the driver's end is closed the worker hears that nothing more will come."""
    address, lane = door.lane()
    ear = Ear(address)
    lane.send(1, b"last")
    lane.close()

    assert ear.next(2) == [(1, b"last"), "ended"]


def test_a_sender_waits_for_no_reader(door):
    """Sending returns at once while the worker reads nothing of 64 MB."""
    address, lane = door.lane()
    halt = threading.Event()
    feed = Feed(address, lambda size, data: halt.wait(SECONDS), list, list)

    began = time.monotonic()
    for _ in range(16):
        lane.send(1, bytes(4_000_000))
    took = time.monotonic() - began

    halt.set()
    feed.close()
    assert took < 1.0


def test_a_door_that_is_not_there_is_an_error():
    """Connecting to a port that nobody listens on fails at once."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    with pytest.raises(OSError, match="refused"):
        Feed(Address("127.0.0.1", port, b"x" * 32, b"y" * 32), print, print, print)


@pytest.mark.parametrize("says", [b"z" * 32, b""])
def test_a_stranger_behind_the_door_is_an_error(says):
    """Who listens there and does not know the answer is no driver: nothing that it sends is read."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def pretend():
            connection, _ = server.accept()
            with connection:
                connection.sendall(says)

        threading.Thread(target=pretend, daemon=True).start()
        with pytest.raises(ConnectionError, match=r"another program|hung up|reset by peer"):
            Feed(Address("127.0.0.1", server.getsockname()[1], b"x" * 32, b"y" * 32), print, print, print)


def test_what_comes_too_late_is_dropped_without_a_word(door, caplog):
    """What is sent on while the worker has hung up already is lost in silence, however much it is."""
    address, lane = door.lane()
    with socket.create_connection(address[:2], timeout=SECONDS) as worker:
        worker.sendall(address.token)
        worker.recv(len(address.answer), socket.MSG_WAITALL)
        door._loop.call_soon_threadsafe(time.sleep, 0.2)  # all that follows comes at once, before the end is read
    for _ in range(100):
        lane.send(1, bytes(100_000))
    wait_until_told(door)

    assert lane.ended
    assert caplog.records == []


def wait_until_told(door):
    """Return when the loop has done all that it was told."""
    done = threading.Event()
    door._loop.call_soon_threadsafe(done.set)
    assert done.wait(SECONDS)
