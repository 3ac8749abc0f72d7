"""What a run found: columns of records -> Report."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from themis import stats
from themis.errors import UsageError
from themis.records import MetricResult, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

Pair: TypeAlias = tuple[str, int]
"""A sample's id and the number of the repeat: what is asked, and what a denominator counts."""
Columns: TypeAlias = "pa.Table | Mapping[str, Sequence[Any]]"


class _Evaluation(NamedTuple):
    metric: str
    sample_id: str
    repeat: int
    score: float | None
    status: str
    error_kind: str | None
    answer: str | None


class _Generation(NamedTuple):
    sample_id: str
    repeat: int
    status: str
    error_kind: str | None
    attempts: int
    input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cached_input_tokens: int | None


EVALUATION_COLUMNS = _Evaluation._fields
"""What aggregate() reads of evaluations."""
GENERATION_COLUMNS = _Generation._fields
"""What aggregate() reads of generations."""

R = TypeVar("R", _Evaluation, _Generation)


def aggregate(
    evaluations: Columns,
    generations: Columns,
    *,
    asked: Iterable[Pair],
    metrics: Sequence[str],
    run_id: str,
    benchmark: str,
    model: str,
    benchmark_version: str = "",
    interrupted: bool = False,
    n_given_up: int = 0,
    created_at: float | None = None,
    selection: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Report:
    """The report over exactly the pairs asked. Pure: rows in any order, from any backend, give the same bits.

    `evaluations` and `generations` are EVALUATION_COLUMNS and GENERATION_COLUMNS, as Arrow tables or as
    lists; rows of other pairs or metrics are left out. `asked` are the pairs of this call; those that an
    interruption left unasked belong to them: they count as attempted, and are "missing". `metrics` are names
    in the order in which the report has them, the main metric first. `interrupted` says whether the run was
    stopped before it had asked everything, `n_given_up` how many were not asked again after too many calls without
    an answer. The rest is the report's own.

    Raises:
        UsageError: Two rows stand for one pair (and metric): they come from several runs, or several scorers.
    """
    pairs = sorted(set(asked))
    answers = _answers(generations, pairs)
    failures = _failures(pairs, answers)
    scored = _scored(evaluations, metrics, pairs)
    results = {name: _result(name, pairs, scored[name], failures) for name in metrics}
    complete = all(result.n_scored == result.n_attempted for result in results.values())
    return Report(
        run_id=run_id,
        benchmark=benchmark,
        model=model,
        benchmark_version=benchmark_version,
        status="interrupted" if interrupted else "complete" if complete else "partial",
        created_at=created_at,
        n_rows=len({sample for sample, _ in pairs}),
        n_repeats=max(Counter(sample for sample, _ in pairs).values(), default=0),
        selection=selection or {},
        metrics=results,
        errors=_counts(failures.values()),
        n_given_up=n_given_up,
        usage=_usage(list(answers.values())),
        config=config or {},
        provenance=provenance or {},
    )


def group_results(
    evaluations: Columns,
    generations: Columns,
    *,
    asked: Iterable[Pair],
    metric: str,
    groups: Mapping[str, str | None],
) -> dict[str, MetricResult]:
    """One metric's results by group, sorted; `groups` gives the group of every sample id, None for none."""
    pairs = sorted(set(asked))
    failures = _failures(pairs, _answers(generations, pairs))
    scored = _scored(evaluations, [metric], pairs)[metric]
    by_group: dict[str, list[Pair]] = {}
    for pair in pairs:
        if (group := groups.get(pair[0])) is not None:
            by_group.setdefault(group, []).append(pair)
    return {group: _result(metric, by_group[group], scored, failures, group) for group in sorted(by_group)}


def _rows(columns: Columns, row: Callable[..., R], names: Sequence[str]) -> Iterator[R]:
    taken = [columns[name] for name in names]
    lists = (column.to_pylist() if hasattr(column, "to_pylist") else column for column in taken)
    return (row(*values) for values in zip(*map(_shared, lists), strict=True))


def _shared(values: Sequence[Any]) -> list[Any]:
    """The values, equal texts as one object: most columns hold a word or two, ten thousand times."""
    first: dict[Any, Any] = {}
    return [first.setdefault(value, value) if type(value) is str else value for value in values]


def _answers(generations: Columns, pairs: Sequence[Pair]) -> dict[Pair, _Generation]:
    rows = _rows(generations, _Generation, GENERATION_COLUMNS)
    return _by_pair(rows, pairs, "generations")


def _scored(evaluations: Columns, metrics: Sequence[str], pairs: Sequence[Pair]) -> dict[str, dict[Pair, _Evaluation]]:
    rows: dict[str, list[_Evaluation]] = {name: [] for name in metrics}
    for row in _rows(evaluations, _Evaluation, EVALUATION_COLUMNS):
        if row.metric in rows:
            rows[row.metric].append(row)
    return {name: _by_pair(found, pairs, f"evaluations by {name}") for name, found in rows.items()}


def _by_pair(rows: Iterable[R], pairs: Sequence[Pair], what: str) -> dict[Pair, R]:
    """The rows of the pairs, in the order of the pairs: from here on the order of storage is gone."""
    asked = set(pairs)
    found: dict[Pair, R] = {}
    for row in rows:
        pair = (row.sample_id, row.repeat)
        if pair in found:
            raise UsageError(
                f"there are two {what} of sample {row.sample_id!r}, repeat {row.repeat}; "
                "give the rows of one run and one scorer"
            )
        if pair in asked:
            found[pair] = row
    return {pair: found[pair] for pair in pairs if pair in found}


def _failures(pairs: Sequence[Pair], answers: Mapping[Pair, _Generation]) -> dict[Pair, str]:
    """The kind of error of every pair without a response; "missing" where there is no record."""
    kinds: dict[Pair, str] = {}
    for pair in pairs:
        if pair not in answers:
            kinds[pair] = "missing"
        elif answers[pair].status == "error":
            kinds[pair] = answers[pair].error_kind or "infrastructure"
    return kinds


def _result(
    name: str,
    pairs: Sequence[Pair],
    rows: Mapping[Pair, _Evaluation],
    failures: Mapping[Pair, str],
    group: str | None = None,
) -> MetricResult:
    kept = [rows[pair] for pair in pairs if pair in rows and rows[pair].score is not None]
    scores = [row.score for row in kept if row.score is not None]
    stderr, method, interval = _uncertainty(scores, [row.sample_id for row in kept])
    low, high = interval or (None, None)
    bound_low, bound_high = stats.missing_bounds(scores, len(pairs)) or (None, None)
    lost = (pair for pair in pairs if pair not in rows or rows[pair].score is None)
    return MetricResult(
        metric=name,
        group=group,
        mean=stats.mean(scores),
        stderr=stderr,
        stderr_method=method,
        ci_low=low,
        ci_high=high,
        n_attempted=len(pairs),
        n_scored=len(scores),
        n_unanswered=sum(row.answer is None for row in kept),
        errors=_counts(_reason(rows.get(pair), failures.get(pair)) for pair in lost),
        bound_low=bound_low,
        bound_high=bound_high,
    )


def _reason(row: _Evaluation | None, failure: str | None) -> str:
    """Why a pair has no score. A model's own outcome is never a reason: it is scored, or its score is missing."""
    if row is not None:
        return row.error_kind or "scorer"
    return failure if failure and failure != "model" else "missing"


def _uncertainty(
    scores: Sequence[float], samples: Sequence[str]
) -> tuple[float | None, str | None, tuple[float, float] | None]:
    """Standard error, how it was computed, and interval: Wilson's for 0 and 1 without repeats, else Student's."""
    center, n_samples = stats.mean(scores), len(set(samples))
    if center is None:
        return None, None, None
    repeated = n_samples < len(scores)
    stderr = stats.clustered_standard_error(scores, samples)
    method = None if stderr is None else "clustered by sample" if repeated else "independent samples"
    if not repeated and all(score in {0, 1} for score in scores):
        return stderr, method, stats.wilson_interval(math.fsum(scores), len(scores))
    interval = stats.t_interval(center, stderr, n_samples - 1)
    if interval and all(0 <= score <= 1 for score in scores):
        interval = max(interval[0], 0.0), min(interval[1], 1.0)
    return stderr, method, interval


def _counts(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))


def _usage(rows: Sequence[_Generation]) -> dict[str, Any]:
    """Requests, attempts, and sums of tokens; None where no server told a number."""
    return {
        "requests": len(rows),
        "attempts": sum(row.attempts or 0 for row in rows),
        "input_tokens": _sum(row.input_tokens for row in rows),
        "output_tokens": _sum(row.output_tokens for row in rows),
        "reasoning_tokens": _sum(row.reasoning_tokens for row in rows),
        "cached_input_tokens": _sum(row.cached_input_tokens for row in rows),
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
