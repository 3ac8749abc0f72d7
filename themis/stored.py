"""What a run is and what it already has: read once, when it is opened."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from themis.arrow import texts
from themis.errors import RunMismatchError
from themis.ids import canonical_json
from themis.plan import Plan, is_unknown, sample_hash
from themis.records import SCHEMA_VERSION

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from themis.backends.storage import StorageBackend
    from themis.records import GenerationRecord

RETRIED = "infrastructure"
"""Answers that ended in an error of this kind are asked again on resume; a model's own outcome stands."""

CALLS = "calls_without_answer"
"""Where the metadata of an error of the infrastructure counts the calls of evaluate() that ended in one."""


def open_run(storage: StorageBackend, run_id: str, plan: Plan) -> dict[str, Any]:
    """What the run is, as stored: written now for a new run, compared for one that exists.

    Raises:
        RunMismatchError: The run of that id has another configuration; the message names each difference.
        StorageError: The storage cannot be written: found here, before anything is asked.
    """
    config = plan.config()
    metadata = storage.load_run_metadata(run_id) if storage.run_exists(run_id) else {}
    if "config" in metadata:
        stored = metadata["config"]
        differences = [
            f"{name}: stored {canonical_json(stored.get(name))}, now {canonical_json(value)}"
            for name, value in config.items()
            if _compared(stored.get(name)) != _compared(value)
        ]
        if differences:
            raise RunMismatchError(
                f"the run {run_id!r} was made with another configuration ({'; '.join(differences)}). "
                "Give another run_id, leave it out, or change the call back"
            )
        return metadata
    metadata = {
        "run_id": run_id,
        "schema_version": SCHEMA_VERSION,
        "created_at": time.time(),
        "config": config,
        "transports": [plan.model.transport],
    }
    storage.save_run_metadata(run_id, metadata)
    return metadata


def _compared(value: Any) -> str:
    """Equal for what may share a run. Of code that cannot be told nothing is resumed: its ids are always new."""
    return "unknown" if is_unknown(value) else canonical_json(value)


class Ids:
    """The ids of a column, to be asked whether one is among them: 32 bytes each, where a Python set takes 114."""

    def __init__(self, column: pa.ChunkedArray | None = None) -> None:
        self._sorted = None if column is None else _sorted(column)

    def __len__(self) -> int:
        return 0 if self._sorted is None else len(self._sorted)

    def __contains__(self, name: str) -> bool:
        if self._sorted is None:
            return False
        key = name.encode()
        place = self._sorted.searchsorted(key)
        return bool(place < len(self._sorted) and self._sorted[place] == key)


def _sorted(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    import numpy as np

    # A chunk at a time, because its list of Python texts takes as much as the set would. Ids are hashes of 32 digits:
    # one that is longer is not ours, and nobody asks for it.
    arrays = [np.array([name.encode() for name in chunk.to_pylist()], "S32") for chunk in column.chunks]
    return np.sort(np.concatenate([np.array([], "S32"), *arrays]))


class Stored:
    """What a run already has, by id. Loaded once, when a run is opened."""

    def __init__(self, storage: StorageBackend, run_id: str, *, exists: bool) -> None:
        self.answered = Ids()
        self.calls_without_answer: dict[str, int] = {}
        self.scored = Ids()
        self.samples: dict[str, str] = {}
        self.models_served: set[str] = set()
        if exists:
            self._load(storage, run_id)

    def _load(self, storage: StorageBackend, run_id: str) -> None:
        generations = storage.scan(run_id, "generations", ["id", "status", "error_kind", "model_served", "metadata"])
        self.answered = _settled(generations, [RETRIED])
        self.calls_without_answer = _calls_without_answer(generations)
        self.models_served = set(generations["model_served"].unique().to_pylist()) - {None}
        evaluations = storage.scan(run_id, "evaluations", ["id", "status", "error_kind"])
        self.scored = _settled(evaluations, [RETRIED, "scorer"])
        self.samples = {sample.id: sample_hash(sample) for sample in storage.load_samples(run_id)}


def counted(generation: GenerationRecord, calls: int) -> GenerationRecord:
    """The record of an error of the infrastructure, with the number of calls that ended in one; 0 for none."""
    others = {name: value for name, value in generation.metadata.items() if name != CALLS}
    return replace(generation, metadata={**others, CALLS: calls} if calls else others)


def _calls_without_answer(generations: pa.Table) -> dict[str, int]:
    """How many calls have ended in an error of the infrastructure, by the id of what they asked."""
    import pyarrow.compute as pc

    failed = generations.filter(pc.is_in(generations["error_kind"], value_set=texts([RETRIED])))
    metadata = (json.loads(text or "{}") for text in failed["metadata"].to_pylist())
    counts = ((name, found.get(CALLS, 0)) for name, found in zip(failed["id"].to_pylist(), metadata, strict=True))
    return {name: calls for name, calls in counts if calls}


def _settled(records: pa.Table, retried: list[str]) -> Ids:
    """The ids of the records that stand: a success, or an error of a kind that is not tried again."""
    import pyarrow.compute as pc

    ok = pc.is_in(records["status"], value_set=texts(["ok"]))
    again = pc.is_in(records["error_kind"], value_set=texts(retried))
    return Ids(records["id"].filter(pc.or_(ok, pc.invert(again))))
