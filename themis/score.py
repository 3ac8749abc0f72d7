"""score(): more metrics for a run that is stored, without a model call and without the benchmark's data."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from themis.backends import ExecutionBackend, LocalExecutionBackend
from themis.backends._slots import run_coroutine
from themis.benchmarks import benchmark_names, load_benchmark
from themis.covered import Covered
from themis.evaluate import BACKENDS, check_counts, check_instance, check_timeout, load_metrics, open_storage
from themis.judging import load_judges
from themis.maps import Maps
from themis.plan import Selection
from themis.provenance import provenance
from themis.recorder import Recorder
from themis.rescoring import Rescoring, report
from themis.result import Result
from themis.scorers import Scorers
from themis.scoring.needs import check_fit
from themis.scoring.repeats import check_repeats
from themis.stored import Stored

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from themis.backends import StorageBackend
    from themis.benchmarks.base import Benchmark
    from themis.models.base import Model
    from themis.models.function import ModelFunction
    from themis.records import Report, Sample
    from themis.scoring import MetricLike

SCORES_AT_ONCE = 1_000
"""Scores that are saved together."""


def score(
    run_id: str,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    *,
    benchmark: str | os.PathLike[str] | Benchmark | None = None,
    execution_backend: ExecutionBackend | None = None,
    storage_backend: StorageBackend | None = None,
    storage: str | os.PathLike[str] | None = None,
    judge_model: str | Model | ModelFunction | None = None,
    judge_base_url: str | None = None,
    max_workers: int | None = None,
    timeout: float = 600.0,
    max_retries: int = 5,
    max_calls: int | None = 5,
) -> Result:
    """The result of scoring a stored run by these metrics; only scores that are missing are computed.

    Works for whatever has stored samples and generations, those that another tool's import wrote too. The report then
    has these metrics beside those that it had, in the place of those of the same name, over the same answers; without
    a report before, over all that are stored.

    Args:
        run_id: The run.
        metrics: Names, Metrics or functions; default those of the run's benchmark, at their present versions.
        benchmark: Whose metrics are meant by names; default the run's own, where it is known by name.
        execution_backend: Where the work runs; default threads of this process. It is not shut down.
        storage_backend: Where the run is; flushed, not closed. Or give `storage`.
        storage: A URL; default $THEMIS_STORAGE, else ./.themis/runs.
        judge_model: Whom metrics ask that ask a judge and do not say whom.
        judge_base_url: Where that one is served.
        max_workers: Answers in work at once, over all machines; default the backend's own.
        timeout: Seconds for the scores of one answer, and for one attempt of a call of a judge.
        max_retries: How often a call of a judge is sent again.
        max_calls: Give a call of a judge up when so many calls of this for the run ended in errors of the
            infrastructure for it; None for never.

    Raises:
        RunNotFoundError: There is no such run.
        UsageError: A name or an option cannot be used, or the run has no samples; found before anything is scored.
    """
    check_counts(max_workers=max_workers, max_calls=max_calls)
    check_counts(0, max_retries=max_retries)
    check_timeout(timeout)
    if execution_backend is not None:
        check_instance("execution_backend", execution_backend, ExecutionBackend, BACKENDS)
    store, owned = open_storage(storage_backend, storage)
    judges: list[Model] = []
    try:
        store.load_run_metadata(run_id)
        covered = Covered(store, run_id)
        meant = _benchmark(benchmark, covered.benchmark)
        wanted = load_metrics(metrics, meant.metrics if meant else ())
        check_repeats(wanted, covered.n_repeats, "give a smaller k, or ask more first: evaluate() with num_samples=")
        check_fit(wanted, covered.samples[0], covered.kind)
        judging: dict[str, Any] = {"base_url": judge_base_url, "timeout": timeout, "max_retries": max_retries}
        judged, judges = load_judges(wanted, judge_model, **judging)
        maps = Maps(execution_backend or LocalExecutionBackend(), max_workers, timeout)
        return _Scoring(store, run_id, covered, Scorers(judged), maps, meant, max_calls).result()
    finally:
        (store.close if owned else store.flush)()
        for model in judges:
            run_coroutine(model.close())


def _benchmark(given: Any, name: str) -> Benchmark | None:
    """The benchmark whose metrics names mean; its data is not opened."""
    if given is not None:
        return load_benchmark(given)
    return load_benchmark(name) if name in benchmark_names() else None


@dataclass
class _Scoring:
    """One call of score(), once its parts are there."""

    storage: StorageBackend
    run_id: str
    covered: Covered
    scorers: Scorers
    maps: Maps
    benchmark: Benchmark | None
    max_calls: int | None

    def result(self) -> Result:
        """Score what has no score, and report."""
        launch = {
            "started_at": time.time(),
            "scoring": [metric.name for metric in self.scorers.metrics],
            **provenance(),
        }
        self.storage.save_launch(self.run_id, launch)
        self.storage.preflight(self.run_id)
        stored = Stored(self.storage, self.run_id, exists=True, samples=False)
        selection, unscored = self._selected(stored)
        recorder = Recorder(self.storage, self.run_id, enough=SCORES_AT_ONCE)
        rescoring = Rescoring(self.storage, self.run_id, self.scorers, self.maps, recorder, stored, self.max_calls)
        try:
            stopped = rescoring.score(unscored)
        finally:
            recorder.close()
        found, first_errors = self._report(selection, stopped, launch)
        self.storage.save_report(self.run_id, found)
        self.storage.save_launch(self.run_id, {**launch, "ended_at": time.time(), "status": found.status})
        n_answers = found.usage.get("requests", 0)
        return Result(found, self.storage, 0, n_answers, stopped, first_errors, self.max_calls, rescoring.n_judge_calls)

    def _selected(self, stored: Stored) -> tuple[Selection, dict[str, tuple[Sample, list[int]]]]:
        """What is covered, and of each answer without some score its sample and the metrics."""
        selection, unscored = Selection(), {}
        none = [""] * len(self.scorers.each)
        scored = stored.scored if len(stored.scored) else frozenset[str]()
        for sample, repeat, name in self.covered.answers():
            ids = none if name is None else self.scorers.evaluation_ids(name, sample.target)
            selection.add_answer(sample, repeat, name or "", ids)
            places = [] if name is None else [place for place, one in enumerate(ids) if one not in scored]
            if name is not None and places:
                unscored[name] = (sample, places)
        selection.complete = True
        return selection, unscored

    def _report(
        self, selection: Selection, stopped: str | None, launch: dict[str, Any]
    ) -> tuple[Report, dict[str, str]]:
        before = self._before()
        scoring = {**launch, "execution": {**self.maps.backend.describe(), "max_workers": self.maps.max_workers}}
        found, first_errors = report(
            self.storage,
            self.run_id,
            self.scorers,
            selection,
            benchmark=before.benchmark if before else self.covered.benchmark,
            model=before.model if before else self.covered.model,
            benchmark_version=before.benchmark_version if before else self.benchmark.version if self.benchmark else "",
            clustered=self._clustered(),
            interrupted=stopped is not None,
            n_given_up=before.n_given_up if before else 0,
            selection=before.selection if before else {"limit": None, "num_samples": self.covered.n_repeats},
            config={"metrics": self.scorers.config()},
            provenance={**(before.provenance if before else {}), "scoring": scoring},
        )
        return (_merged(before, found) if before and self.covered.same else found), first_errors

    def _before(self) -> Report | None:
        """The report that is stored now, where another call has scored the same answers meanwhile; else as it was."""
        then = self.covered.report
        if then is None or not self.covered.same:
            return then
        now = self.storage.load_report(self.run_id)
        return now if _about(now) == _about(then) else then

    def _clustered(self) -> bool:
        if self.benchmark is not None:
            return self.benchmark.clustered
        before = self.covered.report
        return before is not None and any("group" in (one.stderr_method or "") for one in before.metrics.values())


def _about(report: Report) -> list[Any]:
    """Equal for reports over the same answers."""
    return [report.n_rows, report.n_repeats, report.selection, report.provenance.get("data"), report.errors]


def _merged(before: Report, found: Report) -> Report:
    """The earlier report with the metrics of the new one, over the same answers."""
    metrics = {**before.metrics, **found.metrics}
    groups = {**before.groups, **found.groups}
    complete = all(result.n_scored == result.n_attempted for result in metrics.values())
    interrupted = "interrupted" in {before.status, found.status}
    judges = {**before.usage.get("judge", {}), **found.usage.get("judge", {})}
    config = {**before.config, "metrics": {**before.config.get("metrics", {}), **found.config["metrics"]}}
    return replace(
        found,
        status="complete" if complete else "interrupted" if interrupted else "partial",
        metrics=metrics,
        groups={name: groups[name] for name in metrics if name in groups},
        usage={**found.usage, **({"judge": judges} if judges else {})},
        config=config,
    )
