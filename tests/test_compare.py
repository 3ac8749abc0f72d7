"""compare() and `themis compare`: real graded runs, every refusal, gates; nothing is asked of a model."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from test_seed_page import ThreadSafeStorage

from themis import Metric, Score, compare, evaluate, score, stats
from themis.backends import FsspecStorageBackend
from themis.cli import run
from themis.errors import ModelOutcomeError, RequestError, RunNotFoundError, UsageError
from themis.ids import text_hash
from themis.models import ReplayModel
from themis.records import EvaluationRecord, GenerationRecord, Sample
from themis.scoring import _METRICS as METRICS
from themis.scoring import PooledMetric

ROWS = [{"question": f"q{number}", "answer": str(number), "group": f"g{number % 5}"} for number in range(60)]


def answers_with(share, seed=0):
    """A model that is right on a share of the questions, the same ones each time."""
    wrong = set(random.Random(seed).sample(range(60), round(60 * (1 - share))))

    def answer(prompt):
        number = int(prompt.split()[-1][1:])
        return str(number + 1000) if number in wrong else str(number)

    return answer


def make(storage, run_id, share=0.5, seed=0, rows=ROWS, **options):
    """A finished run."""
    return evaluate(
        rows, options.pop("model", answers_with(share, seed)), storage=str(storage), run_id=run_id, **options
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A place with the runs "low" and "high" of one benchmark, and "other" of other questions."""
    place = tmp_path_factory.mktemp("two")
    make(place, "low", 0.4, 1)
    make(place, "high", 0.9, 2)
    make(place, "other", rows=[{"id": "x1", "question": "q1", "answer": "1"}])
    return place


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Two runs of GSM8K out of real responses, which their graders found right 286 and 742 times."""
    folder = Path(os.environ.get("THEMIS_DATA", "nowhere")) / "gsm8k_graded"
    if not folder.is_dir():
        pytest.skip("THEMIS_DATA names no folder with the benchmarks' data")
    place = tmp_path_factory.mktemp("graded")
    for name in ("6b_finetuning", "175b_verification"):
        model = ReplayModel(str(folder / f"{name}.jsonl.gz"), response="solution", key="question", name=name)
        evaluate("gsm8k", model, storage=place, run_id=name)
    return place


def test_real_runs(graded):
    """286 and 742 of the same 1,319: difference, paired error, exact McNemar and flips are what their scores say."""
    comparison = compare("6b_finetuning", "175b_verification", storage=graded, flips=None)
    (found,) = comparison.differences
    with FsspecStorageBackend(graded) as storage:
        first, second = (
            {e.sample_id: e for e in storage.load_evaluation_records(each.run_id)} for each in comparison.runs
        )
    names = sorted(first)
    before, after = (np.array([each[name].score for name in names]) for each in (first, second))
    wins, losses = int((after > before).sum()), int((after < before).sum())
    interval = scipy.stats.ttest_rel(after, before).confidence_interval()

    assert (found.baseline_mean, found.run_mean, found.n_paired) == (286 / 1319, 742 / 1319, 1319)
    assert (found.wins, found.losses, found.ties, wins - losses) == (wins, losses, 1319 - wins - losses, 742 - 286)
    assert found.difference == pytest.approx(456 / 1319, rel=1e-12)
    assert found.stderr == pytest.approx(scipy.stats.sem(after - before), rel=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(interval), rel=1e-9)
    assert found.test == "McNemar exact"
    assert found.p_value == pytest.approx(scipy.stats.binomtest(wins, wins + losses).pvalue, rel=1e-9)
    assert found.p_adjusted == found.p_value
    assert found.correlation == pytest.approx(np.corrcoef(before, after)[0, 1], rel=1e-9)
    assert found.stderr < (stats.standard_error(list(before)) ** 2 + stats.standard_error(list(after)) ** 2) ** 0.5
    assert (found.n_flips, len(found.flips)) == (wins + losses, wins + losses)
    for flip in found.flips[:: len(found.flips) // 20]:
        assert flip.baseline_answers == [first[flip.sample_id].answer]
        assert flip.run_answers == [second[flip.sample_id].answer]
        assert (flip.target, flip.run_prompt) == (first[flip.sample_id].target, None)
        assert (flip.baseline_score, flip.run_score) in {(0, 1), (1, 0)}
        assert flip.prompt.startswith("Solve the following problem")
    assert comparison.setup == []
    assert comparison.complete


def test_every_way_to_name_a_run(two, tmp_path, monkeypatch):
    """Ids in a storage, URLs of folders, results, reports and two storages give one comparison."""
    low, high = make(two, "low", 0.4, 1), make(tmp_path / "elsewhere", "high", 0.9, 2)
    expected = compare("low", "high", storage=two).to_json()
    monkeypatch.setenv("THEMIS_STORAGE", str(two))

    assert compare("low", "high").to_json() == expected
    assert compare(two / "low", f"{tmp_path}/elsewhere/high/").to_json() == expected
    assert compare(low, high).to_json() == expected
    assert compare(low.report, "high", storage_backend=low.storage).to_json() == expected


def test_two_runs_of_one_id_are_told_apart(two, tmp_path):
    """Runs of one id in two places are numbered in the labels."""
    make(tmp_path, "low", 0.6, 3)

    assert [each.label for each in compare(two / "low", tmp_path / "low").runs] == ["low (1)", "low (2)"]


def test_repeats_are_averaged(tmp_path):
    """With repeats the samples are what is paired, and the test is the permutation test on their means."""
    make(tmp_path, "a", num_samples=1)
    r = random.Random(3)
    make(tmp_path, "b", model=lambda prompt: str(int(prompt[1:]) + (r.random() < 0.5)), num_samples=3)
    (found,) = compare("a", "b", storage=tmp_path).differences
    with FsspecStorageBackend(tmp_path) as storage:
        means = {}
        for run_id in "ab":
            for each in storage.load_evaluation_records(run_id):
                means.setdefault((run_id, each.sample_id), []).append(each.score)
    names = sorted(name for run_id, name in means if run_id == "a")
    differences = [np.mean(means["b", name]) - np.mean(means["a", name]) for name in names]

    assert (found.test, found.n_paired) == ("paired permutation", 60)
    assert found.difference == pytest.approx(np.mean(differences), abs=1e-12)
    assert found.stderr == pytest.approx(scipy.stats.sem(differences), rel=1e-9)
    assert found.p_value == pytest.approx(stats.permutation_test(differences), abs=1e-12)


def test_groups_as_clusters(tmp_path):
    """Where errors cluster by group, so do those of the difference, and groups turn as a whole in the test."""
    for run_id, share, seed in (("a", 0.5, 1), ("b", 0.6, 2)):
        make(tmp_path, run_id, share, seed)
    plain, grouped = (compare("a", "b", storage=tmp_path, cluster=by).differences[0] for by in ("sample", "group"))
    with FsspecStorageBackend(tmp_path) as storage:
        first, second = ({e.sample_id: e for e in storage.load_evaluation_records(run_id)} for run_id in "ab")
    names = sorted(first)
    assert first[names[0]].group is not None
    differences = [second[name].score - first[name].score for name in names]
    groups = [first[name].group for name in names]

    assert compare("a", "b", storage=tmp_path).differences[0] == plain
    assert (plain.test, grouped.test) == ("McNemar exact", "paired permutation")
    assert grouped.stderr == pytest.approx(stats.clustered_standard_error(differences, groups), rel=1e-12)
    assert grouped.p_value == stats.permutation_test(differences, groups)
    assert grouped.stderr_method == "paired, groups as clusters"


class Share(PooledMetric):
    """Right digits over all digits, summed over the samples."""

    name = "share_of_digits"

    def score(self, sample, generation):
        same = sum(a == b for a, b in zip(generation.response, sample.target, strict=False))
        return Score(same / len(sample.target), generation.response, value=[same, len(sample.target)])

    def pooled(self, sums):
        return sums[0] / sums[1]


def test_pooled_metrics_are_compared_by_their_sums(tmp_path, monkeypatch):
    """The difference is that of the pooled numbers, its error the jackknife's, its p-value that of exchanges."""
    monkeypatch.setitem(METRICS._table, "share_of_digits", Share())
    reports = [
        make(tmp_path, run_id, share, 5, metrics=["share_of_digits"]) for run_id, share in (("a", 0.5), ("b", 0.8))
    ]
    (found,) = compare("a", "b", storage=tmp_path).differences
    means = [result.metrics["share_of_digits"] for result in reports]
    values = [{e.sample_id: e.value for e in result.evaluations} for result in reports]
    names = sorted(values[0])
    a, b = (np.array([each[name] for name in names], dtype=float) for each in values)
    left = [
        (b.sum(0) - y)[0] / (b.sum(0) - y)[1] - (a.sum(0) - x)[0] / (a.sum(0) - x)[1] for x, y in zip(a, b, strict=True)
    ]

    assert [found.baseline_mean, found.run_mean] == pytest.approx(means, rel=1e-12)
    assert found.difference == pytest.approx(means[1] - means[0], rel=1e-12)
    assert found.stderr == pytest.approx((59 / 60 * np.var(left) * 60) ** 0.5, rel=1e-9)
    assert (found.test, found.stderr_method) == ("approximate randomization", "paired jackknife over samples")
    # All targets' lengths are shared, so exchanging answers is the permutation test on the numbers of right digits.
    assert found.p_value == pytest.approx(stats.permutation_test((b - a)[:, 0].tolist()), abs=0.02)
    assert compare("b", "a", storage=tmp_path).differences[0].p_value == pytest.approx(found.p_value, abs=0.01)


