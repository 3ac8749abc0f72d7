"""One run on its way: ask what has no answer, score what has no score, report what is stored."""

from __future__ import annotations

import inspect
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from themis.backends._engine import Results
from themis.backends._slots import run_coroutine
from themis.backends.execution import DEFAULT_MAX_WORKERS, EngineBackend
from themis.errors import RunMismatchError
from themis.plan import Plan, Selection
from themis.provenance import provenance
from themis.recorder import Recorder
from themis.report import EVALUATION_COLUMNS, GENERATION_COLUMNS, aggregate
from themis.result import Result
from themis.stored import RETRIED, Stored, counted, open_run
from themis.work import AsyncWork, BlockingWork, Done, Item, Scoring, lost, score_stored, unscorable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

    from themis.backends import ExecutionBackend, StorageBackend
    from themis.backends._engine import MapProgress
    from themis.records import EvaluationRecord, GenerationRecord, Report, Sample
    from themis.scoring.base import Metric

logger = logging.getLogger(__name__)

DEAD_AFTER = 3
"""Times the requests in progress: so many in a row without an answer mean that the endpoint is gone."""
DEAD_AT_LEAST = 10
"""But never fewer: a few questions in a row may well be such as break a server."""

LOOK_AHEAD_ITEMS = 2_000
LOOK_AHEAD_SECONDS = 0.5
"""How many items, and for how long, are read before the first request."""


@dataclass(frozen=True)
class Update:
    """What `on_result` hears of each new answer.

    Attributes:
        generation: The answer.
        evaluations: Its scores so far.
        n_done: Answers of this call so far, new and stored ones.
        n_total: How many it will be; None while the questions are still being read.
        progress: Of the backend's map over the model calls: what is with workers, was run again, how many nodes work;
            None for a backend of a user's own.
    """

    generation: GenerationRecord
    evaluations: list[EvaluationRecord]
    n_done: int
    n_total: int | None
    progress: MapProgress | None = None


class Health:
    """Tells from the answers as they come whether going on makes sense.

    Args:
        dead_after: So many errors of the infrastructure in a row mean that the endpoint is gone. Each stands for
            several attempts of the model over a minute or so.
        max_errors: The caller's own bound on errors, None for none.
    """

    def __init__(self, dead_after: int, max_errors: int | None) -> None:
        self._dead_after = dead_after
        self._max_errors = max_errors
        self._errors = 0
        self.in_a_row: list[Done] = []
        """The errors of the infrastructure since the last answer: they may well be the endpoint's."""

    def verdict(self, done: Done) -> str | None:
        """Why the run should stop after this answer; None to go on."""
        generation = done.generation
        if generation.status == "ok" or generation.error_kind == "model":
            self.in_a_row.clear()
            return None
        self._errors += 1
        if generation.error_kind == RETRIED:
            self.in_a_row.append(done)
        reason = f"{generation.error_type}: {generation.error_message}"
        if done.fatal:
            return reason
        if len(self.in_a_row) >= self._dead_after:
            return f"{len(self.in_a_row)} requests in a row had no answer, the last one for {reason}"
        if self._max_errors is not None and self._errors > self._max_errors:
            return f"{self._errors} errors are more than max_errors={self._max_errors}, the last one {reason}"
        return None


