"""One run on its way: ask what has no answer, score what has no score, report what is stored."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from themis.backends._engine import Results
from themis.backends._slots import run_coroutine
from themis.errors import RunMismatchError
from themis.health import Health
from themis.maps import Maps, closing
from themis.plan import Plan, Selection
from themis.provenance import provenance
from themis.recorder import Recorder
from themis.rescoring import Rescoring, report
from themis.result import Result
from themis.scorers import is_late
from themis.stored import Stored, open_run
from themis.work import Done, Item, lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from themis.backends import ExecutionBackend, StorageBackend
    from themis.backends._engine import MapProgress
    from themis.records import EvaluationRecord, GenerationRecord, Report, Sample

logger = logging.getLogger(__name__)

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
    unscored: dict[str, tuple[Sample, list[int]]] = field(default_factory=dict)
    maps: Maps = field(init=False)
    rescoring: Rescoring = field(init=False)
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
        self.maps = Maps(self.backend, self.max_workers, self.timeout)
        in_progress = self.maps.in_progress()
        self.recorder = Recorder(self.storage, self.run_id, enough=2 * in_progress)  # an answer and its sample
        self.health = Health(in_progress, self.max_errors)
        self.rescoring = Rescoring(
            self.storage, self.run_id, self.plan.scorers, self.maps, self.recorder, self.stored, self.max_calls
        )
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
        found, first_errors = self._report()
        if interrupt is not None:
            raise interrupt
        return Result(
            found,
            self.storage,
            self.n_new,
            self.n_stored,
            self.stopped_by,
            first_errors,
            self.max_calls,
            self.rescoring.n_judge_calls,
        )

    def _ask(self) -> None:
        missing = self._missing()
        head = _look_ahead(missing)
        if not head:
            return
        self._preflight()
        asking = self.maps.ask(self.plan.model, self.plan.scorers.beside_calls(), chain(head, missing))
        with closing(asking) as outcomes:
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
                self.selection.add(item, self._evaluation_ids(item))

    def _evaluation_ids(self, item: Item) -> list[str]:
        return self.plan.scorers.evaluation_ids(item.request.id, item.sample.target)

    def _missing(self) -> Iterator[Item]:
        """The items without an answer, lazily; notes down what the call covers and what is left to score."""
        each = self.plan.scorers.each
        for item in self.plan.items():
            ids = self._evaluation_ids(item)
            sample_hash = self.selection.add(item, ids)
            if sample_hash is not None and self.stored.samples.get(item.sample.id) != sample_hash:
                self.recorder.put(item.sample)
            answered = item.request.id in self.stored.answered
            if not answered and self.stored.given_up(item.request.id, self.max_calls):
                self.n_given_up += 1
                continue
            if answered:
                late = [place for place, name in enumerate(ids) if name not in self.stored.scored]
            else:  # a score that is there is of an answer that was lost: the new one may be another
                late = [place for place, metric in enumerate(each) if is_late(metric)]
            if late:
                self.unscored[item.request.id] = (item.sample, late)
            if answered:
                self.n_stored += 1
            else:
                yield item
        self.selection.complete = True

    def _take(self, outcome: Done | BaseException, outcomes: Iterator[Any]) -> Done:
        """Keep one outcome of the map: an answer, or the error for which a backend gave an item up."""
        done = outcome if isinstance(outcome, Done) else self._lost(outcome)
        self._check_served(done.generation)
        done = self.stored.counted(done)
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

    def _lost(self, error: Any) -> Done:
        return lost(error.item, error, self.plan.scorers.beside_calls())

    def _forgive(self) -> None:
        """Count the errors at the end of an interrupted run for nothing: they were the endpoint's, not the questions'.

        A key that is revoked or a server that is gone would otherwise use up the calls of whatever is asked first.
        """
        for done in self.health.in_a_row:
            self.recorder.put(self.stored.counted(done, now=False))

    def _score_later(self, done: Done, sample: Sample) -> None:
        """Let the metrics that a worker found slow score when the model calls are over, as the late ones do."""
        ids = self.plan.scorers.evaluation_ids(done.generation.id, sample.target)
        scored = {evaluation.id for evaluation in done.evaluations}
        late = [place for place, name in enumerate(ids) if name not in scored]
        self.unscored[done.generation.id] = (sample, late)

    def _take_finished(self, outcomes: Iterator[Any]) -> None:
        """Keep the answers that arrived together with the one that ends the run: they are paid for."""
        if isinstance(outcomes, Results):
            for outcome in outcomes.finished():
                self.health.verdict(self._take(outcome, outcomes))
            self._forgive()

    def _preflight(self) -> None:
        """Find what would make every request fail, before the first one.

        Raises:
            StorageError: What is answered could not be kept, or not be read again.
            RunMismatchError: The stored answers come from another endpoint.
            ModelError: There is no key, or no server.
        """
        self.storage.preflight(self.run_id)
        run_coroutine(self.plan.model.check())
        self.rescoring.check_judges()
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
        """Score stored answers that lack an evaluation, and by the late metrics those that are new."""
        if not self.unscored or self.stopped_by:
            return
        self.recorder.wait()
        self.stopped_by = self.rescoring.score(self.unscored)
        if self.stopped_by:
            logger.warning("run %s is interrupted: %s", self.run_id, self.stopped_by)

    def _report(self) -> tuple[Report, dict[str, str]]:
        """The report over exactly what this call covers, made from what is stored; the first error of each kind."""
        plan, origin = self.plan, self._provenance()
        found, first_errors = report(
            self.storage,
            self.run_id,
            plan.scorers,
            self.selection,
            benchmark=plan.benchmark.name,
            model=plan.model.name,
            benchmark_version=plan.benchmark.version,
            clustered=plan.benchmark.clustered,
            interrupted=self.stopped_by is not None,
            n_given_up=self.n_given_up,
            selection={"limit": plan.limit, "num_samples": plan.num_samples},
            config={**plan.config(), "metrics": plan.scorers.config()},
            provenance=origin,
        )
        self.storage.save_report(self.run_id, found)
        self.storage.save_launch(self.run_id, {**origin, "ended_at": time.time(), "status": found.status})
        return found, first_errors

    def _provenance(self) -> dict[str, Any]:
        return {
            **self.launch,
            "data": {"source": self.plan.benchmark.source, "fingerprint": self.selection.fingerprint()},
            "execution": {**self.backend.describe(), "max_workers": self.max_workers},
        }


_CHANGED = "Begin a new run (fresh=True, --fresh), or allow it (allow_changed_model=True, --allow-changed-model)"


def _look_ahead(items: Iterator[Item]) -> list[Item]:
    """The first items: a row that cannot be used is then found before any request is paid for."""
    until = time.monotonic() + LOOK_AHEAD_SECONDS
    head: list[Item] = []
    for item in items:
        head.append(item)
        if len(head) >= LOOK_AHEAD_ITEMS or time.monotonic() > until:
            break
    return head
