"""From the scores of one metric to its MetricResult: the number, how sure it is, and what it leaves out."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from themis import stats
from themis.records import MetricResult

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

Pair: TypeAlias = tuple[str, int]
"""A sample's id and the number of the repeat: what is asked, and what a denominator counts."""


class Evaluation(NamedTuple):
    """What a report needs of an evaluation. `value` may be JSON text, as storages keep it."""

    metric: str
    sample_id: str
    repeat: int
    score: float | None
    status: str
    error_kind: str | None
    answer: str | None
    value: Any = None


class Counted(NamedTuple):
    """What a metric is counted over.

    Attributes:
        pairs: What was asked, sorted.
        rows: The evaluations of those that have one.
        failures: The kind of error of each pair without a response.
        pooled: Sums of the scores' values -> the number; None where it is the mean of the scores.
        clusters: Sample id -> group, where samples of one group depend on each other; None where they do not.
    """

    pairs: Sequence[Pair]
    rows: Mapping[Pair, Evaluation]
    failures: Mapping[Pair, str]
    pooled: Callable[[Sequence[float]], float] | None = None
    clusters: Mapping[str, str] | None = None


class _Certainty(NamedTuple):
    number: float | None = None
    stderr: float | None = None
    method: str | None = None
    interval: tuple[float, float] | None = None


def estimate(name: str, counted: Counted, group: str | None = None) -> MetricResult:
    """The result of one metric over what it is counted over."""
    pairs, rows = counted.pairs, counted.rows
    kept = [rows[pair] for pair in pairs if pair in rows and rows[pair].score is not None]
    scores = [row.score for row in kept if row.score is not None]
    sure = _pooled(kept, scores, counted) if counted.pooled else _mean(kept, scores, counted.clusters)
    low, high = sure.interval or (None, None)
    bound_low, bound_high = _bounds(scores, sure.number, counted) or (None, None)
    lost = (pair for pair in pairs if pair not in rows or rows[pair].score is None)
    return MetricResult(
        metric=name,
        group=group,
        mean=sure.number,
        stderr=sure.stderr,
        stderr_method=sure.method,
        ci_low=low,
        ci_high=high,
        n_attempted=len(pairs),
        n_scored=len(scores),
        n_unanswered=sum(row.answer is None for row in kept),
        errors=counts(_reason(rows.get(pair), counted.failures.get(pair)) for pair in lost),
        bound_low=bound_low,
        bound_high=bound_high,
    )


def estimate_groups(name: str, counted: Counted, groups: Mapping[str, str | None]) -> dict[str, MetricResult]:
    """The results of one metric by group, sorted; `groups` gives the group of every sample id, None for none."""
    by_group: dict[str, list[Pair]] = {}
    for pair in counted.pairs:
        if (group := groups.get(pair[0])) is not None:
            by_group.setdefault(group, []).append(pair)
    return {group: estimate(name, counted._replace(pairs=by_group[group]), group) for group in sorted(by_group)}


def macro(results: Iterable[MetricResult]) -> tuple[float | None, float | None]:
    """The mean of the groups' means and its standard error; groups without a score do not count."""
    scored = [result for result in results if result.mean is not None]
    means = [result.mean for result in scored if result.mean is not None]
    found = stats.macro_average(means, [result.stderr for result in scored])
    return found or (None, None)


def counts(kinds: Iterable[str]) -> dict[str, int]:
    """How often each is there, sorted by name."""
    return dict(sorted(Counter(kinds).items()))


def _reason(row: Evaluation | None, failure: str | None) -> str:
    """Why a pair has no score. A model's own outcome is never a reason: it is scored, or its score is missing."""
    if row is not None:
        return row.error_kind or "scorer"
    return failure if failure and failure != "model" else "missing"


def _bounds(scores: Sequence[float], number: float | None, counted: Counted) -> tuple[float, float] | None:
    """What missing scores could make of the number; of a pooled one that cannot be told."""
    if not counted.pooled:
        return stats.missing_bounds(scores, len(counted.pairs))
    return (number, number) if number is not None and len(scores) == len(counted.pairs) else None


