"""Metrics that ask a judge: verdicts, calls that are records, resume, and what goes wrong."""

from __future__ import annotations

import re

import pytest

from themis import Response, evaluate, score
from themis.backends import LocalFileStorageBackend, SequentialExecutionBackend
from themis.errors import AuthenticationError, ModelOutcomeError, ModelUnavailableError, UsageError
from themis.models import Model
from themis.records import GenerationRecord, Sample
from themis.scoring import JudgedMetric, MeanAtK, PairwiseJudge, Question, RubricJudge, Score, load_metric
from themis.scoring.judges import json_verdict, line_verdict, winner

ROWS = [{"question": f"q{number}", "answer": f"gold{number}"} for number in range(4)]
SAMPLE = Sample("s", "2 + 3?", "five")
ANSWER = GenerationRecord("g", "2 + 3?", "It is 5", sample_id="s")


def said(*texts):
    """A judge's answers."""
    return [GenerationRecord(f"j{number}", "?", text) for number, text in enumerate(texts)]


class Judge(Model):
    """Says what a function makes of the prompt, and keeps the prompts."""

    def __init__(self, func, name="judge-model"):
        self.func, self.name, self.asked = func, name, []

    def identity(self):
        return {"provider": "test", "name": self.name}

    async def generate(self, request):
        self.asked.append(request.prompt)
        found = self.func(request.prompt)
        if isinstance(found, Exception):
            raise found
        return Response(text=found, input_tokens=100, output_tokens=7)


def echo(prompt):
    """An answer that names its question."""
    return f"answer to {prompt}"


def seven(prompt):
    """The same verdict for all."""
    return "It is fine.\nScore: 7"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    """What is stored by default lies in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THEMIS_STORAGE", raising=False)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Score: 7", 7),
        ("Score: 2 at first, but then\n**Score: 8.5**", 8.5),
        ("score: **9**/10.", 9),
        ('{"score": 3}', 3),
        ('"Score": -1', -1),
        ("Score: 12345678901", None),
        ("I give it a 7", None),
        ("underscore: 7", None),
        ("", None),
    ],
)
def test_line_verdict(text, number):
    """The verdict is the number of the last "Score: N"; what is no such line is none."""
    assert line_verdict(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('Reasons. {"score": 7}', 7),
        ('{"score": 4, "parts": {"style": 2}} Done.', 4),
        ('{"score": 1} then {"score": 2}', 2),
        ('{"score": true}', None),
        ('{"score": "7"}', None),
        ('{"grade": 7}', None),
        ("{" * 50, None),
    ],
)
def test_json_verdict(text, number):
    """The verdict is the number "score" of the last object that has one."""
    assert json_verdict(text) == number


def test_winner():
    """The verdict of a comparison is the last winner that is named."""
    assert [winner(t) for t in ("Winner: A", "winner: **b**", "Winner: A\nWinner: tie", "Winner: Anna", "A")] == [
        *("A", "B", "tie"),
        *(None, None),
    ]


def test_rubric_score():
    """A score is a share of the scale; an answer without a verdict, or beyond the scale, is none."""
    metric = RubricJudge(scale=(1, 5))

    assert metric.judge(SAMPLE, ANSWER, said("Score: 4")) == Score(0.75, "4", explanation="Score: 4")
    for text in ("no verdict", "Score: 6", "Score: 0"):
        with pytest.raises(ValueError, match="verdict"):
            metric.judge(SAMPLE, ANSWER, said(text))
    (question,) = metric.questions(SAMPLE, ANSWER)
    assert all(
        part in question.prompt for part in ("2 + 3?", "It is 5", "five", '"Score: N", with N a number from 1 to 5')
    )
    assert "five" not in RubricJudge(with_target=False).questions(SAMPLE, ANSWER)[0].prompt


@pytest.mark.parametrize(
    ("verdicts", "expected", "consistent"),
    [
        ("AB", 1.0, True),
        ("BA", 0.0, True),
        ("AA", 0.5, False),
        ("BB", 0.5, False),
        ("tt", 0.5, True),
        ("At", 0.75, False),
    ],
)
def test_pairwise_score(verdicts, expected, consistent):
    """The orders are averaged: a win is 1, a tie 0.5, a loss 0; a judge that prefers a place is told."""
    answers = said(*(f"Winner: {'tie' if verdict == 't' else verdict}" for verdict in verdicts))
    found = PairwiseJudge().judge(SAMPLE, ANSWER, answers)

    assert (found.score, found.metadata["consistent"]) == (expected, consistent)


def test_pairwise_questions():
    """Both orders are asked; the reference is the target, or a field of the row."""
    first, second = (question.prompt for question in PairwiseJudge().questions(SAMPLE, ANSWER))
    assert first.index("It is 5") < first.index("five")
    assert second.index("It is 5") > second.index("five")
    other = PairwiseJudge(reference="baseline")
    assert "4.9" in other.questions(Sample("s", "?", metadata={"baseline": "4.9"}), ANSWER)[0].prompt
    with pytest.raises(ValueError, match="no text as its field 'baseline'"):
        other.questions(SAMPLE, ANSWER)


def test_a_judged_run():
    """Judges' calls are generations of the run under a benchmark of their own; usage has them apart, per metric."""
    judge = Judge(seven)
    result = evaluate(ROWS, Judge(echo, "m"), metrics=["judge", "exact_match"], judge_model=judge)
    calls = [generation for generation in result.generations if generation.benchmark == "judge/judge"]
    evaluations = [evaluation for evaluation in result.evaluations if evaluation.metric == "judge"]

    assert result.metrics == {"judge": (7 - 1) / 9, "exact_match": 0.0}
    assert (len(judge.asked), result.n_asked, result.n_judge_calls) == (4, 4, 4)
    assert sorted(call.sample_id for call in calls) == list("0123")
    assert {call.model for call in calls} == {"judge-model"}
    assert sorted(name for e in evaluations for name in e.metadata["judge_calls"]) == sorted(call.id for call in calls)
    assert result.report.usage["requests"] == 4
    assert result.report.usage["input_tokens"] == 400
    assert {"requests": 4, "output_tokens": 28}.items() <= result.report.usage["judge"]["judge"].items()
    assert "4 calls of judges" in result.summary()


