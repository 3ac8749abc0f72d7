"""What a comparison knows of a run: its configuration, its samples as hashes, its scores by sample. Columns only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from json import loads
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from themis.backends.storage import run_place
from themis.errors import ReportNotFoundError, UsageError
from themis.ids import EvaluationIds
from themis.records import Report
from themis.result import Result

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import ExitStack

    from themis.backends.storage import StorageBackend

_SCORE_COLUMNS = ("id", "metric", "sample_id", "repeat", "score", "value", "scorer", "group", "launch", "seq")
_NAME_COLUMNS = ("id", "metric", "sample_id", "repeat", "generation_id", "generation_ids", "target")
_SAMPLE_COLUMNS = ("id", "input", "target", "choices")

_Key: TypeAlias = tuple[str, str, int]
"""Metric, sample id, repeat."""


@dataclass
class Scores:
    """A run's scores by one metric.

    Attributes:
        by_sample: The scores of each sample that has any, its repeats in their order.
        statistics: Of a pooled metric what each sample adds to its sums; {} for others.
        asked: Every sample that the metric was to score.
        lost: How many evaluations without a score each sample has that has any.
        repeated: Whether a sample has more than one evaluation.
        scorers: name@version of those that scored.
        passed_over: Ids of evaluations in whose place others count: of another setting of the metric, or earlier.
    """

    by_sample: dict[str, list[float]] = field(default_factory=dict)
    statistics: dict[str, list[float]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    lost: dict[str, int] = field(default_factory=dict)
    repeated: bool = False
    scorers: set[str] = field(default_factory=set)
    passed_over: set[str] = field(default_factory=set)

    @property
    def within_one(self) -> bool:
        """Whether every score lies between 0 and 1."""
        return all(0 <= score <= 1 for scores in self.by_sample.values() for score in scores)


@dataclass(frozen=True)
class StoredRun:
    """A run, read for a comparison. `samples` has a hash of what each sample asks and expects."""

    label: str
    run_id: str
    storage: StorageBackend
    config: dict[str, Any]
    report: Report | None
    samples: dict[str, int]
    groups: dict[str, str | None]
    scores: dict[str, Scores]

    @property
    def model(self) -> str:
        """The model's name, as far as the run tells it."""
        if self.report is not None:
            return self.report.model
        model = self.config.get("model")
        return str(model.get("name", "")) if isinstance(model, dict) else ""

    @property
    def asked(self) -> set[str]:
        """Every sample of the run."""
        return set(self.samples).union(*(scores.asked for scores in self.scores.values()))

    def metric_config(self, metric: str) -> dict[str, Any] | None:
        """How the metric was set, None where the run does not tell."""
        settings = self.report.config.get("metrics", {}) if self.report else {}
        found: dict[str, Any] | None = settings.get(metric)
        return found


def open_runs(
    stack: ExitStack, runs: Sequence[Any], storage: str | os.PathLike[str] | None, backend: StorageBackend | None
) -> list[StoredRun]:
    """The runs that are meant, read; storages that are opened for it close with the stack."""
    places = [_place(stack, run, storage, backend) for run in runs]
    ids = [run_id for _, run_id in places]
    labels = [run_id if ids.count(run_id) == 1 else f"{run_id} ({n})" for n, run_id in enumerate(ids, 1)]
    return [read_run(store, run_id, label) for (store, run_id), label in zip(places, labels, strict=True)]


def _place(
    stack: ExitStack, run: Any, storage: str | os.PathLike[str] | None, backend: StorageBackend | None
) -> tuple[StorageBackend, str]:
    if isinstance(run, Result):
        return run.storage, run.run_id
    if isinstance(run, Report):
        run = run.run_id
    if not isinstance(run, str | os.PathLike):
        raise UsageError(f"{run!r:.100} is a {type(run).__name__}; give a run's id, URL/ID, a Result or a Report")
    url, run_id = run_place(os.fspath(run))
    if backend is not None and url is None:
        return backend, run_id
    from themis.evaluate import open_storage

    store, _ = open_storage(None, url or storage)
    return stack.enter_context(store), run_id


