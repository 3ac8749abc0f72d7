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
from themis.winners import IdSet

if TYPE_CHECKING:
    from themis.backends.storage import StorageBackend
    from themis.records import GenerationRecord
    from themis.work import Done

RETRIED = "infrastructure"
"""Answers that ended in an error of this kind are asked again on resume; a model's own outcome stands."""

CALLS = "calls_without_answer"
"""Where the metadata of an error of the infrastructure counts the calls of evaluate() that ended in one."""


JUDGE = "judge/"
"""What the benchmark of a judge's calls begins with; the metric's name follows."""


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


class Stored:
    """What a run already has, by id. Loaded once, when a run is opened."""

    def __init__(self, storage: StorageBackend, run_id: str, *, exists: bool, samples: bool = True) -> None:
        self.answered = IdSet()
        self.calls_without_answer: dict[str, int] = {}
        self.scored = IdSet()
        self.samples: dict[str, str] = {}
        self.models_served: set[str] = set()
        self.has_judge_calls = False
        if exists:
            self._load(storage, run_id, samples=samples)

    def given_up(self, name: str, max_calls: int | None) -> bool:
        """Whether so many calls ended in an error of the infrastructure that this one does not ask again."""
        return max_calls is not None and self.calls_without_answer.get(name, 0) >= max_calls

    def counted(self, done: Done, *, now: bool | None = None) -> Done:
        """The outcome, its record with the count of calls where it ended in an error of the infrastructure.

        `now` says whether this call counts; by default it does, except for an error that no request could survive.
        """
        generation = done.generation
        if generation.status == "ok" or generation.error_kind != RETRIED:
            return done
        calls = self.calls_without_answer.get(generation.id, 0) + (not done.fatal if now is None else now)
        return done._replace(generation=counted(generation, calls))

    def _load(self, storage: StorageBackend, run_id: str, *, samples: bool) -> None:
        self.answered = storage.ids(run_id, "generations", without_errors=[RETRIED])
        self._load_generations(storage, run_id)
        self.scored = storage.ids(run_id, "evaluations", without_errors=[RETRIED, "scorer"])
        if samples:
            self.samples = {sample.id: sample_hash(sample) for sample in storage.iter_samples(run_id)}

    def _load_generations(self, storage: StorageBackend, run_id: str) -> None:
        """Who gave the answers, judges left out; how many calls ended without one, by the id of what they asked."""
        import pyarrow.compute as pc

        columns = ["id", "benchmark", "model_served", "error_kind", "metadata"]
        for table in storage.scan_batches(run_id, "generations", columns):
            own = table.filter(pc.invert(pc.starts_with(table["benchmark"], JUDGE)))
            self.has_judge_calls |= own.num_rows < table.num_rows
            self.models_served |= set(own["model_served"].unique().to_pylist()) - {None}
            failed = table.filter(pc.is_in(table["error_kind"], value_set=texts([RETRIED])))
            for name, metadata in zip(failed["id"].to_pylist(), failed["metadata"].to_pylist(), strict=True):
                if calls := json.loads(metadata or "{}").get(CALLS, 0):
                    self.calls_without_answer[name] = calls


def counted(generation: GenerationRecord, calls: int) -> GenerationRecord:
    """The record of an error of the infrastructure, with the number of calls that ended in one; 0 for none."""
    others = {name: value for name, value in generation.metadata.items() if name != CALLS}
    return replace(generation, metadata={**others, CALLS: calls} if calls else others)
