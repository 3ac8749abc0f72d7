"""Saving records while model calls go on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

from themis.records import EvaluationRecord, GenerationRecord, Sample
from themis.work import Done

if TYPE_CHECKING:
    from themis.backends.storage import StorageBackend

Saved: TypeAlias = Sample | Done | list[EvaluationRecord]

GATHER_SECONDS = 0.1
"""How long the first record waits for others at most: saving fifty costs little more than saving one."""
MAX_WAITING = 10_000
"""Records that wait for the storage at most."""


class Recorder:
    """Saves records on a thread of its own, together with what comes within GATHER_SECONDS.

    A storage may take long (an object store, a full disk): the model calls must not wait for it. `close` returns when
    everything is saved. The first error of the storage is raised by the next call here.

    Args:
        storage: Where they are saved.
        run_id: Under which they are.
        enough: So many wait no longer. A process that is killed loses the answers that wait, so that they should not
            be more than those in progress, which it loses too.
    """

    def __init__(self, storage: StorageBackend, run_id: str, enough: int = 1) -> None:
        self._storage = storage
        self._run_id = run_id
        self._enough = enough
        self._changed = threading.Condition()
        self._put: list[Saved] = []
        self._saving = False
        self._hurry = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="themis-recorder", daemon=True)
        self._thread.start()

    def put(self, record: Saved) -> None:
        """Take a record; waits when the storage is far behind."""
        self._check()
        with self._changed:
            self._changed.wait_for(lambda: len(self._put) < MAX_WAITING)
            self._put.append(record)
            if len(self._put) in {1, self._enough}:
                self._changed.notify_all()

    def wait(self) -> None:
        """Return when everything put so far is saved."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._put and not self._saving)
            self._hurry = False
        self._check()

    def close(self) -> None:
        """Return when everything put is saved."""
        with self._changed:
            self._hurry = self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while batch := self._gathered():
            if self._error is None:
                try:
                    self._save(batch)
                except BaseException as error:  # noqa: BLE001 - raised where the run can end in order
                    self._error = error

    def _gathered(self) -> list[Saved]:
        """What was put and is not saved; [] once this is closed and everything is."""
        with self._changed:
            self._saving = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._put or self._closed)
            self._changed.wait_for(lambda: self._hurry or len(self._put) >= self._enough, GATHER_SECONDS)
            batch, self._put = self._put, []
            self._saving = True
            self._changed.notify_all()
            return batch

    def _save(self, batch: list[Saved]) -> None:
        samples = [record for record in batch if isinstance(record, Sample)]
        generations: list[GenerationRecord] = [record.generation for record in batch if isinstance(record, Done)]
        evaluations: list[EvaluationRecord] = []
        for record in batch:
            if not isinstance(record, Sample):
                evaluations += record.evaluations if isinstance(record, Done) else record
        # In this order: whoever finds a record finds what it refers to.
        if samples:
            self._storage.save_samples(self._run_id, samples)
        if generations:
            self._storage.save_generation_records(self._run_id, generations)
        if evaluations:
            self._storage.save_evaluation_records(self._run_id, evaluations)
