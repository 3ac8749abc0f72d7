"""A log of another tool -> a run: its records, what it is, and its report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from themis.errors import DataError, RunMismatchError, UsageError
from themis.ids import canonical_json
from themis.provenance import provenance
from themis.records import SCHEMA_VERSION
from themis.report import EVALUATION_COLUMNS, GENERATION_COLUMNS, aggregate
from themis.result import Result
from themis.scoring.base import RepeatsMetric, Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from themis.backends import StorageBackend
    from themis.importing.log import Answer, Log
    from themis.records import EvaluationRecord, GenerationRecord, Report

_AT_ONCE = 100
"""Answers that are saved together: with long conversations they are some megabytes."""


@dataclass(frozen=True, repr=False)
class Imported(Result):
    """The run that a log became. Its scores are the other tool's; score() adds others.

    Attributes:
        source: The log.
        left_out: What could not be taken over, in words, and how often.
    """

    source: str = ""
    left_out: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """What was taken over, into which run, and what could not be."""
        scores = len(self.report.metrics)
        kinds = f"{scores} kind{'s' * (scores != 1)} of scores"
        text = f"imported: {self.n_stored} answers with {kinds} from {self.source} (run {self.run_id})"
        return "\n".join([text, *(f"left out: {what} ({count} times)" for what, count in self.left_out.items())])


class _OverRepeats(RepeatsMetric):
    """Stands in a report for another tool's score over the repeats of a sample."""

    def __init__(self, name: str) -> None:
        self.name = name

    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        raise UsageError(f"{self.name} is another tool's score: it is imported, not computed")


def save(log: Log, storage: StorageBackend, run_id: str) -> Imported:
    """The run, stored. The same log again after an interruption goes on: every record has the id that it had.

    Raises:
        RunMismatchError: There is a run of that id that is not this log's, or whose import came to its end.
    """
    _open(log, storage, run_id)
    launch = {"started_at": time.time(), "imported": _origin(log), **provenance()}
    storage.save_launch(run_id, launch)
    seen = _Seen()
    answers = iter(log.answers(log))
    while batch := list(islice(answers, _AT_ONCE)):
        seen.save(batch, storage, run_id)
    if not seen.pairs:
        raise UsageError(f"{log.name}: there is no answer in it")
    report = _report(log, storage, run_id, seen)
    storage.save_report(run_id, report)
    storage.save_launch(run_id, {**launch, "ended_at": time.time(), "status": report.status})
    source = f"{log.tool} {log.tool_version}".strip()
    left_out = dict(sorted(log.left_out.items()))
    return Imported(report, storage, 0, len(seen.pairs), source=f"{log.name} of {source}", left_out=left_out)


@dataclass
class _Seen:
    """What was saved: no record twice, although several filters of lm-eval tell of one answer.

    Of each answer a hash is kept, since two answers to one question cannot both be.
    """

    pairs: dict[tuple[str, int], int] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, None] = field(default_factory=dict)

    def save(self, batch: Sequence[Answer], storage: StorageBackend, run_id: str) -> None:
        new = {(each.sample.id, g.repeat): (each.sample, g) for each in batch for g in each.generations}
        new = {pair: records for pair, records in new.items() if pair not in self.pairs}
        evaluations = [evaluation for each in batch for evaluation in each.evaluations]
        samples = {sample.id: sample for sample, _ in new.values()}
        self._remember(generation for each in batch for generation in each.generations)
        self.groups.update({name: sample.group for name, sample in samples.items() if sample.group is not None})
        self.metrics.update(dict.fromkeys(evaluation.metric for evaluation in evaluations))
        if samples:
            storage.save_samples(run_id, list(samples.values()))
            storage.save_generation_records(run_id, [generation for _, generation in new.values()])
        if evaluations:
            storage.save_evaluation_records(run_id, evaluations)

    def _remember(self, generations: Iterable[GenerationRecord]) -> None:
        for generation in generations:
            pair, told = (generation.sample_id, generation.repeat), hash((generation.id, generation.response))
            if self.pairs.setdefault(pair, told) != told:
                raise DataError(
                    f"sample {pair[0]!r} has two different answers as its repeat {pair[1]}: the log is of several runs "
                    "in one file, or the field that was given as id_field is not unique"
                )


def _open(log: Log, storage: StorageBackend, run_id: str) -> None:
    """Say what the run is, unless it is said: a run that another import began is gone on with."""
    if not storage.run_exists(run_id):
        metadata = {"run_id": run_id, "schema_version": SCHEMA_VERSION, "created_at": time.time()}
        storage.save_run_metadata(run_id, {**metadata, "config": log.config(), "imported": _origin(log)})
        return
    known = storage.load_run_metadata(run_id).get("imported")
    if known is None or canonical_json(known) != canonical_json(_origin(log)):
        was = f"an import of {known.get('file')}" if isinstance(known, dict) else "not an import"
        raise RunMismatchError(f"the run {run_id!r} exists and is {was}, not of {log.name}: give another run_id")
    if any(launch.get("ended_at") for launch in storage.load_launches(run_id)):
        raise RunMismatchError(
            f"{log.name} is imported already, as the run {run_id!r}; delete that run first, or give another run_id"
        )


def _origin(log: Log) -> dict[str, Any]:
    return {"tool": log.tool, "version": log.tool_version, "file": log.name, **log.facts}


def _report(log: Log, storage: StorageBackend, run_id: str, seen: _Seen) -> Report:
    """The report over all answers of the log, with the other tool's scores."""
    storage.flush()
    repeats = max(repeat for _, repeat in seen.pairs) + 1
    metrics = [_OverRepeats(name) if name in log.over_repeats else name for name in seen.metrics]
    settings = {name: {"version": log.version, "imported": log.tool} for name in seen.metrics}
    return aggregate(
        storage.scan(run_id, "evaluations", EVALUATION_COLUMNS),
        storage.scan(run_id, "generations", GENERATION_COLUMNS),
        asked=seen.pairs,
        metrics=metrics,
        run_id=run_id,
        benchmark=log.benchmark,
        model=log.model,
        benchmark_version=log.version,
        groups=seen.groups,
        interrupted=not log.complete,
        created_at=time.time(),
        selection={"limit": None, "num_samples": repeats},
        config={**log.config(), "metrics": settings},
        provenance={**provenance(), "imported": _origin(log)},
    )