def test_a_pooled_metric_of_ones_own(tmp_path, capsys):
    """Its number is never taken for the mean of its scores: it is compared where the metric is given, else unknown."""
    for run_id, share in (("a", 0.5), ("b", 0.8)):
        make(tmp_path, run_id, share, 5, metrics=[Share(), "exact_match"])
    (given,) = compare("a", "b", storage=tmp_path, metrics=Share()).differences
    comparison = compare("a", "b", storage=tmp_path)
    unknown, known = comparison.differences

    assert given.difference == given.run_mean - given.baseline_mean
    assert given.test == "approximate randomization"
    assert (unknown.difference, unknown.p_value, unknown.bound_low, unknown.n_paired) == (None, None, None, 60)
    assert known.difference is not None
    assert "give the metric itself, compare(..., metrics=[METRIC])" in "\n".join(comparison.notes())
    gate = ("compare", "a", "b", "--storage", tmp_path, "--max-regression", "share_of_digits=0.9")
    assert "the difference of b and a cannot be computed" in shown(capsys, *gate, code=4).err


def test_one_sample_of_a_pooled_metric(tmp_path):
    """It has both numbers and their difference, and nothing about how sure they are."""
    for run_id, answer in (("a", "1 2 3 4"), ("b", "1 2 3 5")):
        rows = [{"question": "q", "answer": "1 2 3 4"}]
        make(tmp_path, run_id, rows=rows, model=lambda _, answer=answer: answer, metrics=["word_accuracy"])
    (found,) = compare("a", "b", storage=tmp_path).differences

    assert (found.baseline_mean, found.run_mean, found.difference) == (1.0, 0.75, -0.25)
    assert (found.stderr, found.ci_low, found.p_value) == (None, None, 1.0)


