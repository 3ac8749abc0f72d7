"""What a host does on a Ray worker with the items that it is given, tried without a Ray."""

from __future__ import annotations

import pickle
import threading
import time

import cloudpickle
import pytest

from themis.backends import _host
from themis.backends._chunk import Chunk
from themis.backends._host import OVER, Host, Order
from themis.backends._wire import ItemPacker, unpack_runs


@pytest.fixture
def make(monkeypatch):
    """Makes hosts of a function, which stay for `idle` seconds without items; all are closed at the end."""
    monkeypatch.setattr(_host, "introduction", lambda: b"here")
    monkeypatch.setattr(_host, "FIRST_SECONDS", 0.0)
    hosts = []

    def make(func, idle=0.2):
        order = Order(f"key-{id(func)}", None, 0.004, waits=False, idle=idle)
        hosts.append(Host(cloudpickle.dumps(func), order))  # a function of this module travels by reference
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def packed(*items, start=0):
    """A chunk as it travels."""
    return ItemPacker().pack(Chunk(start, list(items)))[0]


def results(messages):
    """The values in some messages, by position."""
    runs = [run for message in messages for run in unpack_runs(message)[0]]
    return {run.start + at: value for run in runs for at, value in enumerate(run.values)}


def test_a_host_says_that_it_goes_when_it_has_nothing_to_do(make):
    """After the results of what it was given comes the word that it is over, and then nothing."""
    host = make(lambda x: 2 * x)
    host.put(2, packed(1, 2, 3))

    first, *messages, last = host.messages()

    assert (first, last) == (b"here", OVER)
    assert results(messages) == {0: 2, 1: 4, 2: 6}


def test_a_host_waits_longer_for_its_first_items(make, monkeypatch):
    """A driver that is slow to hear of a host finds it there still."""
    monkeypatch.setattr(_host, "FIRST_SECONDS", 10.0)
    host = make(lambda x: 2 * x, idle=0.0)
    messages = host.messages()
    assert next(messages) == b"here"

    threading.Timer(0.5, host.put, [1, packed(21)]).start()

    assert results([next(messages)]) == {0: 42}


def test_what_comes_after_the_end_does_not_begin(make):
    """A chunk that arrives when a host has said that it is over is not touched."""
    begun.clear()
    host = make(wait_for_the_word, idle=0.0)
    messages = list(host.messages())

    host.put(1, packed(1))
    time.sleep(0.1)

    assert messages == [b"here", OVER]
    assert begun == []


def test_a_chunk_that_cannot_be_taken_in_ends_the_host_with_its_error(make):
    """What the driver sent and nothing here can read is an error of the map, not a silence."""
    host = make(lambda x: x, idle=10.0)
    messages = host.messages()
    assert next(messages) == b"here"

    host.put(1, b"no pickle")

    with pytest.raises(pickle.UnpicklingError):
        next(messages)


begun, go_on = [], threading.Event()


def wait_for_the_word(x):
    """Begin, and wait."""
    begun.append(x)
    go_on.wait(10)


def test_a_host_that_was_told_to_leave_begins_nothing_more(make):
    """Leaving ends the messages at once, and what waited for a slot does not begin."""
    begun.clear()
    host = make(wait_for_the_word, idle=10.0)
    messages = host.messages()
    assert next(messages) == b"here"
    host.put(1, packed(1, 2, 3))
    while not begun:
        time.sleep(0.01)

    host.leave()

    assert list(messages) == []
    go_on.set()
    time.sleep(0.1)
    assert begun == [1]
