"""Scoring what is stored, and reporting on it: the second half of evaluate(), and all of score()."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._slots import run_coroutine
from themis.blocks import score_blocks
from themis.health import Health
from themis.judging import Judging
from themis.over_repeats import save_over_repeats
from themis.plan import with_ids
from themis.report import EVALUATION_COLUMNS, GENERATION_COLUMNS, aggregate
from themis.stored import JUDGE
from themis.work import ScoreStored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from themis.backends import StorageBackend
    from themis.maps import Maps
    from themis.plan import Selection
    from themis.recorder import Recorder
    from themis.records import GenerationRecord, Report, Sample
    from themis.scorers import Scorers
    from themis.scoring.base import JudgedMetric
    from themis.stored import Stored

    Unscored = Mapping[str, tuple[Sample, Sequence[int]]]
    """Of each generation without some score its sample, and the places of the metrics that have none."""


@dataclass
class Rescoring:
    """Scores stored answers by the metrics that have not scored them."""

    storage: StorageBackend
    run_id: str
    scorers: Scorers
    maps: Maps
    recorder: Recorder
    stored: Stored
    max_calls: int | None
    n_judge_calls: int = 0
    _checked: set[int] = field(default_factory=set)

    def score(self, unscored: Unscored) -> str | None:
        """Score all of these answers, which are stored; why judges could not be asked to the end, else None."""
        if plain := self._without_judged(unscored):
            self._map(plain)
        for place, metric in self.scorers.judged():
            wanted = {name: sample for name, (sample, places) in unscored.items() if place in places}
            if wanted and (stopped := self._judge(metric, wanted)):
                return stopped
        return None

    def check_judges(self) -> None:
        """Find out before the first paid call what would make every call of a judge fail.

        Raises:
            ModelError: There is no key, or no server.
        """
        for _, metric in self.scorers.judged():
            if id(metric.model) not in self._checked:
                self._checked.add(id(metric.model))
                run_coroutine(metric.model.check())

    def _without_judged(self, unscored: Unscored) -> Unscored:
        judged = {place for place, _ in self.scorers.judged()}
        if not judged:
            return unscored
        kept = {name: (one, [p for p in places if p not in judged]) for name, (one, places) in unscored.items()}
        return {name: (sample, places) for name, (sample, places) in kept.items() if places}

    def _map(self, unscored: Unscored) -> None:
        answers = (
            (sample, generation, places)
            for generation in self.storage.iter_generation_records(self.run_id)
            if generation.id in unscored
            for sample, places in [unscored[generation.id]]
        )
        for evaluations in score_blocks(self.maps, ScoreStored(self.scorers.each), answers):
            self.recorder.put(evaluations)

    def _judge(self, metric: JudgedMetric, wanted: Mapping[str, Sample]) -> str | None:
        self.check_judges()
        health = Health(self.maps.in_progress())
        judging = Judging(metric, self.maps, self.stored, self.recorder, health, self.max_calls)
        stopped = judging.judge(self._answers(wanted), self._said(judging, wanted))
        self.n_judge_calls += judging.n_asked
        return stopped

    def _answers(self, wanted: Mapping[str, Sample]) -> Iterator[tuple[Sample, GenerationRecord]]:
        for generation in self.storage.iter_generation_records(self.run_id):
            if generation.id in wanted:
                yield wanted[generation.id], generation

    def _said(self, judging: Judging, wanted: Mapping[str, Sample]) -> dict[str, GenerationRecord]:
        """What the judge said of these answers in an earlier call that ended before they were scored."""
        if not self.stored.has_judge_calls:
            return {}
        import pyarrow.compute as pc

        calls = {name for answer in self._answers(wanted) for name in judging.ids(*answer)}
        mine = pc.field("benchmark") == f"{JUDGE}{judging.metric.name}"
        tables = self.storage.scan_batches(self.run_id, "generations", where=mine)
        records = (record for table in tables for record in arrow.to_records(table, "generations"))
        return {record.id: record for record in records if record.id in calls}


def report(
    storage: StorageBackend, run_id: str, scorers: Scorers, covered: Selection, **facts: Any
) -> tuple[Report, dict[str, str]]:
    """The report over exactly what a call covers, made from what is stored; the first error of each kind.

    Scores over repeats are made here, when all others are stored. `facts` are the report's own, as for aggregate().
    """
    storage.flush()
    save_over_repeats(storage, run_id, scorers, covered)
    generations = storage.scan(run_id, "generations", ["id", *GENERATION_COLUMNS])
    columns = ["id", *EVALUATION_COLUMNS, *_ERROR_COLUMNS, *(["metadata"] if scorers.judged() else [])]
    scores = storage.scan(run_id, "evaluations", columns)
    evaluations = covered.evaluations(scores, scorers.reported, over_repeats=True)
    calls = {metric.name: _judge_calls(covered.evaluations(scores, [place])) for place, metric in scorers.judged()}
    found = aggregate(
        evaluations,
        covered.generations(generations),
        asked=covered.pairs,
        metrics=scorers.metrics,
        run_id=run_id,
        groups=covered.groups,
        judge_calls={name: with_ids(generations, ids) for name, ids in calls.items() if ids},
        created_at=time.time(),
        **facts,
    )
    return found, _first_errors(evaluations)


def _judge_calls(evaluations: pa.Table) -> list[str]:
    """Ids of the calls of judges that these evaluations were made of."""
    metadata = (json.loads(text or "{}") for text in evaluations["metadata"].to_pylist())
    return [call for fields in metadata for call in fields.get("judge_calls", [])]


_ERROR_COLUMNS = ("error_type", "error_message")


def _first_errors(evaluations: pa.Table) -> dict[str, str]:
    """For each kind of error the first one in the order of sample ids, in words."""
    names = ["error_kind", "sample_id", "repeat", *_ERROR_COLUMNS]
    failed = evaluations.filter(evaluations["error_kind"].is_valid())
    rows = zip(*(failed[name].to_pylist() for name in names), strict=True)
    first: dict[str, str] = {}
    for kind, sample, _, error, message in sorted(rows, key=lambda row: row[:3]):
        first.setdefault(kind, f"sample {sample}: {error}: {message}")
    return first