class Sometimes(Metric):
    """Cannot score the second answer to every tenth question."""

    name = "sometimes"

    def score(self, sample, generation):
        if int(sample.id) % 10 == 0 and generation.repeat == 1:
            raise ValueError("no")
        return Score(1.0, "x")


def test_repeats_without_a_score_bound_the_difference(tmp_path):
    """A sample that has scores for some repeats only is paired, and what the others could change is told."""
    make(tmp_path, "a", num_samples=4, metrics=[Sometimes()])
    make(tmp_path, "b", 0.9, num_samples=4, metrics=[Sometimes()])
    comparison = compare("a", "b", storage=tmp_path)
    (found,) = comparison.differences

    assert (found.n_paired, found.difference, found.n_unscored_run) == (60, 0.0, 0)
    assert (found.bound_low, found.bound_high) == pytest.approx((-6 / 240, 6 / 240))
    assert "some repeats without a score: difference within [-0.0250, 0.0250]" in "\n".join(comparison.notes())


class Parts(Metric):
    """Scores the two answers to a question 0 and 0.3, or 0.1 and 0.2."""

    name = "parts"

    def __init__(self, *parts):
        self.parts = parts

    def score(self, sample, generation):
        return Score(self.parts[generation.repeat], "x")


def test_a_tie_by_rounding_is_a_tie(tmp_path):
    """Repeats with one mean out of different parts neither win nor flip, and differ by nothing significant."""
    for run_id, parts in (("a", (0.0, 0.3)), ("b", (0.1, 0.2))):
        make(tmp_path, run_id, num_samples=2, metrics=[Parts(*parts)])
    (found,) = compare("a", "b", storage=tmp_path).differences

    assert (found.difference, found.ties, found.n_flips, found.p_value) == (0.0, 60, 0, 1.0)


