"""Asking judges about stored answers: their calls are generations of the same run, asked and resumed as others are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError
from themis.maps import closing
from themis.models import load_model
from themis.plan import make_request
from themis.scoring.base import JudgedMetric, RepeatsMetric, failed_evaluation, judged_evaluation
from themis.stored import JUDGE
from themis.work import Done, Item, lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from themis.health import Health
    from themis.maps import Maps
    from themis.models.base import Model
    from themis.recorder import Recorder
    from themis.records import GenerationRecord, Request, Sample
    from themis.scoring.base import Metric, Question
    from themis.stored import Stored

logger = logging.getLogger(__name__)


def load_judges(metrics: Sequence[Metric], judge: Any, **options: Any) -> tuple[tuple[Metric, ...], list[Model]]:
    """The metrics with their judges loaded, and the models that were made here and have to be closed.

    Args:
        metrics: Those that ask no judge stay what they are.
        judge: The model of those that have none: what load_model takes, or None.
        options: Of load_model; base_url is the default judge's.

    Raises:
        UsageError: A metric has no judge, or there is one and no metric asks it.
    """
    made: dict[Any, Model] = {}

    def loaded(metric: Metric) -> Metric:
        if isinstance(metric, RepeatsMetric):
            base = loaded(metric.of)
            return metric if base is metric.of else metric.over(base)
        if not isinstance(metric, JudgedMetric) or metric.judge_id is not None:
            return metric
        own = metric.model is not None
        wanted = metric.model if own else judge
        if wanted is None:
            raise UsageError(
                f"the metric {metric.name!r} asks a judge, and there is none: give judge_model= (--judge-model), for "
                "example 'openai/gpt-4o', or the metric's own model="
            )
        key = wanted if isinstance(wanted, str) else id(wanted)
        base_url = None if own or not isinstance(wanted, str) else options.get("base_url")
        if (key, own) not in made:
            made[key, own] = load_model(wanted, **{**options, "base_url": base_url})
        model = made[key, own]
        return metric.judged_by(model, model.identity())

    found = tuple(map(loaded, metrics))
    if judge is not None and not made and not any(_asks(metric) for metric in found):
        names = ", ".join(metric.name for metric in metrics)
        raise UsageError(f"judge_model={judge!r}: no metric of {names} asks a judge; add one, for example 'judge'")
    return found, [model for (given, _), model in made.items() if given != id(model)]


def _asks(metric: Metric) -> bool:
    return isinstance(metric.of if isinstance(metric, RepeatsMetric) else metric, JudgedMetric)


@dataclass
class _Open:
    """An answer about which the judge has not said everything."""

    sample: Sample
    generation: GenerationRecord
    calls: list[str]
    answers: dict[str, GenerationRecord]


@dataclass
class Judging:
    """Scores stored answers by one metric that asks a judge.

    Attributes:
        metric: The metric, its judge loaded.
        maps: Where the judge is asked.
        stored: What the run had when it was opened.
        recorder: Takes the judge's answers and the scores.
        health: Tells when going on makes no sense.
        max_calls: Bound on the calls of one question, as in evaluate().
    """

    metric: JudgedMetric
    maps: Maps
    stored: Stored
    recorder: Recorder
    health: Health
    max_calls: int | None
    n_asked: int = 0
    _open: dict[str, _Open] = field(default_factory=dict)
    _owner: dict[str, str] = field(default_factory=dict)

    def judge(
        self, answers: Iterator[tuple[Sample, GenerationRecord]], said: Mapping[str, GenerationRecord]
    ) -> str | None:
        """Score all of these answers; why it stopped before the end, else None.

        Args:
            answers: What is judged, read as it is asked.
            said: What the judge said in an earlier call, by id.
        """
        model = self.metric.model
        with closing(self.maps.ask(model, (), self._questions(answers, said))) as outcomes:
            for outcome in outcomes:
                done = outcome if isinstance(outcome, Done) else lost(outcome.item, outcome, ())
                done = self.stored.counted(done)
                self.recorder.put(done)
                self.n_asked += 1
                self._heard(done.generation)
                if stopped := self.health.verdict(done):
                    self._forgive()
                    return f"judge {model.name}: {stopped}"
        return None

    def ids(self, sample: Sample, generation: GenerationRecord) -> list[str]:
        """Ids of the judge's calls about one answer; [] where its questions cannot be made."""
        try:
            return [request.id for request in self._requests(sample, generation)]
        except (Exception, SystemExit):  # noqa: BLE001 - it is a record once the answer is scored
            return []

    def _requests(self, sample: Sample, generation: GenerationRecord) -> list[Request]:
        if generation.status == "error":
            return []
        return [self._request(sample, generation, question) for question in self.metric.questions(sample, generation)]

    def _questions(
        self, answers: Iterator[tuple[Sample, GenerationRecord]], said: Mapping[str, GenerationRecord]
    ) -> Iterator[Item]:
        """The calls that nobody has answered, lazily; scores at once what needs none."""
        for sample, generation in answers:
            try:
                requests = self._requests(sample, generation)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - an error of the metric's own function
                self.recorder.put([failed_evaluation(self.metric, sample, generation, error)])
                continue
            calls = {request.id: request for request in requests}
            known = {name: said[name] for name in calls if self._stands(name, said)}
            self._open[generation.id] = _Open(sample, generation, [request.id for request in requests], known)
            self._settle(generation.id)
            for name, request in calls.items():
                if name not in known:
                    self._owner[name] = generation.id
                    yield Item(request, sample)

    def _stands(self, name: str, said: Mapping[str, GenerationRecord]) -> bool:
        """Whether this call is not to be made again."""
        return name in said and (name in self.stored.answered or self.stored.given_up(name, self.max_calls))

    def _heard(self, answer: GenerationRecord) -> None:
        name = self._owner.pop(answer.id)
        self._open[name].answers[answer.id] = answer
        self._settle(name)

    def _settle(self, name: str) -> None:
        """Score an answer once the judge has said everything about it."""
        one = self._open[name]
        if len(one.answers) == len(set(one.calls)):
            del self._open[name]
            answers = [one.answers[call] for call in one.calls]
            self.recorder.put([judged_evaluation(self.metric, one.sample, one.generation, answers)])

    def _forgive(self) -> None:
        """Count the errors that ended the run for nothing: they were the endpoint's, not the questions'."""
        for done in self.health.in_a_row:
            self.recorder.put(self.stored.counted(done, now=False))

    def _request(self, sample: Sample, generation: GenerationRecord, question: Question) -> Request:
        return make_request(
            question.prompt,
            benchmark=f"{JUDGE}{self.metric.name}",
            sample_id=sample.id,
            repeat=generation.repeat,
            model=self.metric.model.name,
            identity=self.metric.judge_id or {},
            params=question.params,
        )