def _mean(kept: Sequence[Evaluation], scores: Sequence[float], groups: Mapping[str, str] | None) -> _Certainty:
    """The mean; Wilson's interval for 0 and 1 where all are independent, else Student's over the clusters."""
    center = stats.mean(scores)
    if center is None:
        return _Certainty()
    clusters, method = _clusters(kept, groups)
    stderr = stats.clustered_standard_error(scores, clusters)
    n_clusters = len(set(clusters))
    if n_clusters == len(scores) and all(score in {0, 1} for score in scores):
        interval = stats.wilson_interval(math.fsum(scores), len(scores))
    else:
        interval = _within(scores, stats.t_interval(center, stderr, n_clusters - 1))
    return _Certainty(center, stderr, None if stderr is None else method, interval)


def _clusters(kept: Sequence[Evaluation], groups: Mapping[str, str] | None) -> tuple[list[Hashable], str]:
    """The cluster of each score, and what standard errors over them are called."""
    samples: list[Hashable] = [row.sample_id for row in kept]
    n_samples = len(set(samples))
    if groups is not None:
        joint: list[Hashable] = [cluster(row.sample_id, groups) for row in kept]
        if len(set(joint)) < n_samples:
            return joint, "clustered by group"
    return samples, "clustered by sample" if n_samples < len(kept) else "independent samples"


def cluster(sample: str, groups: Mapping[str, str] | Mapping[str, str | None]) -> Hashable:
    """What a sample's scores cluster by: its group, or by itself where it has none."""
    group = groups.get(sample)
    return ("sample", sample) if group is None else ("group", group)


def _within(scores: Sequence[float], interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """The interval, inside [0, 1] where all scores are."""
    if interval and all(0 <= score <= 1 for score in scores):
        return max(interval[0], 0.0), min(interval[1], 1.0)
    return interval


def _pooled(kept: Sequence[Evaluation], scores: Sequence[float], counted: Counted) -> _Certainty:
    """The number of the summed values, and Student's interval with the jackknife's standard error."""
    clusters, method = _clusters(kept, counted.clusters)
    values: dict[Hashable, list[list[float]]] = {}
    for row, cluster in zip(kept, clusters, strict=True):
        value = json.loads(row.value) if isinstance(row.value, str) else row.value
        values.setdefault(cluster, []).append(value)
    if len({len(value) for rows in values.values() for value in rows}) > 1:
        logger.warning("a pooled metric gave values of different lengths, which have no sums: there is no number")
        return _Certainty()
    parts = [added(summands) for summands in values.values()]
    number = _number(counted.pooled, added(parts)) if parts else None
    stderr = None if number is None else jackknife_standard_error(parts, counted.pooled)
    if number is None or stderr is None:
        return _Certainty(number)
    interval = stats.t_interval(number, stderr, len(parts) - 1)
    unit = "groups" if method == "clustered by group" else "samples"
    return _Certainty(number, stderr, f"jackknife over {unit}", _within([*scores, number], interval))


def jackknife_standard_error(parts: Sequence[Sequence[float]], pooled: Any) -> float | None:
    """Standard error of pooled(sum of the parts) by leaving out one part after the other.

    None for fewer than two parts, and where one cannot be left out.
    """
    total, n = added(parts), len(parts)
    if n < 2:
        return None
    left = [_number(pooled, without(total, part)) for part in parts]
    numbers = [number for number in left if number is not None]
    return stats.jackknife_standard_error(numbers) if len(numbers) == n else None


def added(rows: Sequence[Sequence[float]]) -> list[float]:
    """The element-wise sums, exact."""
    return [math.fsum(column) for column in zip(*rows, strict=True)]


def without(total: Sequence[float], part: Sequence[float]) -> list[float]:
    """The sums less those of one part."""
    return [whole - one for whole, one in zip(total, part, strict=True)]


def _number(pooled: Any, sums: Sequence[float]) -> float | None:
    """What a metric makes of sums; None where it cannot: the report of the others must not be lost for that."""
    try:
        number = float(pooled(sums))
    except Exception:
        logger.warning("a pooled metric made no number of the sums %s", list(sums), exc_info=True)
        return None
    return number if math.isfinite(number) else None