def failing(kind, first):
    """A model that fails on its first questions."""

    def answer(prompt):
        number = int(prompt[1:])
        if number < first:
            raise kind("no")
        return str(number)

    return answer


def test_what_has_no_pair_is_counted(tmp_path):
    """Samples that one run was not asked, and those without a score, are counted by side, and bound the difference."""
    make(tmp_path, "a", model=failing(RequestError, 6), limit=50)
    make(tmp_path, "b", model=failing(ModelOutcomeError, 10))
    comparison = compare("a", "b", storage=tmp_path)
    (found,) = comparison.differences

    assert (found.n_paired, found.n_only_baseline, found.n_only_run) == (44, 0, 10)
    assert (found.n_unscored_baseline, found.n_unscored_run) == (6, 0)  # a model's own outcome is a score of 0
    assert found.difference == pytest.approx(-4 / 44)
    assert (found.bound_low, found.bound_high) == pytest.approx((-10 / 50, -4 / 50))
    assert not comparison.complete
    notes = "\n".join(comparison.notes())
    assert "10 only in b, 6 without a score in a: difference within [-0.2000, -0.0800]" in notes


def test_nothing_scored_is_no_number(tmp_path, capsys):
    """Without a pair of scores there is no difference and no p-value, never NaN, and no gate is passed."""
    make(tmp_path, "a")
    make(tmp_path, "b", model=failing(RequestError, 99), limit=5)
    (found,) = compare("a", "b", storage=tmp_path).differences

    assert (found.difference, found.p_value, found.p_adjusted, found.test, found.n_paired) == (
        None,
        None,
        None,
        None,
        0,
    )
    assert (found.bound_low, found.n_unscored_run) == (pytest.approx(found.bound_high - 1), 5)
    json.dumps(compare("a", "b", storage=tmp_path).to_json(), allow_nan=False)
    gate = ("compare", "a", "b", "--storage", tmp_path, "--max-regression", "exact_match=0.9")
    assert "no sample has a score in both b and a" in shown(capsys, *gate, code=4).err


def test_three_runs_and_two_metrics_are_corrected_together(tmp_path):
    """Three runs by two metrics: each beside the first, or all pairs, with Holm's correction over all the tests."""
    for number, run_id in enumerate("abc"):
        make(tmp_path, run_id, 0.3 + 0.2 * number, number, metrics=["exact_match", "contains"])
    beside, pairs = (compare("a", "b", "c", storage=tmp_path, all_pairs=each) for each in (False, True))

    assert [(d.metric, d.baseline, d.run) for d in beside.differences] == [
        (metric, "a", run_id) for metric in ("exact_match", "contains") for run_id in "bc"
    ]
    assert [(d.baseline, d.run) for d in pairs.differences[:3]] == [("a", "b"), ("a", "c"), ("b", "c")]
    for comparison in (beside, pairs):
        p_values = [each.p_value for each in comparison.differences]
        assert [each.p_adjusted for each in comparison.differences] == stats.holm(p_values)
    assert "for 6 tests" in pairs.correction
    assert [each.metric for each in compare("a", "b", storage=tmp_path, metrics="contains").differences] == ["contains"]


