"""Scores of samples out of the stored scores of their repeats."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from themis.arrow import texts, to_records
from themis.scoring.base import metric_evaluation_id
from themis.scoring.repeats import evaluate_repeats, repeats_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from themis.backends.storage import StorageBackend
    from themis.plan import Selection
    from themis.records import EvaluationRecord
    from themis.scorers import Scorers

ROWS_AT_ONCE = 10_000
"""Evaluations that are records at once; all others are columns."""


def save_over_repeats(storage: StorageBackend, run_id: str, scorers: Scorers, selection: Selection) -> None:
    """Compute and keep the scores over repeats that are missing, or whose repeats have other scores than before."""
    if not scorers.repeats:
        return
    batch: list[EvaluationRecord] = []
    for evaluation in _changed(storage.scan(run_id, "evaluations"), scorers, selection):
        batch.append(evaluation)
        if len(batch) >= ROWS_AT_ONCE:
            storage.save_evaluation_records(run_id, batch)
            batch = []
    if batch:
        storage.save_evaluation_records(run_id, batch)
    storage.flush()


def _changed(table: pa.Table, scorers: Scorers, selection: Selection) -> Iterator[EvaluationRecord]:
    known = _known(table, [metric.name for metric, _ in scorers.repeats])
    for metric, place in scorers.repeats:
        for evaluations in _by_sample(selection.evaluations(table, [place])):
            ids = selection.generation_ids(evaluations[0].sample_id)
            name = metric_evaluation_id(metric, ids, evaluations[0].target)
            selection.add_over_repeats(name)
            if known.get(name) != repeats_hash(evaluations):
                yield evaluate_repeats(metric, ids, evaluations)


def _known(table: pa.Table, names: list[str]) -> dict[str, str | None]:
    """What each stored score over repeats was made of, by its id; those that ended in an error are made again."""
    import pyarrow.compute as pc

    mine = pc.and_(
        pc.is_in(table["metric"], value_set=texts(names)), pc.is_in(table["status"], value_set=texts(["ok"]))
    )
    kept = table.filter(mine)
    return dict(zip(kept["id"].to_pylist(), kept["response_hash"].to_pylist(), strict=True))


def _by_sample(table: pa.Table) -> Iterator[list[EvaluationRecord]]:
    """The evaluations of each sample, in the order of its repeats."""
    ordered = table.sort_by([("sample_id", "ascending"), ("repeat", "ascending")])
    starts = range(0, ordered.num_rows, ROWS_AT_ONCE)
    records = (row for start in starts for row in to_records(ordered.slice(start, ROWS_AT_ONCE), "evaluations"))
    for _, evaluations in groupby(records, key=attrgetter("sample_id")):
        yield list(evaluations)
