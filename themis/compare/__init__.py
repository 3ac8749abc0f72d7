"""compare(): runs beside each other, paired on their samples."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from themis import stats
from themis.compare.values import ComparedRun, Comparison, Flip, MetricDifference, SetupDifference
from themis.errors import UsageError
from themis.registry import unknown
from themis.stats._given import check_probability

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from themis.backends.storage import StorageBackend
    from themis.compare._runs import StoredRun
    from themis.records import Report
    from themis.result import Result
    from themis.scoring.base import Metric

__all__ = ["ComparedRun", "Comparison", "Flip", "MetricDifference", "SetupDifference", "compare"]


def compare(
    baseline: str | os.PathLike[str] | Result | Report,
    *runs: str | os.PathLike[str] | Result | Report,
    metrics: Sequence[str | Metric] | str | Metric | None = None,
    storage: str | os.PathLike[str] | None = None,
    storage_backend: StorageBackend | None = None,
    allow_different: bool | str | Iterable[str] = False,
    all_pairs: bool = False,
    cluster: str | None = None,
    level: float = 0.95,
    flips: int | None = 5,
    seed: int = 0,
) -> Comparison:
    """How runs differ from the first one on the samples that they share: intervals, tests, samples that flipped.

    Differences are paired: repeats are averaged within a sample, and the standard error is that of the samples'
    differences. The test is McNemar's exact one for scores of 0 and 1 without repeats, else a paired permutation test;
    p-values are corrected by Holm's method for all metrics and runs of the call. Nothing is asked and nothing is
    scored: what is stored is read, by columns.

    Args:
        baseline: The run that the others are compared with: its id, "URL/ID" (its folder), a Result or a Report.
        runs: The others.
        metrics: Names; default all that the runs have in common, the baseline's main metric first. A metric that pools
            sums by code of your own is given itself: stored scores do not tell how.
        storage: Where ids are looked up; default $THEMIS_STORAGE, else ./.themis/runs.
        storage_backend: The same as an object, which is not closed.
        allow_different: What may differ besides the model: True for all, or names out of "benchmark", "version",
            "data", "prompt", "params", "scorer". The result says what does.
        all_pairs: Compare each run with each, not only with the first.
        cluster: "sample" or "group": what the standard error clusters by. Default: what the runs' reports did.
        level: Of intervals; findings are those with a corrected p-value below one minus this.
        flips: How many flipped samples are read with prompt, target and answers, for each difference; None for all.
        seed: Of the permutation test's draws, where there are too many samples to try every sign.

    Raises:
        UsageError: The runs differ in more than is allowed, share no sample, or lack a metric.
        RunNotFoundError: There is no run of that id.
    """
    from themis.compare._flips import with_flips
    from themis.compare._pairs import Settings, metric_difference
    from themis.compare._runs import open_runs
    from themis.compare._setup import check_aspects, refuse, setup_differences

    allowed = check_aspects(allow_different)
    if not runs:
        raise UsageError("there is one run only: give the baseline and at least one other")
    if storage is not None and storage_backend is not None:
        raise UsageError(f"storage={storage!r} and storage_backend={storage_backend!r} both say where runs are")
    _check_options(cluster, level, flips)
    with ExitStack() as stack:
        stored = open_runs(stack, (baseline, *runs), storage, storage_backend)
        _check_distinct(stored)
        pairs = list(combinations(stored, 2)) if all_pairs else [(stored[0], run) for run in stored[1:]]
        _check_overlap(pairs)
        wanted, given = _wanted(metrics)
        setup = [each for pair in pairs for each in setup_differences(*pair, wanted)]
        refuse(setup, allowed)
        names = _metrics(stored, wanted)
        settings = Settings(cluster, level, seed, given)
        found = [metric_difference(*pair, name, settings) for name in names for pair in pairs]
        by_label, changed = {run.label: run for run in stored}, {each.run for each in setup}
        found = with_flips(_corrected(found), by_label, flips, changed)
    return Comparison(list(map(_compared, stored)), found, setup, _correction(found))


def _wanted(metrics: Sequence[str | Metric] | str | Metric | None) -> tuple[list[str] | None, dict[str, Metric]]:
    """The names that are meant, None for all; and the metrics that were given themselves."""
    if metrics is None:
        return None, {}
    from themis.scoring.base import Metric

    each = list(metrics) if isinstance(metrics, Iterable) and not isinstance(metrics, str) else [metrics]
    if not each or not all(isinstance(metric, str | Metric) for metric in each):
        raise UsageError(f"metrics={metrics!r:.100}: give names or Metrics, one at least, or None for all")
    given = {metric.name: metric for metric in each if not isinstance(metric, str)}
    return [metric if isinstance(metric, str) else metric.name for metric in each], given


def _check_options(cluster: str | None, level: float, flips: int | None) -> None:
    if cluster not in {None, "sample", "group"}:
        raise UsageError(unknown("cluster", str(cluster), ["sample", "group"]))
    check_probability("level", level)
    if flips is not None and flips < 0:
        raise UsageError(f"flips={flips!r}: give a number from 0, or None for all")


def _check_distinct(runs: Sequence[StoredRun]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for run in runs:
        if (repr(run.storage), run.run_id) in seen:
            raise UsageError(f"{run.run_id!r} is given twice: a run does not differ from itself")
        seen[repr(run.storage), run.run_id] = run.label


def _check_overlap(pairs: Iterable[tuple[StoredRun, StoredRun]]) -> None:
    for baseline, run in pairs:
        if not baseline.asked & run.asked:
            told = " and ".join(f"{each.label} has {_samples(each)}" for each in (baseline, run))
            raise UsageError(
                f"the runs have no sample in common: {told}. Compare runs of one benchmark over the same data"
            )


def _samples(run: StoredRun) -> str:
    names = sorted(run.asked)
    benchmark = run.config.get("benchmark") or (run.report.benchmark if run.report else "")
    first = f" from {names[0]!r} to {names[-1]!r}" if names else ""
    return f"{len(names)} of {benchmark or 'a benchmark'}{first}"


def _metrics(runs: Sequence[StoredRun], wanted: Sequence[str] | None) -> list[str]:
    """The metrics to compare.

    Raises:
        UsageError: No run has one of the wanted, or one run lacks it; or none are shared.
    """
    known = {run.label: _metric_names(run) for run in runs}
    if wanted is None:
        shared = [name for name in known[runs[0].label] if all(name in names for names in known.values())]
        if not shared:
            told = "; ".join(f"{label}: {', '.join(names) or 'none'}" for label, names in known.items())
            raise UsageError(f"the runs have no metric in common ({told}): score them by the same one first")
        return shared
    for name in wanted:
        lacking = [label for label, metrics in known.items() if name not in metrics]
        if len(lacking) == len(runs):
            raise UsageError(unknown("metric of these runs", name, set[str]().union(*known.values())))
        if lacking:
            has = ", ".join(known[lacking[0]]) or "none"
            raise UsageError(f"{lacking[0]} has no scores by {name!r}, but by {has}: score it by {name!r} first")
    return list(dict.fromkeys(wanted))


def _metric_names(run: StoredRun) -> list[str]:
    reported = [name for name in (run.report.metrics if run.report else ()) if name in run.scores]
    return [*reported, *sorted(run.scores.keys() - set(reported))]


def _corrected(differences: list[MetricDifference]) -> list[MetricDifference]:
    adjusted = stats.holm([each.p_value for each in differences])
    return [replace(each, p_adjusted=p) for each, p in zip(differences, adjusted, strict=True)]


def _correction(differences: Sequence[MetricDifference]) -> str:
    count = sum(each.p_value is not None for each in differences)
    return f"adjusted by Holm's method for {count} test{'s' * (count != 1)}"


def _compared(run: StoredRun) -> ComparedRun:
    report = run.report
    return ComparedRun(
        label=run.label,
        run_id=run.run_id,
        benchmark=run.config.get("benchmark") or (report.benchmark if report else ""),
        model=run.model,
        status=report.status if report else None,
        n_samples=len(run.asked),
    )