CHANGES = {
    "prompt": {"prompt": "Really: {question}"},
    "params": {"temperature": 0.5},
    "data": {"rows": [{**row, "answer": str(n + (n < 3))} for n, row in enumerate(ROWS)]},
}


@pytest.mark.parametrize("aspect", ["prompt", "params", "data"])
def test_runs_that_differ_in_more_than_the_model_are_refused(aspect, tmp_path, capsys):
    """The refusal names what differs and how it is allowed; allowed, the result says it."""
    make(tmp_path, "a")
    make(tmp_path, "b", **CHANGES[aspect])
    with pytest.raises(UsageError, match=f"{aspect}: .*--allow-different {aspect}") as error:
        compare("a", "b", storage=tmp_path)
    expected = {
        "prompt": "template '{input}' and 'Really: {question}'",
        "params": "temperature not set and 0.5",
        "data": "3 of 60 shared samples ask or expect something else",
    }[aspect]

    assert expected in str(error.value)
    for allowed in (aspect, [aspect], True, "all"):
        (setup,) = compare("a", "b", storage=tmp_path, allow_different=allowed).setup
        assert (setup.aspect, setup.run) == (aspect, "b")
        assert expected in setup.text
    flag = ("compare", "a", "b", "--storage", tmp_path, "--allow-different")
    assert expected in shown(capsys, *flag).out == shown(capsys, *flag, aspect).out
    with pytest.raises(UsageError, match=f"{aspect}: "):
        compare("a", "b", storage=tmp_path, allow_different=["version", "scorer"])


def test_two_prompts_show_both_in_the_flips(tmp_path):
    """Where the prompt was allowed to differ, a flip has what each run was asked."""
    make(tmp_path, "a", 0.2, 1)
    make(tmp_path, "b", 0.9, 2, prompt="Really: {question}")
    (found,) = compare("a", "b", storage=tmp_path, allow_different="prompt", flips=1).differences

    assert len(found.flips) == 1 < found.n_flips
    assert found.flips[0].run_prompt == f"Really: {found.flips[0].prompt}"


def test_a_storage_that_keeps_no_samples(tmp_path):
    """Where samples are not kept, targets and prompts are what the data is known by."""
    storage = ThreadSafeStorage()
    for run_id, rows in (("a", ROWS), ("b", ROWS), ("c", CHANGES["data"]["rows"])):
        evaluate(rows, answers_with(0.5), storage_backend=storage, run_id=run_id)
    others = [{**row, "question": f"Now {row['question']}"} for row in ROWS]
    evaluate(others, answers_with(0.5), storage_backend=storage, run_id="d")

    assert compare("a", "b", storage_backend=storage).differences[0].n_paired == 60
    with pytest.raises(UsageError, match="data: 3 of 60 shared samples"):
        compare("a", "c", storage_backend=storage)
    with pytest.raises(UsageError, match="prompt: 60 of 60 shared prompts differ"):
        compare("a", "d", storage_backend=storage)


class Judged(Share):
    """Another setting of the same metric."""

    def __init__(self, strict):
        self.strict = strict

    def config(self):
        return {"strict": self.strict}


def test_another_setting_of_a_scorer_is_refused(tmp_path):
    """A metric with another version or setting is another scorer; metrics that are not compared do not matter."""
    for run_id, strict in (("a", True), ("b", False)):
        make(tmp_path, run_id, metrics=["exact_match", Judged(strict)])
    with pytest.raises(UsageError, match=r'scorer: share_of_digits set as .*"strict":true.* and .*"strict":false'):
        compare("a", "b", storage=tmp_path)

    assert compare("a", "b", storage=tmp_path, metrics="exact_match").setup == []