def test_the_same_call_again_asks_no_judge():
    """A judged answer is not judged again; another rubric, or another judge, is asked anew."""
    judge, model = Judge(seven), Judge(echo, "m")
    first = evaluate(ROWS, model, metrics="judge", judge_model=judge)
    again = evaluate(ROWS, model, metrics="judge", judge_model=judge)
    assert (len(judge.asked), again.metrics) == (4, first.metrics)

    evaluate(ROWS, model, metrics=RubricJudge("Is it kind?"), judge_model=judge)
    assert len(judge.asked) == 8
    other = Judge(lambda prompt: "Score: 10", "another")
    assert evaluate(ROWS, model, metrics="judge", judge_model=other).metrics == {"judge": 1.0}
    assert (len(other.asked), len(model.asked)) == (4, 4)


def test_an_answered_call_is_never_paid_twice():
    """Where a judge's answer is stored and its score is not, as after a kill, the score comes of the stored answer."""
    judge, model = Judge(lambda prompt: "Winner: A"), Judge(echo, "m")
    result = evaluate(ROWS, model, metrics="pairwise", judge_model=judge)
    half = LocalFileStorageBackend("half")
    calls = [g for g in result.generations if g.benchmark.startswith("judge/")]
    half.save_run_metadata("r", result.storage.load_run_metadata(result.run_id))
    half.save_samples("r", result.samples)
    half.save_generation_records("r", [g for g in result.generations if g not in calls] + calls[1:])
    judge.asked.clear()
    found = score("r", "pairwise", judge_model=judge, storage_backend=half)

    assert (len(judge.asked), found.n_judge_calls, found.metrics) == (1, 1, {"pairwise": 0.5})
    assert found.report.usage["judge"]["pairwise"]["requests"] == 8


def test_a_lost_call_is_asked_again():
    """A judge's call that the infrastructure lost leaves the score missing for that reason, until it is answered."""
    broken = {"q2"}
    judge = Judge(
        lambda prompt: ModelUnavailableError("gone") if any(name in prompt for name in broken) else seven(prompt)
    )
    model = Judge(echo, "m")
    result = evaluate(ROWS, model, metrics="judge", judge_model=judge)
    found = result.report.metrics["judge"]
    assert (found.n_scored, found.n_attempted, found.errors) == (3, 4, {"infrastructure": 1})
    assert "the judge: gone" in result.first_errors["infrastructure"]

    broken.clear()
    judge.asked.clear()
    again = evaluate(ROWS, model, metrics="judge", judge_model=judge)
    assert (len(judge.asked), again.report.metrics["judge"].n_scored, again.report.status) == (1, 4, "complete")


