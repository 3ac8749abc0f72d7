"""What a run found: columns of records -> Report."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from themis.errors import UsageError
from themis.estimates import Counted, Evaluation, Pair, counts, estimate, estimate_groups, macro
from themis.records import MetricResult, Report
from themis.scoring.base import PooledMetric, RepeatsMetric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from themis.scoring.base import Metric

__all__ = ["Pair", "aggregate", "group_results"]

Columns: TypeAlias = "pa.Table | Mapping[str, Sequence[Any]]"

MAX_GROUPS = 1_000
"""A report has no breakdown by more groups than these: group_results() gives it."""


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


EVALUATION_COLUMNS = Evaluation._fields
"""What aggregate() reads of evaluations."""
GENERATION_COLUMNS = _Generation._fields
"""What aggregate() reads of generations."""

R = TypeVar("R", Evaluation, _Generation)


def aggregate(
    evaluations: Columns,
    generations: Columns,
    *,
    asked: Iterable[Pair],
    metrics: Sequence[str | Metric],
    run_id: str,
    benchmark: str,
    model: str,
    benchmark_version: str = "",
    groups: Mapping[str, str] | None = None,
    clustered: bool = False,
    judge_calls: Mapping[str, Columns] | None = None,
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
    interruption left unasked belong to them: they count as attempted, and are "missing". `metrics` come in the order
    in which the report has them, the main metric first; a name stands for one whose number is the mean of its scores.
    `groups` gives the group of each sample that has one; `clustered` says that samples of one group depend on each
    other, otherwise results are broken down by group. `judge_calls` are GENERATION_COLUMNS of judges' calls, by metric.
    `interrupted` says whether the run was stopped before it had asked everything, `n_given_up` how many were not asked
    again after too many calls without an answer. The rest is the report's own.

    Raises:
        UsageError: Two rows stand for one pair (and metric): they come from several runs, or several scorers.
    """
    pairs = sorted(set(asked))
    answers = _answers(generations, pairs)
    failures = _failures(pairs, answers)
    counted = _counted(evaluations, metrics, pairs, failures, groups if clustered else None)
    results = {name: estimate(name, each) for name, each in counted.items()}
    by_group = {} if clustered else _by_group(counted, groups or {}, results)
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
        groups=by_group,
        errors=counts(failures.values()),
        n_given_up=n_given_up,
        usage=_usage(list(answers.values())) | _judge_usage(judge_calls),
        config=config or {},
        provenance=provenance or {},
    )


def group_results(
    evaluations: Columns,
    generations: Columns,
    *,
    asked: Iterable[Pair],
    metric: str | Metric,
    groups: Mapping[str, str | None],
) -> dict[str, MetricResult]:
    """One metric's results by group, sorted; `groups` gives the group of every sample id, None for none."""
    pairs = sorted(set(asked))
    failures = _failures(pairs, _answers(generations, pairs))
    ((name, counted),) = _counted(evaluations, [metric], pairs, failures, None).items()
    return estimate_groups(name, counted, groups)


def _counted(
    evaluations: Columns,
    metrics: Sequence[str | Metric],
    pairs: Sequence[Pair],
    failures: Mapping[Pair, str],
    clusters: Mapping[str, str] | None,
) -> dict[str, Counted]:
    """What each metric is counted over, by name: a metric over repeats has one row for each sample, its repeat 0."""
    by_name = {metric if isinstance(metric, str) else metric.name: metric for metric in metrics}
    over_repeats = any(isinstance(metric, RepeatsMetric) for metric in metrics)
    samples = sorted({(sample, 0) for sample, _ in pairs}) if over_repeats else []
    counted = {}
    for name, rows in _scored(evaluations, list(by_name), pairs, samples).items():
        metric = by_name[name]
        asked = samples if isinstance(metric, RepeatsMetric) else pairs
        pooled = metric.pooled if isinstance(metric, PooledMetric) else None
        counted[name] = Counted(asked, rows, failures, pooled, clusters)
    return counted


def _by_group(
    counted: Mapping[str, Counted], groups: Mapping[str, str], results: Mapping[str, MetricResult]
) -> dict[str, dict[str, MetricResult]]:
    """The breakdown of each metric, where there are several groups; its macro average goes into the results."""
    if not 1 < len(set(groups.values())) <= MAX_GROUPS:
        return {}
    found = {name: estimate_groups(name, each, groups) for name, each in counted.items()}
    for name, by_group in found.items():
        mean, stderr = macro(by_group.values())
        results[name].update(n_groups=_n_scored(by_group), macro_mean=mean, macro_stderr=stderr)
    return found


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


def _n_scored(by_group: Mapping[str, MetricResult]) -> int:
    return sum(result.mean is not None for result in by_group.values())


def _scored(
    evaluations: Columns, metrics: Sequence[str], pairs: Sequence[Pair], samples: Sequence[Pair]
) -> dict[str, dict[Pair, Evaluation]]:
    rows: dict[str, list[Evaluation]] = {name: [] for name in metrics}
    for row in _rows(evaluations, Evaluation, EVALUATION_COLUMNS):
        if row.metric in rows:
            rows[row.metric].append(row)
    asked = sorted({*pairs, *samples}) if samples else pairs
    return {name: _by_pair(found, asked, f"evaluations by {name}") for name, found in rows.items()}


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


def _judge_usage(calls: Mapping[str, Columns] | None) -> dict[str, Any]:
    """What judges cost by metric, apart from what the model did: {} where none was asked."""
    usage = {name: _usage(list(_rows(rows, _Generation, GENERATION_COLUMNS))) for name, rows in (calls or {}).items()}
    return {"judge": usage} if usage else {}


def _sum(numbers: Iterable[int | None]) -> int | None:
    told = [count for count in numbers if count is not None]
    return sum(told) if told else None