def test_prompts_by_code_that_cannot_be_told_are_compared_themselves(tmp_path):
    """Where a template has no identity, what was really asked is compared."""

    class Template:
        def __init__(self, text):
            self.text = text

        def __call__(self, sample):
            return self.text + sample.input

    for run_id, text in (("a", ""), ("b", ""), ("c", "Now: ")):
        make(tmp_path, run_id, prompt=Template(text))

    assert compare("a", "b", storage=tmp_path).setup == []
    with pytest.raises(UsageError, match="prompt: 60 of 60 shared prompts differ"):
        compare("a", "c", storage=tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((["low"], {}), "give the baseline and at least one other"),
        ((["low", "low"], {}), "'low' is given twice"),
        ((["low", "other"], {}), "no sample in common: low has 60 of custom from '0' to '9' and other has 1"),
        ((["low", "high"], {"metrics": ["exact_mach"]}), "Did you mean 'exact_match'"),
        ((["low", "high"], {"metrics": []}), "give names or Metrics, one at least"),
        ((["low", "high"], {"metrics": ["exact_match", 3]}), "give names or Metrics, one at least"),
        ((["low", "high"], {"allow_different": "promt"}), "Did you mean 'prompt'"),
        ((["low", "high"], {"cluster": "subject"}), "sample"),
        ((["low", "high"], {"level": 95}), "between 0 and 1"),
        ((["low", "high"], {"flips": -1}), "from 0, or None"),
        ((["low", 7], {}), "7 is a int; give a run's id, URL/ID, a Result or a Report"),
    ],
)
def test_wrong_input(call, message, two):
    """Each sentence says what was given, what fits and what to do."""
    runs, options = call
    with pytest.raises(UsageError) as error:
        compare(*runs, storage=two, **options)
    assert message in str(error.value)


def test_a_run_without_the_metric(tmp_path):
    """The message names the run that lacks it, and what it has; a run that does not exist is not found."""
    make(tmp_path, "a", metrics=["exact_match", "contains"])
    make(tmp_path, "b")
    make(tmp_path, "c", metrics=["contains"])

    assert [each.metric for each in compare("a", "b", storage=tmp_path).differences] == ["exact_match"]
    with pytest.raises(UsageError, match="b has no scores by 'contains', but by exact_match"):
        compare("a", "b", storage=tmp_path, metrics="contains")
    with pytest.raises(UsageError, match=r"no metric in common \(b: exact_match; c: contains\)"):
        compare("b", "c", storage=tmp_path)
    with pytest.raises(RunNotFoundError):
        compare("a", "nothing", storage=tmp_path)


def test_the_last_score_counts(tmp_path):
    """Scores by an older version of a metric, and of an older target, are not mixed with those of the report."""

    class Old(Metric):
        name = "digits"
        version = "1"

        def score(self, sample, generation):
            return Score(0.0, generation.response)

    class New(Old):
        version = "2"

        def score(self, sample, generation):
            return Score(1.0, generation.response)

    for run_id in "ab":
        make(tmp_path, run_id, metrics=[Old()])
        make(tmp_path, run_id, metrics=[New()])
    (found,) = compare("a", "b", storage=tmp_path, metrics="digits").differences

    assert (found.baseline_mean, found.run_mean, found.n_paired, found.test) == (1.0, 1.0, 60, "McNemar exact")


def shown(capsys, *command, code=0):
    """What a command prints, once it has ended with that exit code."""
    capsys.readouterr()
    assert run(list(map(str, command))) == code, capsys.readouterr()
    return capsys.readouterr()


class Setting(Metric):
    """Gives every answer the score that it is set to."""

    name = "setting"

    def __init__(self, value):
        self.value = value

    def config(self):
        return {"value": self.value}

    def score(self, sample, generation):
        return Score(self.value, f"scored {self.value}")


def test_the_settings_of_the_report_count(tmp_path):
    """Where a metric was set in another way and back, the scores that the report has are compared, with their answers.

    Going back computes nothing, so that the other scores are those saved last.
    """
    for run_id in ("a", "b"):
        make(tmp_path, run_id, metrics=[Setting(1.0)])
    for value in (0.25, 1.0):
        assert score("a", Setting(value), storage=tmp_path).metrics == {"setting": value}
    score("b", Setting(0.25), storage=tmp_path)
    (found,) = compare("a", "b", storage=tmp_path, flips=1, allow_different="scorer").differences

    assert (found.baseline_mean, found.run_mean) == (1.0, 0.25)
    assert (found.flips[0].baseline_answers, found.flips[0].run_answers) == (["scored 1.0"], ["scored 0.25"])


