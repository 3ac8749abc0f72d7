"""score() and `themis score`: more metrics for stored runs, without a model and without the benchmark's data."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from test_seed_page import ThreadSafeStorage

from themis import GenerationRecord, Sample, evaluate, score
from themis.backends import LocalFileStorageBackend, RayExecutionBackend, SequentialExecutionBackend
from themis.benchmarks import load_benchmark
from themis.cli import run as themis_command
from themis.errors import RunNotFoundError, UnknownNameError, UsageError
from themis.models import ReplayModel
from themis.scoring import Metric, PassAtK, PooledMetric, Score

ROWS = [
    {"question": f"q{number}", "answer": str(number), "subject": "even" if number % 2 == 0 else "odd"}
    for number in range(10)
]


GRADED = Path(os.environ.get("THEMIS_DATA", "nowhere")) / "gsm8k_graded"


def answer(prompt):
    """The digits of the prompt in a sentence, one too many for every third."""
    number = int("".join(filter(str.isdigit, prompt)))
    return f"It is {number + (number % 3 == 0)}"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    """What is stored by default lies in the test's folder; there are no data and no hub."""
    monkeypatch.chdir(tmp_path)
    for name in ("THEMIS_STORAGE", "THEMIS_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def asked(benchmark=ROWS, **options):
    """A run to be scored."""
    return evaluate(benchmark, answer, **options)


def shared(report):
    """What two reports over the same answers have in common."""
    return {name: vars(report)[name] for name in ("n_rows", "n_repeats", "errors", "benchmark", "model", "status")}


def test_a_metric_is_added():
    """A new metric stands beside the earlier ones, over the same answers, with the numbers that evaluate() gives."""
    before = asked()
    found = score(before.run_id, "number_match")
    stored = found.storage.load_report(before.run_id)
    direct = evaluate(ROWS, answer, metrics=["exact_match", "number_match"])

    assert found.metrics == {"exact_match": 0.0, "number_match": 0.6} == direct.metrics
    assert shared(found.report) == shared(before.report)
    assert found.report.metrics == direct.report.metrics
    assert found.report.groups == direct.report.groups
    assert (found.n_asked, found.n_judge_calls, found.report.selection) == (0, 0, before.report.selection)
    assert vars(stored) == vars(found.report)
    assert list(found.report.config["metrics"]) == ["exact_match", "number_match"]


SEEN = []


class Counting(Metric):
    """Notes what it scores."""

    name = "counting"

    def __init__(self, version="1"):
        self.version = version

    def score(self, sample, generation):
        SEEN.append(sample.id)
        return Score(1.0, "x")


def test_only_what_is_missing_is_computed():
    """A stored score stays; another version of a metric gets new ids and takes its place in the report."""
    run_id = asked(limit=6).run_id
    SEEN.clear()
    score(run_id, Counting())
    assert sorted(SEEN) == list("012345")
    score(run_id, Counting())
    assert len(SEEN) == 6
    found = score(run_id, Counting("2"))
    assert (len(SEEN), found.report.config["metrics"]["counting"]["version"]) == (12, "2")
    ids = {(e.scorer, e.sample_id): e.id for e in found.evaluations if e.metric == "counting"}
    assert len(set(ids.values())) == len(ids) == 12


class Meanwhile(Metric):
    """Another call scores the run by a metric of its own while this one is at work."""

    name = "meanwhile"

    def score(self, sample, generation):
        if sample.id == "0":
            score("both", "number_match")
        return Score(1.0, "x")


def test_two_calls_at_once():
    """Scores that another call added meanwhile stay in the report."""
    asked(run_id="both")
    found = score("both", Meanwhile())

    assert list(found.report.metrics) == ["exact_match", "number_match", "meanwhile"]
    assert vars(found.storage.load_report("both")) == vars(found.report)


def test_it_covers_what_the_report_covered():
    """After a call with a limit its samples are scored and no others, though more are stored."""
    asked(num_samples=2)
    run_id = asked(limit=4).run_id
    found = score(run_id, "number_match")

    assert (found.report.n_rows, found.report.n_repeats) == (4, 1)
    assert found.report.metrics["number_match"].n_attempted == 4
    assert found.metrics == {"exact_match": 0.0, "number_match": 0.5}


def test_samples_that_cannot_be_told(caplog):
    """Where it cannot be told what the report was about, all answers are scored and reported by these metrics only."""
    asked()
    run_id = evaluate(ROWS[5:], answer, run_id=asked().run_id).run_id
    with caplog.at_level(logging.WARNING):
        found = score(run_id, "number_match")

    assert "cannot be told" in caplog.text
    assert (found.report.n_rows, list(found.metrics)) == (10, ["number_match"])


def test_names_mean_the_benchmarks_own_metrics():
    """On a shipped benchmark a name means its metric, and without a name all of them; its data is not opened."""
    rows = [{"question": row["question"], "answer": f"#### {row['answer']}"} for row in ROWS]
    run_id = evaluate("gsm8k", answer, data=rows, metrics="contains").run_id

    assert score(run_id, "exact_match").metrics["exact_match"] == 0.6
    assert score(run_id).report.benchmark_version == load_benchmark("gsm8k").version
    own = asked().run_id
    with pytest.raises(UsageError, match="give at least one"):
        score(own)
    with pytest.raises(UnknownNameError, match="Did you mean 'number_match'"):
        score(own, "numbers_match")
    assert score(own, "exact_match", benchmark="gsm8k").metrics == {"exact_match": 0.6}


def test_repeats_are_scored():
    """Metrics over repeats are made of stored answers; a k beyond them is refused."""
    run_id = asked(num_samples=3).run_id
    found = score(run_id, ["pass@2:number_match", "maj@3:number_match"])

    assert found.metrics == {"exact_match": 0.0, "pass@2:number_match": 0.6, "maj@3:number_match": 0.6}
    assert found.report.metrics["pass@2:number_match"].n_attempted == 10
    direct = asked(num_samples=3, metrics=["pass@2:number_match"])
    assert direct.report.metrics["pass@2:number_match"] == found.report.metrics["pass@2:number_match"]
    with pytest.raises(UsageError, match="pass@4 needs 4 repeats, and there are 3 answers to each sample"):
        score(run_id, PassAtK(4, Counting()))


def imported(storage):
    """A run as another tool's import writes it: samples, generations and run.json."""
    storage.save_run_metadata("imported", {"benchmark": "quiz"})
    storage.save_samples("imported", [Sample(row["question"], "?", row["answer"]) for row in ROWS])
    answers = [
        GenerationRecord(
            f"id-{row['question']}", "?", answer(row["question"]), row["question"], benchmark="quiz", model="m"
        )
        for row in ROWS
    ]
    storage.save_generation_records("imported", answers[:-1])
    return storage


def test_an_imported_run():
    """Samples, generations and run.json are enough; what has no answer stays in the denominator."""
    found = score("imported", "number_match", storage_backend=imported(LocalFileStorageBackend("mine")))

    assert (found.report.benchmark, found.report.model, found.report.n_rows) == ("quiz", "m", 10)
    assert found.metrics == {"number_match": 6 / 9}
    assert found.report.metrics["number_match"].errors == {"missing": 1}
    assert found.report.status == "partial"
    again = score("imported", "contains", storage_backend=LocalFileStorageBackend("mine"))
    assert list(again.metrics) == ["number_match", "contains"]


def test_what_cannot_be_scored():
    """A run that does not exist, and one whose storage has no samples, are refused with what to do."""
    with pytest.raises(RunNotFoundError):
        score("nothing", "exact_match")
    storage = ThreadSafeStorage()
    run_id = evaluate(ROWS, answer, storage_backend=storage).run_id
    with pytest.raises(UsageError, match=r"no samples stored.*call of evaluate\(\) again"):
        score(run_id, "number_match", storage_backend=storage)


class Failing(Metric):
    """Fails on one sample, hangs on none."""

    name = "failing"
    dear = True

    def score(self, sample, generation):
        if sample.id == "3":
            raise ValueError("cannot say")
        return Score(0.5, "x")


@pytest.mark.parametrize("backend", ["threads", "sequential", "ray"])
def test_every_backend_gives_the_same(backend, request):
    """Threads, the caller's thread and Ray give the same records and the same report."""
    backends = {"threads": lambda: None, "sequential": SequentialExecutionBackend, "ray": RayExecutionBackend}
    if backend == "ray":
        request.getfixturevalue("ray_session")
    run_id = asked().run_id
    found = score(run_id, ["number_match", Failing()], execution_backend=backends[backend]())
    failing = found.report.metrics["failing"]

    assert found.metrics == {"exact_match": 0.0, "number_match": 0.6, "failing": 0.5}
    assert (failing.n_scored, failing.errors, found.report.status) == (9, {"scorer": 1}, "partial")
    assert {e.error_message for e in found.evaluations if e.error_kind} == {"cannot say"}


class Share(PooledMetric):
    """Share of the target's letters among those of the response, over all answers."""

    name = "share"

    def score(self, sample, generation):
        own = sum(letter in sample.target for letter in generation.response)
        return Score(own / max(len(generation.response), 1), "x", value=[own, len(generation.response)])

    def pooled(self, sums):
        return sums[0] / sums[1]


def test_a_pooled_metric_in_a_run():
    """The number is that of the sums, by evaluate() and by score(), with the jackknife's error."""
    run_id = asked().run_id
    found = score(run_id, Share()).report.metrics["share"]
    direct = evaluate(ROWS, answer, metrics=Share()).report.metrics["share"]

    assert found == direct
    assert found.mean == 6 / 71
    assert found.stderr_method == "jackknife over samples"
    assert found.ci_low < found.mean < found.ci_high


def test_the_command(capsys, tmp_path):
    """`themis score` prints the report and writes it; exit code 0 when complete, 2 for a wrong name."""
    run_id = asked().run_id

    assert themis_command(["score", run_id, "--metric", "number_match", "--groups", "--json", "r.json"]) == 0
    printed = capsys.readouterr().out
    assert "number_match (mean of 2 groups)" in printed
    assert "number_match (odd)" in printed
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["number_match"]["mean"] == 0.6
    assert themis_command(["show", run_id, "--groups"]) == 0
    assert "number_match (odd)" in capsys.readouterr().out
    assert themis_command(["score", run_id, "--metric", "judge"]) == 2
    assert "--judge-model" in capsys.readouterr().err
    assert themis_command(["score", run_id, "--metric", "nothing"]) == 2


@pytest.mark.parametrize(("name", "right"), [("6b_finetuning", 286), ("175b_verification", 742)])
@pytest.mark.skipif(not GRADED.is_dir(), reason="THEMIS_DATA names no folder with gsm8k_graded")
def test_published_gradings(name, right, monkeypatch):
    """Real answers to GSM8K, stored and scored again, have as many right as was published; the data is not there."""
    monkeypatch.setenv("THEMIS_DATA", str(GRADED.parent))
    model = ReplayModel(str(GRADED / f"{name}.jsonl.gz"), response="solution", key="question")
    run_id = evaluate("gsm8k", model, metrics="contains").run_id
    monkeypatch.delenv("THEMIS_DATA")
    found = score(run_id, "exact_match").report.metrics["exact_match"]

    assert (found.n_scored, found.mean) == (1319, right / 1319)
