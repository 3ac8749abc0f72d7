"""Feeds workers while they run: items travel to a plain Ray task over a socket of its own.

Ray hands a task its arguments when it begins and nothing afterwards. A task that ends with its items leaves slots idle
while the last of them run, and an actor, which could be called again, needs a process that nobody has used, a second or
so. So each worker of a map connects back to its driver, as Ray itself does to report results, and gets items as slots
come free. Only items take this way: what is lost with a connection is found in the table of leases like the items of
any worker that ended.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from themis.backends._slots import process_loop

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_SECONDS = 10.0
"""How long a worker tries to reach the driver, which may be busy."""

BACKLOG = 4096
"""Workers that may knock at the same time."""

HELLO_SECONDS = 5.0
"""How long the driver waits for a connection to say which worker it is."""

_TOKEN_BYTES = 32

_HEAD = struct.Struct("!IQ")
"""Before each message: how many items may be in progress from now on, 0 to leave, and the bytes that follow."""


class Address(NamedTuple):
    """Where a worker connects to, and the secrets by which each side knows the other; from the task's arguments.

    Attributes:
        host: Of the driver.
        port: On which it listens.
        token: What the worker says.
        answer: What the driver says to that: another program may have the port by now.
    """

    host: str
    port: int
    token: bytes
    answer: bytes


# -- the driver's end


class Lane:
    """The driver's end of one worker's connection. What is sent before it is made waits for it.

    Attributes:
        ended: The worker has hung up: what is sent from now on is lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = False
        self._loop = loop
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: list[bytes] = []

    def send(self, size: int, data: bytes) -> None:
        """Give the worker a packed chunk; from now on `size` of its items may be in progress. Never waits."""
        self._loop.call_soon_threadsafe(self._write, _HEAD.pack(size, len(data)), data)

    def leave(self) -> None:
        """Tell the worker to begin nothing more, cancel what it can and end."""
        self._loop.call_soon_threadsafe(self._write, _HEAD.pack(0, 0), b"")

    def opened(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        """The worker is there; on the loop."""
        self._writer = writer
        writer.writelines([answer, *self._waiting])
        self._waiting.clear()

    def _write(self, *parts: bytes) -> None:
        if self._writer is None:
            self._waiting.extend(parts)
            return
        self.ended = self.ended or self._writer.is_closing()  # known before the end of the connection is read
        if not self.ended:
            self._writer.writelines(parts)

    def close(self) -> None:
        """Hang up, once everything was sent."""
        self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Door:
    """Where the workers of one map connect to: a port of the driver's host.

    Args:
        host: Address of this host by which Ray's nodes know it.

    Raises:
        OSError: No port can be had.
    """

    def __init__(self, host: str) -> None:
        # Not the loop of the user's coroutines: one that holds it must not stop the feeding of others.
        self._loop = process_loop("themis-feed")
        self._expected: dict[bytes, tuple[Lane, bytes]] = {}
        starting = asyncio.start_server(self._welcome, host, 0, backlog=BACKLOG)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self._host, self._port = self._server.sockets[0].getsockname()[:2]

    def lane(self) -> tuple[Address, Lane]:
        """A lane for one more worker, and what the worker has to know to take it."""
        token, answer = secrets.token_bytes(_TOKEN_BYTES), secrets.token_bytes(_TOKEN_BYTES)
        lane = Lane(self._loop)
        self._expected[token] = lane, answer
        return Address(self._host, self._port, token, answer), lane

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            token = await asyncio.wait_for(reader.readexactly(_TOKEN_BYTES), HELLO_SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            token = b""
        lane, answer = self._expected.pop(token, (None, b""))
        if lane is None:  # a stranger
            writer.close()
            return
        set_no_delay(writer.get_extra_info("socket"))
        lane.opened(writer, answer)
        with suppress(OSError):
            await reader.read(1)  # a worker says nothing more: this is the end of the connection
        lane.ended = True
        writer.close()

    def close(self) -> None:
        """Take no more connections; those that are there stay."""
        self._loop.call_soon_threadsafe(self._server.close)


def set_no_delay(connection: socket.socket) -> None:
    """Send small messages at once, and notice a peer that vanished without a word."""
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


# -- the worker's end


class Feed:
    """The worker's end of its connection.

    Args:
        address: Of the driver's door.
        put: Called with the size and the bytes of each chunk, on a thread of the feed's own.
        leave: Called when the driver says so.
        ended: Called when nothing more will come.

    Raises:
        OSError: The driver cannot be reached.
    """

    def __init__(
        self,
        address: Address,
        put: Callable[[int, bytearray], None],
        leave: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._put, self._leave, self._ended = put, leave, ended
        self._socket = socket.create_connection(address[:2], timeout=CONNECT_SECONDS)
        self._socket.sendall(address.token)
        try:
            answer = self._exactly(len(address.answer))
        except EOFError as error:
            raise ConnectionError("it hung up") from error
        if answer != address.answer:
            raise ConnectionError("another program answers there")
        self._socket.settimeout(None)
        set_no_delay(self._socket)
        threading.Thread(target=self._read, name="themis-feed", daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                size, count = _HEAD.unpack(self._exactly(_HEAD.size))
                if not size:
                    self._leave()
                    break
                self._put(size, self._exactly(count))
        self._ended()

    def _exactly(self, count: int) -> bytearray:
        """The next so many bytes, in as few calls as there can be: after each the interpreter's lock is waited for.

        Raises:
            EOFError: The connection ended before.
        """
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            if not got:
                raise EOFError
            view = view[got:]
        return data

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