def test_the_command_prints_every_form(two, capsys):
    """Table, Markdown, CSV, LaTeX and JSON have the same numbers; JSON has all flips, the others five."""
    command = ("compare", "low", "high", "--storage", two)
    comparison = compare("low", "high", storage=two, flips=None)
    (found,) = comparison.differences
    table, markdown = (shown(capsys, *command, *more).out for more in ((), ("--format", "markdown")))
    numbers = [f"{found.difference:+.4f} ± {found.stderr:.4f}", f"{found.wins}/{found.losses}/{found.ties}"]

    for text in (table, markdown, str(comparison), comparison._repr_html_()):
        assert [number for number in numbers if number not in text] == []
    assert f"5 of {found.n_flips}" in table
    assert len([line for line in markdown.splitlines() if line.startswith("| exact_match")]) == 6
    assert json.loads(shown(capsys, *command, "--format", "json").out) == comparison.to_json()
    (row,) = csv.DictReader(io.StringIO(shown(capsys, *command, "--format", "csv").out))
    assert (float(row["p_value"]), float(row["ci_low"])) == (found.p_value, found.ci_low)
    latex = shown(capsys, *command, "--format", "latex", "--flips", 1).out
    assert latex.startswith(r"\begin{tabular}")
    assert numbers[0].replace("±", r"$\pm$") in latex


def test_max_regression(two, capsys):
    """A run that is worse by more than the limit, and significantly, ends with exit code 4 after the comparison."""
    worse = shown(capsys, "compare", "high", "low", "--storage", two, "--max-regression", "exact_match=0.02", code=4)
    better = shown(capsys, "compare", "low", "high", "--storage", two, "--max-regression", "exact_match=0.02")

    assert "--max-regression exact_match=0.02: low is 0.5000 below high" in worse.err
    assert "-0.5000" in worse.out
    assert better.err == ""
    within = ("compare", "high", "low", "--storage", two, "--max-regression", "exact_match=0.6")
    assert "may still be" in shown(capsys, *within).err


def test_a_regression_that_may_be_chance(tmp_path, capsys):
    """It passes with a warning; --strict counts it."""
    make(tmp_path, "a", 0.55, 1)
    make(tmp_path, "b", 0.5, 2)
    gate = ("compare", "a", "b", "--storage", tmp_path, "--max-regression", "exact_match=0.02")

    assert "b is 0.0500 below a, which may be chance" in shown(capsys, *gate).err
    assert "--max-regression exact_match=0.02: b is 0.0500 below a" in shown(capsys, *gate, "--strict", code=4).err


def test_fail_under(two, tmp_path, capsys):
    """`eval` and `compare` end with exit code 4 below a threshold on the mean, or on the lower end of the interval."""
    evaluated = ("eval", "arithmetic", "--model", "demo", "--limit", "100", "--storage", tmp_path, "--fail-under")
    compared = ("compare", "low", "high", "--storage", two, "--fail-under")

    shown(capsys, *evaluated, "exact_match=0.5")
    assert "mean 0.8" in shown(capsys, *evaluated, "exact_match=0.95", code=4).err
    assert "lower end of the interval" in shown(capsys, *evaluated, "exact_match.ci_low=0.79", code=4).err
    shown(capsys, *compared, "exact_match=0.9", "--fail-under", "exact_match.bound_low=0.9")
    assert "high" not in shown(capsys, *compared, "exact_match=0.91", code=4).err.split("mean")[1]


