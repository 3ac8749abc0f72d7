"""The writers of one backend in one process, and what flushes them: time, the end of the program, a fork."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - hooks at exit run last first: its own must be there before ours
import contextlib
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from themis.backends._journal import OtherVersionError
from themis.backends._upkeep import Upkeep
from themis.backends._writer import Limits, Writer
from themis.backends.storage import check_run_id
from themis.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from themis.backends._place import Place
    from themis.records import RecordKind

logger = logging.getLogger(__name__)


class Writers:
    """The writers of one backend in one process, by run, and the daemon thread that flushes what is due."""

    def __init__(self, place: Place, format_name: str, limits: Limits) -> None:
        self._place = place
        self._format = format_name
        self._limits = limits
        self._at_once = limits.seconds == 0
        self._reset()
        _LIVE.add(self)

    def _reset(self) -> None:
        self._wake = threading.Condition()
        self._opening = threading.RLock()
        self._by_run: dict[str, Writer] = {}
        self._thread: threading.Thread | None = None
        self._asked = False  # to look at what is due, and has not begun to

    def get(self, run_id: str) -> Writer:
        """The run's writer, opened when there is none: from here on the run exists."""
        writer = self.peek(run_id) if isinstance(run_id, str) else None
        if writer:
            return writer
        check_run_id(run_id)
        with self._opening:  # not the lock that every save and the thread take: this may wait for a store
            writer = self.peek(run_id)
            if writer is None:
                writer = self._by_run[run_id] = Writer(self._place, run_id, self._format, self._limits)
                self._adopt_journals(run_id)
                self._see_to_it()
            return writer

    def peek(self, run_id: str) -> Writer | None:
        """The run's writer, None when this process has saved nothing there."""
        return self._by_run.get(run_id)

    def append(self, run_id: str, kind: RecordKind, records: Sequence[Any]) -> None:
        """Accept the records, and see to it that they become durable."""
        writer = self.get(run_id)
        if not records:
            return
        if writer.is_behind:  # memory has its bounds: who saves faster than the place takes it, waits
            writer.flush()
        changed = writer.append(kind, records)
        if (changed or self._thread is None) and not (self._at_once or self._is_asked()):
            self._see_to_it()
        if self._at_once:
            writer.flush()

    @contextlib.contextmanager
    def discarded(self, run_id: str) -> Iterator[None]:
        """Forget the run's writer and what it holds; another one is opened afterwards, not for files that vanish."""
        with self._opening:
            with self._wake:
                writer = self._by_run.pop(run_id, None)
            if writer:
                writer.discard()
            yield

    def flush(self) -> None:
        """Return when everything accepted is durable; StorageError, after trying all of it, when something is not."""
        self._each(Writer.flush)

    def close(self) -> None:
        """Flush, and end the thread; a later append starts another."""
        with self._wake:
            thread, self._thread = self._thread, None
            self._wake.notify_all()
        if thread and thread is not threading.current_thread():
            thread.join()
        self._each(Writer.close)

    def close_quietly(self) -> None:
        """Close where there is nobody to raise to: log what could not be written."""
        try:
            self.close()
        except Exception:
            logger.exception("records that nobody flushed could not be written")

    def close_forgotten(self) -> None:
        """Close what nobody closed, from whatever thread the garbage collector happens to run on."""
        if self._place.local:
            self.close_quietly()
        else:  # that thread may be the very one on which the store's requests run
            threading.Thread(target=self.close_quietly, name="themis-storage-close", daemon=True).start()

    def after_fork(self) -> None:
        """Start empty in a forked child: what the parent accepted is the parent's to write."""
        for writer in self._by_run.values():
            writer.release()
        self._reset()

    def _each(self, act: Callable[[Writer], None]) -> None:
        failures: list[Exception] = []
        for writer in list(self._by_run.values()):
            try:
                act(writer)
            except Exception as error:  # noqa: BLE001 - raised below: the others are not to suffer for it
                failures.append(error)
        for other in failures[1:]:
            logger.warning("of several failures the first is raised, this is another: %s", other)
        if failures:
            raise failures[0]

    def _adopt_journals(self, run_id: str) -> None:
        try:
            Upkeep(self._place, run_id, self._format).adopt_journals()
        except OtherVersionError as error:  # which is no reason to refuse what is saved now
            logger.warning("run %s: %s", run_id, error)

    def _is_asked(self) -> bool:
        """Whether a thread that lives will yet begin to look at what is due."""
        thread = self._thread
        return self._asked and thread is not None and thread.is_alive()

    def _see_to_it(self) -> None:
        """Have the thread look at what is due, and start it when there is none."""
        with self._wake:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._work, name="themis-storage", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the main thread has ended, after which Python 3.12 begins no other
                    self._at_once = True
                    return
                self._thread = thread
            self._wake.notify_all()
            self._asked = True  # last: who is interrupted before has asked nobody

    def _work(self) -> None:
        """Flush what is due, and say every now and then that this process lives."""
        while True:
            with self._wake:
                if self._thread is not threading.current_thread():
                    return
                now, self._asked = time.monotonic(), False
                writers = list(self._by_run.values())
                waits = {writer: _soonest(writer.due_in(now), writer.beat_due_in(now)) for writer in writers}
                due = [writer for writer, wait in waits.items() if _is_due(wait)]
                if not due:
                    self._wake.wait(_soonest(*waits.values()))
            for writer in due:
                _tend(writer)


def _tend(writer: Writer) -> None:
    """Flush and beat when that is due. Nothing that goes wrong in one run ends the thread, which others need too."""
    try:
        if _is_due(writer.due_in(time.monotonic())):
            with contextlib.suppress(StorageError):  # logged, kept, and raised by flush() if it stays so
                writer.flush()
        if _is_due(writer.beat_due_in(time.monotonic())):
            writer.beat()
    except Exception:
        writer.put_off()
        logger.exception("what was saved is kept, and is written later")


def _soonest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _is_due(wait: float | None) -> bool:
    return wait is not None and wait <= 0


_LIVE: weakref.WeakSet[Writers] = weakref.WeakSet()


def _close_all() -> None:
    for writers in list(_LIVE):
        writers.close_quietly()


def _after_fork() -> None:
    for writers in list(_LIVE):
        writers.after_fork()


def _close_before_threads_end() -> None:
    """Close while thread pools run, and once more when the threads that go on after the main one have ended.

    The second hook is the last one registered, so that it runs before those that end the filesystems' sessions.
    """
    atexit.register(_close_all)
    _close_all()


# Plain atexit runs after the thread pools have ended, on which asynchronous filesystems resolve host names.
getattr(threading, "_register_atexit", atexit.register)(_close_before_threads_end)
os.register_at_fork(after_in_child=_after_fork)
