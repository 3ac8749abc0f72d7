"""The processes that compare: started when they are needed, one for each CPU, ended when they take too long."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from themis.errors import SandboxError, UndecidedError
from themis.scoring.cores import cores

SECONDS = 5
"""Seconds of CPU that one comparison may take."""
MEMORY = 2 << 30
"""Bytes of address space that a child may have."""
START_SECONDS, STRETCH = 120.0, 12
"""Seconds by the clock until a child has started; how many times its SECONDS a comparison may take by the clock."""

_CHILD = Path(__file__).with_name("_child.py")


class Children:
    """Processes for comparisons, for all threads of this process."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)  # the children are the other process's
        atexit.register(self.close)

    def _renew(self) -> None:
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._places = threading.BoundedSemaphore(cores())

    def ask(self, question: dict[str, str]) -> dict[str, Any]:
        """The reply to a question, from a child that has no other.

        Raises:
            UndecidedError: It took longer than it may, or more memory.
            SandboxError: No child starts.
        """
        with self._places:
            child = self._take()
            try:
                reply = child.ask(question)
            except BaseException:
                self._all.discard(child)
                child.end()
                raise
            self._idle.append(child)
            return reply

    def close(self) -> None:
        """End all children."""
        self._idle.clear()
        while self._all:
            self._all.pop().end()

    def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.lives():
                return child
            self._all.discard(child)
            child.end()
        child = _Child()
        self._all.add(child)
        return child


class _Child:
    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this very package's child
            [sys.executable, "-P", str(_CHILD), str(SECONDS), str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._started = False

    def ask(self, question: dict[str, str]) -> dict[str, Any]:
        if not self._started:
            self._read(START_SECONDS)
            self._started = True
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        with suppress(BrokenPipeError):  # then there is no reply either
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        return self._read(STRETCH * SECONDS)

    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self, seconds: float) -> dict[str, Any]:
        """The next line, at most so many seconds from now."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        source, line, until = self._process.stdout.fileno(), b"", time.monotonic() + seconds
        poll = select.poll()
        poll.register(source, select.POLLIN)
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise UndecidedError(f"{seconds:g} s by the clock were not enough")
            part = os.read(source, 1 << 16)
            if not part:
                raise self._why()
            line += part
        return cast(dict[str, Any], json.loads(line))

    def _why(self) -> Exception:
        """Why there is no reply."""
        _, errors = self._process.communicate()
        if self._process.returncode == -signal.SIGXCPU:
            return UndecidedError(f"{SECONDS} s of CPU were not enough")
        if self._started:
            return UndecidedError(f"{MEMORY >> 30} GiB of memory were not enough, or the comparison ended its process")
        said = errors[-300:].decode(errors="replace").strip()
        return SandboxError(f"the process that compares does not start: {said}")


CHILDREN = Children()