def test_verdicts_that_cannot_be_read():
    """An answer without a verdict, and a judge that refuses, are errors of the scorer and never a 0."""
    judge = Judge(lambda prompt: ModelOutcomeError("refused") if "q1" in prompt else "I would rather not say.")
    result = evaluate(ROWS, Judge(echo, "m"), metrics="judge", judge_model=judge)
    found = result.report.metrics["judge"]

    assert (found.mean, found.n_scored, found.errors) == (None, 0, {"scorer": 4})


def test_a_judge_that_is_gone_interrupts():
    """An error that no further call can survive interrupts the run; every answer of the model is kept."""
    judge, model = Judge(lambda prompt: AuthenticationError("no key")), Judge(echo, "m")
    result = evaluate(ROWS, model, metrics=["exact_match", "judge"], judge_model=judge)

    assert result.report.status == "interrupted"
    assert "judge judge-model: AuthenticationError: no key" in result.stopped_by
    assert result.report.metrics["exact_match"].n_scored == 4
    judge.func = seven
    again = evaluate(ROWS, model, metrics=["exact_match", "judge"], judge_model=judge)
    assert (again.report.status, again.n_asked) == ("complete", 0)


def test_without_a_judge():
    """A judge without a model, and a model without a metric that asks it, are refused before any call."""
    model = Judge(echo, "m")

    with pytest.raises(UsageError, match=r"the metric 'judge' asks a judge.*judge_model= \(--judge-model\)"):
        evaluate(ROWS, model, metrics="judge")
    with pytest.raises(UsageError, match="no metric of exact_match asks a judge"):
        evaluate(ROWS, model, judge_model=Judge(seven))
    assert model.asked == []


def test_a_comparison_without_a_reference():
    """A benchmark whose samples lack the reference is refused before any call, with the reason."""
    model = Judge(echo, "m")

    with pytest.raises(UsageError, match=r"'pairwise:baseline' does not fit this benchmark: .* field 'baseline'"):
        evaluate(ROWS, model, metrics="pairwise:baseline", judge_model=Judge(seven))
    assert model.asked == []


def test_a_judge_of_its_own():
    """A metric's own model is asked, a function too; over repeats each answer is judged."""
    mine = RubricJudge(model=Judge(lambda prompt: "Score: 10", "own"), name="mine")
    over = MeanAtK(2, RubricJudge(name="inner"))
    result = evaluate(ROWS, Judge(echo, "m"), metrics=[mine, over], judge_model=Judge(seven), num_samples=2)

    assert result.metrics == {"mine": 1.0, "mean@2": (7 - 1) / 9}
    assert result.report.metrics["mean@2"].n_attempted == 4
    assert set(result.report.usage["judge"]) == {"mine", "inner"}


class Twice(JudgedMetric):
    """Asks one question twice, and fails on one sample."""

    name = "twice"

    def questions(self, sample, generation):
        if sample.id == "1":
            raise KeyError("no idea")
        return [Question(f"about {sample.id}")] * 2

    def judge(self, sample, generation, answers):
        return Score(float(len(answers) == 2), re.sub(r"\D", "", answers[0].response))


def test_a_judged_metric_of_a_users_own():
    """Equal questions are one call; a failing `questions` is an error of the scorer; any backend will do."""
    judge = Judge(seven)
    result = evaluate(
        ROWS, Judge(echo, "m"), metrics=Twice(), judge_model=judge, execution_backend=SequentialExecutionBackend()
    )
    found = result.report.metrics["twice"]

    assert (found.mean, found.n_scored, found.errors) == (1.0, 3, {"scorer": 1})
    assert sorted(judge.asked) == ["about 0", "about 2", "about 3"]


def test_refused_answers_are_not_judged():
    """A refusal by the model is scored 0 without a call, and what the infrastructure lost is not scored."""
    errors = {"q1": ModelOutcomeError("refused"), "q2": ModelUnavailableError("gone")}
    judge = Judge(seven)
    result = evaluate(ROWS, Judge(lambda prompt: errors.get(prompt, "x"), "m"), metrics="judge", judge_model=judge)
    found = result.report.metrics["judge"]

    assert (len(judge.asked), found.n_scored, found.errors) == (2, 3, {"infrastructure": 1})
    assert found.mean == pytest.approx(2 / 3 * (7 - 1) / 9)


def test_names():
    """A judge's name takes its rubric as an argument, a comparison's name the field of the reference."""
    assert load_metric("judge:Is it polite?").rubric == "Is it polite?"
    assert load_metric("pairwise:baseline").reference == "baseline"
    with pytest.raises(UsageError, match="scale"):
        RubricJudge(scale=(5, 1))