def test_fail_under_of_a_run_that_is_scored_again(tmp_path, capsys):
    """`score` has the same gate as `eval`."""
    make(tmp_path, "a", 0.5)
    scored = ("score", tmp_path / "a", "--metric", "contains", "--fail-under")

    shown(capsys, *scored, "contains=0.5")
    assert "contains of custom by answer: mean 0.5" in shown(capsys, *scored, "contains=0.9", code=4).err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fail-under", "exact_match"), "is not METRIC=NUMBER"),
        (("--fail-under", "exact_match=high"), "is not METRIC=NUMBER"),
        (("--fail-under", "exact_mach=0.5"), "Did you mean 'exact_match'?"),
        (("--max-regression", "exact_mach=0.5"), "Did you mean 'exact_match'?"),
        (("--max-regression", "exact_match=2"), "0.02 for two points of accuracy"),
        (("--max-regression", "exact_match=0.1", "--max-regression", "exact_match=0"), "one limit"),
        (("--format", "tabel"), "Did you mean 'table'?"),
    ],
)
def test_a_gate_that_means_nothing_is_wrong_usage(options, message, two, capsys):
    """A threshold on what is not there, or a limit that nothing can pass, has exit code 2 and prints no comparison."""
    printed = shown(capsys, "compare", "low", "high", "--storage", two, *options, code=2)

    assert message in printed.err
    assert printed.out == ""


def test_gates_at_the_boundary(two, capsys):
    """What is at the limit passes, whatever floats make of it; no number is no limit; a near miss is shown in full."""
    found = compare("low", "high", storage=two).differences[0]
    below = replace(found, difference=0.78 - 0.8)
    assert not below.falls_by_more_than(0.02, strict=True)
    assert below.falls_by_more_than(0.0199, strict=True)
    with pytest.raises(UsageError, match="a limit of nan on exact_match"):
        compare("low", "high", storage=two).regressions({"exact_match": float("nan")})
    gate = ("compare", "low", "high", "--storage", two, "--level", "0.999", "--fail-under")
    assert "99.9% interval" in shown(capsys, *gate, "exact_match=0.9").out
    assert "mean 0.9000 is below 0.90000001" in shown(capsys, *gate, "exact_match=0.90000001", code=4).err


def test_a_threshold_is_checked_before_anything_is_asked(tmp_path, capsys):
    """`eval` refuses an unknown metric's threshold without making a run."""
    command = ("eval", "arithmetic", "--model", "demo", "--storage", tmp_path / "runs", "--fail-under", "exact_mach=1")

    assert "exact_match" in shown(capsys, *command, code=2).err
    assert not (tmp_path / "runs").exists()


def test_a_partial_run_has_exit_code_3(tmp_path, capsys):
    """A comparison in which a run lacks scores says so by its exit code, and passes no gate silently."""
    make(tmp_path, "a")
    make(tmp_path, "b", model=failing(RequestError, 3))

    assert "3 without a score in b" in shown(capsys, "compare", "a", "b", "--storage", tmp_path, code=3).out


@pytest.mark.soak
def test_a_hundred_thousand_samples(tmp_path):
    """Two runs of 100,000 samples are compared in less than 5 s of CPU, their largest flips read."""
    r, n = random.Random(0), 100_000
    with FsspecStorageBackend(tmp_path) as storage:
        for run_id in "ab":
            storage.save_run_metadata(run_id, {"config": {"benchmark": "b", "prompt": "p", "params": {}}})
            for number in range(n):
                name, answered = f"s{number}", text_hash(f"{run_id}{number}")
                prompt, response = "a question " * 20 + name, "an answer " * 40
                evaluation = EvaluationRecord(text_hash(name + run_id), answered, "m", name)
                storage.save_samples(run_id, [Sample(name, prompt, str(number))])
                storage.save_generation_record(run_id, GenerationRecord(answered, prompt, response, name))
                storage.save_evaluation_record(run_id, replace(evaluation, scorer="m@1", score=float(r.random() < 0.5)))
    compare("a", "b", storage=tmp_path, flips=1)  # imports
    began = time.process_time()
    (found,) = compare("a", "b", storage=tmp_path).differences

    assert time.process_time() - began < 5
    assert (found.n_paired, len(found.flips), found.flips[0].prompt[:10]) == (n, 5, "a question")