@dataclass
class Run:
    """One call of evaluate(), once its parts are there."""

    plan: Plan
    storage: StorageBackend
    run_id: str
    backend: ExecutionBackend
    max_workers: int | None
    timeout: float
    max_errors: int | None
    same_model: bool
    max_calls: int | None
    on_result: Callable[[Update], None] | None
    n_new: int = 0
    n_stored: int = 0
    n_given_up: int = 0
    stopped_by: str | None = None
    selection: Selection = field(default_factory=Selection)
    unscored: dict[str, tuple[Sample, Sequence[Metric]]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(init=False)
    stored: Stored = field(init=False)
    recorder: Recorder = field(init=False)
    launch: dict[str, Any] = field(init=False)
    health: Health = field(init=False)

    def result(self) -> Result:
        """Open the run, ask, score, report."""
        exists = self.storage.run_exists(self.run_id)
        self.metadata = open_run(self.storage, self.run_id, self.plan)
        self.launch = {"started_at": time.time(), "transport": self.plan.model.transport, **provenance()}
        self.storage.save_launch(self.run_id, self.launch)  # the proof that the storage can be written, on resume too
        self.stored = Stored(self.storage, self.run_id, exists=exists)
        self.recorder = Recorder(self.storage, self.run_id, enough=2 * self._in_progress())  # an answer and its sample
        self.health = Health(max(DEAD_AT_LEAST, DEAD_AFTER * self._in_progress()), self.max_errors)
        interrupt = None
        try:
            self._ask()
            self._score_rest()
        except KeyboardInterrupt as error:
            interrupt, self.stopped_by = error, "it was cancelled"
            self._forgive()
            self._cover_all()
        finally:
            self.recorder.close()
        report, first_errors = self._report()
        if interrupt is not None:
            raise interrupt
        return Result(report, self.storage, self.n_new, self.n_stored, self.stopped_by, first_errors, self.max_calls)

    def _ask(self) -> None:
        missing = self._missing()
        head = _look_ahead(missing)
        if not head:
            return
        self._preflight()
        timeout = None if self.plan.model.bounds_time else self.timeout
        with _closing(self._map(self._work(), chain(head, missing), timeout)) as outcomes:
            for outcome in outcomes:
                self.stopped_by = self.health.verdict(self._take(outcome, outcomes))
                if self.stopped_by:
                    logger.warning("run %s is interrupted: %s", self.run_id, self.stopped_by)
                    self._forgive()
                    self._take_finished(outcomes)
                    break
        for _ in missing:  # what an interruption left unasked stays in the denominator
            pass

    def _cover_all(self) -> None:
        """What the call covers, counted anew: Ctrl-C may have ended the iterator that notes it down."""
        if not self.selection.complete:
            self.selection = Selection()
            for item in self.plan.items():
                self.selection.add(item, self.plan.evaluation_ids(item))

    def _in_progress(self) -> int:
        if isinstance(self.backend, EngineBackend):
            return self.backend._limit(self.max_workers)  # noqa: SLF001 - the same package
        return self.max_workers or DEFAULT_MAX_WORKERS

    def _missing(self) -> Iterator[Item]:
        """The items without an answer, lazily; notes down what the call covers and what is left to score."""
        metrics = self.plan.metrics
        for item in self.plan.items():
            ids = self.plan.evaluation_ids(item)
            sample_hash = self.selection.add(item, ids)
            if sample_hash is not None and self.stored.samples.get(item.sample.id) != sample_hash:
                self.recorder.put(item.sample)
            answered = item.request.id in self.stored.answered
            if not answered and self._given_up(item.request.id):
                self.n_given_up += 1
                continue
            late = [
                metric
                for metric, name in zip(metrics, ids, strict=True)
                if (answered or metric.dear) and name not in self.stored.scored
            ]
            if late:
                self.unscored[item.request.id] = (item.sample, late)
            if answered:
                self.n_stored += 1
            else:
                yield item
        self.selection.complete = True

    def _take(self, outcome: Done | BaseException, outcomes: Iterator[Any]) -> Done:
        """Keep one outcome of the map: an answer, or the error for which a backend gave an item up."""
        done = outcome if isinstance(outcome, Done) else lost(outcome.item, outcome, self._light())  # type: ignore[attr-defined]
        self._check_served(done.generation)
        done = self._count_call(done)
        self.recorder.put(done)
        if done.unscored is not None:
            self._score_later(done, done.unscored)
        self.n_new += 1
        if self.on_result is not None:
            n_total = len(self.selection.pairs) if self.selection.complete else None
            progress = outcomes.progress if isinstance(outcomes, Results) else None
            n_done = self.n_new + self.n_stored
            self.on_result(Update(done.generation, done.evaluations, n_done, n_total, progress))
        return done

    def _given_up(self, name: str) -> bool:
        """Whether so many calls ended in an error of the infrastructure that this one does not ask again."""
        return self.max_calls is not None and self.stored.calls_without_answer.get(name, 0) >= self.max_calls

    def _count_call(self, done: Done) -> Done:
        """The outcome, its record with the count of calls where it ended in an error of the infrastructure."""
        generation = done.generation
        if generation.status == "ok" or generation.error_kind != RETRIED:
            return done
        calls = self.stored.calls_without_answer.get(generation.id, 0) + (not done.fatal)
        return done._replace(generation=counted(generation, calls))

    def _forgive(self) -> None:
        """Count the errors at the end of an interrupted run for nothing: they were the endpoint's, not the questions'.

        A key that is revoked or a server that is gone would otherwise use up the calls of whatever is asked first.
        """
        for done in self.health.in_a_row:
            calls = self.stored.calls_without_answer.get(done.generation.id, 0)
            self.recorder.put(done._replace(generation=counted(done.generation, calls)))

    def _score_later(self, done: Done, sample: Sample) -> None:
        """Let the metrics that a worker found slow score when the model calls are over, as the dear ones do."""
        scored = {evaluation.metric for evaluation in done.evaluations}
        late = [metric for metric in self.plan.metrics if metric.name not in scored]
        self.unscored[done.generation.id] = (sample, late)

    def _take_finished(self, outcomes: Iterator[Any]) -> None:
        """Keep the answers that arrived together with the one that ends the run: they are paid for."""
        if isinstance(outcomes, Results):
            for outcome in outcomes.finished():
                self.health.verdict(self._take(outcome, outcomes))
            self._forgive()

    def _light(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.plan.metrics if not metric.dear)

    def _work(self) -> AsyncWork | BlockingWork:
        model = self.plan.model
        on_loop = self.backend.supports_async and not model.blocking
        return (AsyncWork if on_loop else BlockingWork)(model, self._light())

    def _map(self, func: Callable[[Any], Any], items: Iterable[Any], timeout: float | None) -> Iterator[Any]:
        options: dict[str, Any] = {"ordered": False, "return_exceptions": True}
        if self.max_workers is not None:
            options["max_workers"] = self.max_workers
        if isinstance(self.backend, EngineBackend) and timeout is not None:
            options["timeout"] = timeout
        accepted = inspect.signature(self.backend.map).parameters
        return self.backend.map(func, items, **{name: value for name, value in options.items() if name in accepted})

    def _preflight(self) -> None:
        """Find what would make every request fail, before the first one.

        Raises:
            StorageError: What is answered could not be kept, or not be read again.
            RunMismatchError: The stored answers come from another endpoint.
            ModelError: There is no key, or no server.
        """
        self.storage.preflight(self.run_id)
        run_coroutine(self.plan.model.check())
        transport, known = self.plan.model.transport, self.metadata.get("transports", [])
        if transport in known:
            return
        if self.stored.answered and known and self.same_model:
            raise RunMismatchError(
                f"the stored answers of run {self.run_id!r} come from {', '.join(map(str, known))}, this call would "
                f"ask {transport}: another server may serve another model under the same name. {_CHANGED}"
            )
        self.metadata["transports"] = [*known, transport] if self.stored.answered else [transport]
        self.storage.save_run_metadata(self.run_id, self.metadata)

    def _check_served(self, generation: GenerationRecord) -> None:
        served, known = generation.model_served, self.stored.models_served
        if self.same_model and served is not None and known and served not in known:
            raise RunMismatchError(
                f"the stored answers of run {self.run_id!r} were given by {', '.join(sorted(known))}, now the server "
                f"answers as {served}: a report over both would describe neither. {_CHANGED}"
            )

    def _score_rest(self) -> None:
        """Score stored answers that lack an evaluation, and by the dear metrics those that are new."""
        if not self.unscored or self.stopped_by:
            return
        self.recorder.wait()
        items = (
            Scoring(sample, generation, metrics)
            for generation in self.storage.load_generation_records(self.run_id)
            if generation.id in self.unscored
            for sample, metrics in [self.unscored[generation.id]]
        )
        for outcome in self._map(score_stored, items, self.timeout):
            given_up = isinstance(outcome, BaseException)
            self.recorder.put(unscorable(outcome.item, outcome) if given_up else outcome)

    def _report(self) -> tuple[Report, dict[str, str]]:
        """The report over exactly what this call covers, made from what is stored; the first error of each kind."""
        self.storage.flush()
        generations = self.storage.scan(self.run_id, "generations", ["id", *GENERATION_COLUMNS])
        scores = self.storage.scan(self.run_id, "evaluations", ["id", *EVALUATION_COLUMNS, *_ERROR_COLUMNS])
        evaluations = self.selection.evaluations(scores)
        plan, origin = self.plan, self._provenance()
        report = aggregate(
            evaluations,
            self.selection.generations(generations),
            asked=self.selection.pairs,
            metrics=[metric.name for metric in plan.metrics],
            run_id=self.run_id,
            benchmark=plan.benchmark.name,
            model=plan.model.name,
            benchmark_version=plan.benchmark.version,
            interrupted=self.stopped_by is not None,
            n_given_up=self.n_given_up,
            created_at=time.time(),
            selection={"limit": plan.limit, "num_samples": plan.num_samples},
            config={**plan.config(), "metrics": {m.name: {"version": m.version, **m.config()} for m in plan.metrics}},
            provenance=origin,
        )
        self.storage.save_report(self.run_id, report)
        self.storage.save_launch(self.run_id, {**origin, "ended_at": time.time(), "status": report.status})
        return report, _first_errors(evaluations)

    def _provenance(self) -> dict[str, Any]:
        return {
            **self.launch,
            "data": {"source": self.plan.benchmark.source, "fingerprint": self.selection.fingerprint()},
            "execution": {**self.backend.describe(), "max_workers": self.max_workers},
        }


_CHANGED = "Begin a new run (fresh=True, --fresh), or allow it (allow_changed_model=True, --allow-changed-model)"


_ERROR_COLUMNS = ("error_type", "error_message")


def _first_errors(evaluations: pa.Table) -> dict[str, str]:
    """For each kind of error the first one in the order of sample ids, in words."""
    names = ["error_kind", "sample_id", "repeat", *_ERROR_COLUMNS]
    rows = zip(*(evaluations[name].to_pylist() for name in names), strict=True)
    first: dict[str, str] = {}
    for kind, sample, _, error, message in sorted((row for row in rows if row[0]), key=lambda row: row[:3]):
        first.setdefault(kind, f"sample {sample}: {error}: {message}")
    return first


def _look_ahead(items: Iterator[Item]) -> list[Item]:
    """The first items: a row that cannot be used is then found before any request is paid for."""
    until = time.monotonic() + LOOK_AHEAD_SECONDS
    head: list[Item] = []
    for item in items:
        head.append(item)
        if len(head) >= LOOK_AHEAD_ITEMS or time.monotonic() > until:
            break
    return head


@contextmanager
def _closing(iterator: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Closes the iterator at the end where it can be closed; a user's backend may return any iterable."""
    try:
        yield iterator
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
