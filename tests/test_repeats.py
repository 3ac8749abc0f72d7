"""Metrics over several answers to one sample: their values, their names, and what a run makes of them."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from themis import evaluate
from themis.errors import ModelUnavailableError, UnknownNameError, UsageError
from themis.models import Model, Response
from themis.records import EvaluationRecord
from themis.scoring import BestAtK, ExactMatch, MajAtK, MeanAtK, PassAtK, PassHatK, Score, load_metric
from themis.scoring.repeats import REPEATS
from themis.stats import pass_at_k

ROWS = [{"question": f"q{number}", "answer": str(number)} for number in range(6)]
BASE = ExactMatch()


def evaluations(*answers, right="1"):
    """What exact match says of answers, None for none."""
    return [
        EvaluationRecord(f"e{i}", f"g{i}", "exact_match", sample_id="s", repeat=i, answer=a, score=float(a == right))
        for i, a in enumerate(answers)
    ]


class Scripted(Model):
    """Gives to each question, by repeat, the answer of a table; None is an error of the infrastructure."""

    name = "scripted"

    def __init__(self, table, name="scripted"):
        self.table, self._name, self.asked = table, name, []

    def identity(self):
        return {"provider": "test", "name": self._name}

    async def generate(self, request):
        self.asked.append((request.prompt, request.repeat))
        found = self.table(request.prompt, request.repeat)
        if found is None:
            raise ModelUnavailableError("no answer")
        return Response(text=found)


def digits(prompt, repeat):
    """Right in the first two repeats of even questions."""
    number = int(prompt[1:])
    return str(number) if number % 2 == 0 and repeat < 2 else f"wrong{repeat}"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    """What is stored by default lies in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THEMIS_STORAGE", raising=False)


@pytest.mark.parametrize("kind", REPEATS.values(), ids=lambda kind: kind.kind)
def test_a_score_is_the_mean_over_all_choices(kind):
    """With more than k answers the score is exactly the mean of the scores of all choices of k."""
    r = random.Random(7)
    for _ in range(60):
        n = r.randint(1, 8)
        k = r.randint(1, n)
        found = evaluations(*r.choices(["1", "2", "3", None], k=n))
        each = [kind(k, BASE).reduce(list(chosen)).score for chosen in combinations(found, k)]

        assert pytest.approx(sum(each) / len(each), abs=1e-12) == kind(k, BASE).reduce(found).score


def test_a_thousand_answers():
    """Where there are more choices than floats reach, the majority's expected score is still a number."""
    found = evaluations(*["1"] * 5, *[None] * 1095)

    assert MajAtK(500, BASE).reduce(found).score == pytest.approx(pass_at_k(1100, 5, 500), rel=1e-12)


def test_known_values():
    """Three right of five: the values of the published formulas."""
    found = evaluations("1", "1", "1", "2", "3")

    assert PassAtK(1, BASE).reduce(found).score == pytest.approx(0.6)
    assert PassAtK(2, BASE).reduce(found).score == pytest.approx(1 - 1 / 10)
    assert PassHatK(2, BASE).reduce(found).score == pytest.approx(3 / 10)
    assert MeanAtK(5, BASE).reduce(found).score == pytest.approx(0.6)
    assert MajAtK(5, BASE).reduce(found).score == 1.0
    assert BestAtK(5, BASE).reduce(found).score == 1.0
    assert PassAtK(100, BASE).reduce(evaluations(*["1"] * 3, *["2"] * 197)).score == pytest.approx(
        1 - (100 * 99 * 98) / (200 * 199 * 198)
    )


def test_a_tie_has_its_expected_value():
    """Two answers with equally many votes score the mean of both, whatever their order; no votes at all score 0."""
    for order in (("1", "2", "2", "1"), ("2", "1", "1", "2")):
        assert MajAtK(4, BASE).reduce(evaluations(*order)).score == 0.5
    silent = MajAtK(2, BASE).reduce(evaluations(None, None))
    assert (silent.score, silent.answer) == (0.0, None)
    assert MajAtK(3, BASE).reduce(evaluations("1", None, None)).score == 1.0


def test_votes_are_counted_by_meaning():
    """18 and 18.00 are one answer to a metric that compares numbers, and two to one that compares text."""
    found = evaluations("18", "18.00", "7", "7", "18.0", right="7")

    assert MajAtK(5, ExactMatch("number")).reduce(found).answer == "18"
    assert MajAtK(5, BASE).reduce(found).answer == "7"


def test_partial_scores():
    """pass@k refuses scores between 0 and 1 as an error of the scorer; mean@k and best@k take any."""
    found = [EvaluationRecord(f"e{i}", f"g{i}", "m", score=score, answer="x") for i, score in enumerate([0.25, 0.5])]

    with pytest.raises(ValueError, match=r"one is scored 0\.25"):
        PassAtK(1, BASE).reduce(found)
    assert MeanAtK(2, BASE).reduce(found).score == 0.375
    assert BestAtK(1, BASE).reduce(found).score == pytest.approx(0.375)
    assert BestAtK(2, BASE).reduce(found).score == 0.5


