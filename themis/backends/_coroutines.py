"""Slots for coroutine functions, on the event loop of the process."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.backends._chunk import Chunk, Failed, Run, Todo, overdue, set_executions
from themis.backends._errors import portable
from themis.backends._slots import Slots, process_loop

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE_SECONDS = 0.5
"""How long closing waits for cancelled coroutines to end."""

CANCEL_SECONDS = 1.0
"""How long an overdue coroutine may take to end once it is cancelled; then its slot goes to another item."""

PATIENCE, MAX_PATIENCE = 0.1, 0.025
"""Results wait for others for this part of what an item takes, and for so many seconds at most, while items wait for
slots: to hand over what ended costs as much as a tenth of a model call, for one result as for twenty."""


@dataclass(eq=False, slots=True)
class _Slot:
    """A place for one item at a time: an asyncio task that takes one after the other."""

    task: asyncio.Task[None] = field(init=False)
    execution: int = 1
    index: int = -1
    item: Any = None
    since: float | None = None  # when its item began; None between two items
    expired: bool = False
    abandoned: bool = False


class LoopSlots(Slots):
    """Slots on the process's event loop.

    A slot takes one item after the other in one asyncio task: a task for each item would double what a waiting item
    costs (18 us instead of 10), an `asyncio.timeout` for each as much again. One sweep ends what is overdue.
    """

    def __init__(self, func: Callable[[Any], Any], size: int, timeout: float | None) -> None:
        super().__init__(func, size, timeout)
        self._loop = process_loop()
        self._todo = Todo()
        self._open: set[_Slot] = set()
        self._took = 0.0  # seconds of the item that ended last
        self._sweeping = False
        self._ended = threading.Event()

    def put(self, chunk: Chunk) -> None:
        self._loop.call_soon_threadsafe(self._put, chunk)

    def _put(self, chunk: Chunk) -> None:
        self._todo.add(chunk)
        self._fill()

    def _fill(self) -> None:
        for _ in range(min(self._size - len(self._open), self._todo.count)):
            slot = _Slot()
            slot.task = self._loop.create_task(self._work(slot))
            self._open.add(slot)
        if self._timeout is not None and self._open and not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._timeout, self._sweep, self._timeout)

    async def _work(self, slot: _Slot) -> None:
        try:
            while self._begin(slot):
                value = await self._outcome(slot)
                if slot.abandoned or self._closed:
                    break
                self._done.put(Run(slot.index, [value], type(value) is Failed))
        finally:
            self._open.discard(slot)
            if self._closed and not self._open:
                self._ended.set()

    def _begin(self, slot: _Slot) -> bool:
        """Give the slot the next item, if there is one."""
        if not self._todo.count or self._closed or len(self._open) > self._size:
            return False
        chunk = self._todo.take(1)
        if chunk.execution != slot.execution:
            slot.execution = chunk.execution
            set_executions(chunk.execution)
        slot.index, slot.item = chunk.start, chunk.items[0]
        slot.since = time.monotonic()
        return True

    async def _outcome(self, slot: _Slot) -> Any:
        try:
            value = await self._func(slot.item)
        except BaseException as error:  # noqa: BLE001 - SystemExit of an item must not end the loop
            value = Failed(portable(error))
        took = self._took = time.monotonic() - (slot.since or 0.0)
        self._seconds += took
        slot.since = None
        task = asyncio.current_task()
        while task is not None and task.cancelling():  # what ended one item must not end the slot's next one
            task.uncancel()
        # Also an item that passed over its cancellation, or held up the whole loop, took too long.
        if self._timeout is not None and (slot.expired or took >= self._timeout):
            slot.expired = False
            return Failed(overdue(slot.index, self._timeout))
        return value

    def take(self, timeout: float | None = None, linger: float = 0.0, enough: int | None = None) -> list[Run]:
        if timeout != 0 and self._todo.count:  # else slots are free, and the next items may depend on these results
            linger = max(linger, min(PATIENCE * self._took, MAX_PATIENCE))
        return super().take(timeout, linger, enough)

    def _sweep(self, timeout: float) -> None:
        """Cancel what is overdue, give up what does not end by that, and come again at the next deadline."""
        now = time.monotonic()
        wait = timeout
        for slot in list(self._open):
            if slot.since is None:
                continue
            age = now - slot.since
            if age >= timeout and not slot.expired:
                slot.expired = True
                slot.task.cancel()
            if age >= timeout + CANCEL_SECONDS:
                self._give_up(slot, timeout)
            else:
                wait = min(wait, (timeout if age < timeout else timeout + CANCEL_SECONDS) - age)
        self._sweeping = bool(self._open) and not self._closed
        if self._sweeping:
            self._loop.call_later(wait, self._sweep, timeout)

    def _give_up(self, slot: _Slot, timeout: float) -> None:
        slot.abandoned = True
        self._open.discard(slot)
        self._done.put(Run(slot.index, [Failed(overdue(slot.index, timeout))], failed=True))
        self._fill()

    def stuck(self) -> bool:
        if self._timeout is None:
            return False
        long_ago = time.monotonic() - self._timeout - CANCEL_SECONDS - 0.5
        return any(slot.since is not None and slot.since < long_ago for slot in list(self._open))

    def in_progress(self) -> int:
        return len(self._open)

    def close(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._cancel)
        self._ended.wait(CLOSE_SECONDS)

    def _cancel(self) -> None:
        self._todo.clear()
        for slot in self._open:
            slot.task.cancel()
        if not self._open:
            self._ended.set()
