"""Saving records while model calls go on."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeAlias

from themis.records import EvaluationRecord, GenerationRecord, Sample
from themis.work import Done

if TYPE_CHECKING:
    from themis.backends.storage import StorageBackend

Saved: TypeAlias = Sample | Done | list[EvaluationRecord]


class Recorder:
    """Saves records on a thread of its own, as soon as they come and together with what came meanwhile.

    A storage may take long (an object store, a full disk): the model calls must not wait for it. `close` returns when
    everything is saved. The first error of the storage is raised by the next call here.
    """

    def __init__(self, storage: StorageBackend, run_id: str) -> None:
        self._storage = storage
        self._run_id = run_id
        self._queue: queue.Queue[Saved | None] = queue.Queue(maxsize=10_000)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="themis-recorder", daemon=True)
        self._thread.start()

    def put(self, record: Saved) -> None:
        """Take a record; waits when the storage is far behind."""
        self._check()
        self._queue.put(record)

    def wait(self) -> None:
        """Return when everything put so far is saved."""
        self._queue.join()
        self._check()

    def close(self) -> None:
        """Return when everything put is saved."""
        self._queue.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        going = True
        while going:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            going = batch[-1] is not None
            if self._error is None:
                try:
                    self._save([record for record in batch if record is not None])
                except BaseException as error:  # noqa: BLE001 - raised where the run can end in order
                    self._error = error
            for _ in batch:
                self._queue.task_done()

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