def test_names():
    """The name "pass@4" is over the benchmark's main metric, "pass@4:contains" over another; others are explained."""
    own = (ExactMatch("number"),)

    assert load_metric("pass@4", own) == PassAtK(4, own[0])
    assert load_metric("maj@8:contains", own).of.name == "contains"
    assert load_metric("pass^2:number_match").name == "pass^2:number_match"
    for name, reason in [
        ("pass@0", "pass@0: give a whole number"),
        ("pass@x", "write pass@K for K repeats"),
        ("pass@4", "write pass@4:NAME"),
        ("pass@2:pass@2:contains", "give a metric that scores one answer"),
    ]:
        with pytest.raises(UsageError, match=reason):
            load_metric(name, () if "NAME" in reason else own)
    with pytest.raises(UnknownNameError, match="Did you mean 'contains'"):
        load_metric("pass@2:contain")


def test_k_larger_than_the_repeats():
    """A k beyond num_samples is refused before any call, with what was given, what there is and what to do."""
    model = Scripted(digits)

    with pytest.raises(
        UsageError, match=r"pass@4 needs 4 repeats, and there are 2 answers to each sample: give num_samples=4"
    ):
        evaluate(ROWS, model, metrics="pass@4", num_samples=2)
    assert model.asked == []


def test_a_run_with_repeats():
    """A run reports one score for each sample, counts samples, and keeps one record with the ids of all repeats."""
    result = evaluate(ROWS, Scripted(digits), metrics=["pass@2", "pass^2", "exact_match"], num_samples=4)
    found = result.report.metrics["pass@2"]
    records = [e for e in result.evaluations if e.metric == "pass@2"]

    assert result.metrics == {"pass@2": (1 - 1 / 6) / 2, "pass^2": 1 / 12, "exact_match": 0.25}
    assert (found.n_attempted, found.n_scored, found.stderr_method) == (6, 6, "independent samples")
    assert result.report.metrics["exact_match"].n_attempted == 24
    assert [(len(record.generation_ids), record.repeat) for record in records] == [(4, 0)] * 6
    by_id = {generation.id: generation for generation in result.generations}
    for record in records:
        repeats = [by_id[name] for name in record.generation_ids]
        assert [(g.sample_id, g.repeat) for g in repeats] == [(record.sample_id, i) for i in range(4)]


def test_the_base_metric_is_not_reported_unasked():
    """pass@k alone reports pass@k alone; two metrics of one name below it do not get mixed up."""
    over_text = PassAtK(2, ExactMatch(), "text@2")
    over_numbers = PassAtK(2, ExactMatch("number"), "number@2")
    rows = [{"question": "q1", "answer": "1"}]
    result = evaluate(
        rows, Scripted(lambda prompt, repeat: "It is 1"), metrics=[over_text, over_numbers], num_samples=2
    )

    assert result.metrics == {"text@2": 0.0, "number@2": 1.0}


def test_lost_repeats():
    """With k scored repeats a sample is estimated from those, with fewer it is unscored, and the reason is told."""
    lost = {"q0": {3}, "q1": {1, 2, 3}}
    model = Scripted(lambda prompt, repeat: None if repeat in lost.get(prompt, ()) else digits(prompt, repeat))
    result = evaluate(ROWS, model, metrics="pass@2", num_samples=4)
    by_sample = {e.sample_id: e for e in result.evaluations if e.metric == "pass@2"}
    found = result.report.metrics["pass@2"]

    assert by_sample["0"].score == 1.0  # 2 of 3 right: one of any two is
    assert (by_sample["1"].status, by_sample["1"].error_kind) == ("error", "infrastructure")
    assert by_sample["1"].error_message == "1 of 4 repeats have a score, pass@2 needs 2 (without one: 3 infrastructure)"
    assert (found.n_attempted, found.n_scored, found.errors) == (6, 5, {"infrastructure": 1})
    assert result.report.status == "partial"


SEEN = []
"""Samples that a Watched metric reduced."""


class Watched(PassAtK):
    """Notes what it reduces."""

    def reduce(self, evaluations):
        SEEN.append(evaluations[0].sample_id)
        return super().reduce(evaluations)


def test_resume_computes_what_changed():
    """Made again, a call reduces only samples whose repeats have other scores than before, and gives the same bits."""
    SEEN.clear()
    lost = {"q1": {2}}
    model = Scripted(lambda prompt, repeat: None if repeat in lost.get(prompt, ()) else digits(prompt, repeat))
    call = {"metrics": Watched(2, BASE), "num_samples": 4}
    evaluate(ROWS, model, **call)
    assert sorted(SEEN) == list("012345")

    lost.clear()
    SEEN.clear()
    result = evaluate(ROWS, model, **call)
    assert (SEEN, result.n_asked, result.report.status) == (["1"], 1, "complete")
    SEEN.clear()
    again = evaluate(ROWS, model, **call)
    assert (SEEN, again.metrics) == ([], result.metrics)
    longer = evaluate(ROWS, model, metrics=Watched(2, BASE), num_samples=5)
    assert (sorted(SEEN), longer.n_asked) == (list("012345"), 6)
    assert {len(e.generation_ids) for e in longer.evaluations if e.metric == "pass@2"} == {4, 5}


class Odd(MeanAtK):
    """Fails on every sample but the first."""

    def reduce(self, evaluations):
        return Score(1.0) if evaluations[0].sample_id == "0" else 1 / 0


def test_a_failing_metric_over_repeats():
    """What a metric over repeats raises is an error of the scorer on its sample; the others are reported."""
    result = evaluate(ROWS, Scripted(digits), metrics=[Odd(2, BASE, "odd"), "mean@2"], num_samples=2)
    odd, mean = result.report.metrics.values()

    assert (odd.n_scored, odd.mean, odd.errors) == (1, 1.0, {"scorer": 5})
    assert (mean.n_scored, mean.mean, result.report.status) == (6, 0.5, "partial")