def read_run(storage: StorageBackend, run_id: str, label: str) -> StoredRun:
    """What a comparison needs of a run.

    Raises:
        RunNotFoundError: There is none of that id.
    """
    config = storage.load_run_metadata(run_id).get("config", {})
    try:
        report = storage.load_report(run_id)
    except ReportNotFoundError:
        report = None
    samples = _samples(storage, run_id)
    scores, groups = _scores(storage, run_id, report)
    for each in scores.values():
        each.asked.update(samples)
    config = config or (report.config if report else {})
    return StoredRun(label, run_id, storage, config, report, samples, groups, scores)


def _samples(storage: StorageBackend, run_id: str) -> dict[str, int]:
    hashes: dict[str, int] = {}
    for table in storage.scan_batches(run_id, "samples", _SAMPLE_COLUMNS):
        names, *contents = (table[name].to_pylist() for name in _SAMPLE_COLUMNS)
        hashes.update(zip(names, map(hash, zip(*contents, strict=True)), strict=True))
    return hashes


class _Row(NamedTuple):
    id: str
    scorer: str
    score: float | None
    value: str | None
    saved: tuple[str, int]


def _scores(
    storage: StorageBackend, run_id: str, report: Report | None
) -> tuple[dict[str, Scores], dict[str, str | None]]:
    """Scores by metric, and the group of each sample.

    Of several rows for one answer, the one that counts is of the report's settings of the metric, then saved last.
    """
    settings = report.config.get("metrics", {}) if report else {}
    current = {name: f"{name}@{settings[name].get('version')}" for name in settings}
    rows: dict[_Key, _Row] = {}
    several: dict[_Key, list[_Row]] = {}
    groups: dict[str, str | None] = {}
    table = storage.scan(run_id, "evaluations", _SCORE_COLUMNS)
    columns = (table[name].to_pylist() for name in _SCORE_COLUMNS)
    for name, metric, sample, repeat, score, value, scorer, group, launch, seq in zip(*columns, strict=True):
        if current.get(metric, scorer) != scorer:
            continue
        groups[sample] = group
        key, row = (metric, sample, repeat), _Row(name, scorer, score, value, (launch or "", seq or 0))
        if key in rows:
            several.setdefault(key, [rows[key]]).append(row)
        rows[key] = row
    reported = _reported(storage, run_id, settings, several) if several else set()
    for key, found in several.items():
        rows[key] = max(found, key=lambda row: (row.id in reported, row.saved))
    scores = _by_metric(rows)
    for key, found in several.items():
        scores[key[0]].passed_over.update(row.id for row in found if row is not rows[key])
    return scores, groups


def _reported(
    storage: StorageBackend, run_id: str, settings: dict[str, dict[str, Any]], several: Collection[_Key]
) -> set[str]:
    """Ids of those of these evaluations that were made by a metric as the report has it set.

    A function that was edited, and changed back, has stored scores of both; the last ones saved are not the report's.
    """
    metrics = {metric for metric, _, _ in several}
    ids = {
        name: EvaluationIds(
            metric=name,
            version=config.get("version", ""),
            config={key: value for key, value in config.items() if key != "version"},
            judge=None,
        )
        for name, config in settings.items()
        if name in metrics
    }
    found: set[str] = set()
    for table in storage.scan_batches(run_id, "evaluations", _NAME_COLUMNS):
        columns = (table[name].to_pylist() for name in _NAME_COLUMNS)
        for name, metric, sample, repeat, one, over, target in zip(*columns, strict=True):
            if metric in ids and (metric, sample, repeat) in several:
                expected = ids[metric].id(over or [one], None if target is None else loads(target))
                if expected == name:
                    found.add(name)
    return found


def _by_metric(rows: dict[_Key, _Row]) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    repeats = any(repeat for _, _, repeat in rows)
    for (metric, sample, _), (_, scorer, score, value, _) in sorted(rows.items()) if repeats else rows.items():
        scores = found.get(metric)
        if scores is None:
            scores = found[metric] = Scores()
        scores.repeated = scores.repeated or sample in scores.asked
        scores.asked.add(sample)
        scores.scorers.add(scorer)
        if score is None:
            scores.lost[sample] = scores.lost.get(sample, 0) + 1
        else:
            scores.by_sample.setdefault(sample, []).append(score)
        if value is not None and value.startswith("[") and score is not None:
            added, before = loads(value), scores.statistics.get(sample)
            scores.statistics[sample] = added if before is None else [a + b for a, b in zip(before, added, strict=True)]
    return found
