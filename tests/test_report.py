"""Reports out of columns, against values computed by hand."""

from __future__ import annotations

import dataclasses
import io
import json
import random

import pyarrow as pa
import pytest
from rich.console import Console

from themis.errors import UsageError
from themis.formats import report_table, to_html, to_json, to_markdown
from themis.records import MetricResult, Report
from themis.report import EVALUATION_COLUMNS, GENERATION_COLUMNS, aggregate, group_results
from themis.scoring import PooledMetric, Score


def columns(rows, names):
    """Rows as columns, None where a row has no such field."""
    return {name: [row.get(name) for row in rows] for name in names}


def answered(sample, repeat=0, **fields):
    """A generation with a response."""
    return {"sample_id": sample, "repeat": repeat, "status": "ok", "attempts": 1, "output_tokens": 3, **fields}


def lost(sample, repeat=0, kind="infrastructure"):
    """A generation without a response."""
    return {"sample_id": sample, "repeat": repeat, "status": "error", "error_kind": kind, "attempts": 3}


def scored(sample, score, repeat=0, **fields):
    """An evaluation with a score."""
    base = {"metric": "exact_match", "sample_id": sample, "repeat": repeat, "status": "ok", "answer": "x"}
    return {**base, "score": score, **fields}


def unscored(sample, kind, repeat=0):
    """An evaluation without a score."""
    return scored(sample, None, repeat, status="error", error_kind=kind, answer=None)


def report_of(evaluations, generations, asked, **fields):
    """The report over rows, by the metric exact_match."""
    options = {"metrics": ["exact_match"], "run_id": "r", "benchmark": "b", "model": "m", **fields}
    return aggregate(
        columns(evaluations, EVALUATION_COLUMNS), columns(generations, GENERATION_COLUMNS), asked=asked, **options
    )


def hundred():
    """100 samples: 80 right, 10 wrong, 10 lost to the infrastructure."""
    names = [f"s{number:03}" for number in range(100)]
    generations = [lost(name) if i >= 90 else answered(name) for i, name in enumerate(names)]
    evaluations = [
        unscored(name, "infrastructure") if i >= 90 else scored(name, float(i < 80)) for i, name in enumerate(names)
    ]
    return evaluations, generations, [(name, 0) for name in names]


def test_denominator():
    """100 samples, 10 lost, 80 right: 0.889 over 90, between 0.80 and 0.90, and partial."""
    report = report_of(*hundred())
    result = report.metrics["exact_match"]

    assert (result.mean, result.n_scored, result.n_attempted) == (80 / 90, 90, 100)
    assert (result.bound_low, result.bound_high) == (0.80, 0.90)
    assert (result.errors, report.errors) == ({"infrastructure": 10}, {"infrastructure": 10})
    assert (report.status, report.n_rows, report.n_repeats) == ("partial", 100, 1)
    assert tuple(round(v, 4) for v in (result.stderr, result.ci_low, result.ci_high)) == (0.0333, 0.8074, 0.9385)
    assert result.stderr_method == "independent samples"


def test_any_order_gives_the_same_bits():
    """Shuffled rows, lists or Arrow tables, give the same report to the last bit."""
    r = random.Random(3)
    pairs = [(f"s{i}", k) for i in range(40) for k in range(3)]
    evaluations = [scored(s, r.random(), k) for s, k in pairs]
    generations = [answered(s, k, input_tokens=r.randint(1, 9)) for s, k in pairs]
    expected = to_json(report_of(evaluations, generations, pairs))
    for _ in range(4):
        for rows in (evaluations, generations, pairs):
            r.shuffle(rows)

        assert expected == to_json(report_of(evaluations, generations, pairs))
    tables = [
        pa.table(columns(rows, names))
        for rows, names in ((evaluations, EVALUATION_COLUMNS), (generations, GENERATION_COLUMNS))
    ]
    found = aggregate(*tables, asked=pairs, metrics=["exact_match"], run_id="r", benchmark="b", model="m")
    assert expected == to_json(found)


def test_repeats_cluster():
    """Repeats of a sample make one cluster, and Student's interval takes the number of samples."""
    scores = {"a": (1.0, 1.0), "b": (0.0, 0.0), "c": (1.0, 0.0)}
    pairs = [(name, repeat) for name in scores for repeat in (0, 1)]
    report = report_of([scored(s, scores[s][k], k) for s, k in pairs], [answered(*pair) for pair in pairs], pairs)
    result = report.metrics["exact_match"]

    assert (result.mean, result.n_scored, result.n_attempted, report.status) == (0.5, 6, 6, "complete")
    assert (result.stderr_method, report.n_rows, report.n_repeats) == ("clustered by sample", 3, 2)
    assert pytest.approx(result.stderr, rel=1e-14) == 3**0.5 / 6
    assert (result.ci_low, result.ci_high) == (0.0, 1.0)


def test_exactly_what_was_asked():
    """Stored rows of other samples, repeats and metrics do not count."""
    evaluations = [scored("a", 1.0), scored("a", 0.0, 1), scored("b", 0.0), scored("a", 0.0, metric="other")]
    report = report_of(evaluations, [answered("a"), answered("a", 1), answered("b")], [("a", 0)])

    assert (report.metrics["exact_match"].mean, report.metrics["exact_match"].n_attempted) == (1.0, 1)
    assert report.usage["requests"] == 1


def test_model_outcome_and_unanswered():
    """A refusal and a response without an answer are scored 0 and counted as unanswered; the run is complete."""
    evaluations = [
        scored("a", 1.0),
        scored("b", 0.0, answer=None),
        scored("c", 0.0, answer=None, error_kind="model"),
    ]
    generations = [answered("a"), answered("b"), lost("c", kind="model")]
    report = report_of(evaluations, generations, [("a", 0), ("b", 0), ("c", 0)])
    result = report.metrics["exact_match"]

    assert (result.mean, result.n_scored, result.n_unanswered, result.errors) == (1 / 3, 3, 2, {})
    assert (report.errors, report.status) == ({"model": 1}, "complete")


def test_kinds_of_loss():
    """Every unscored pair is counted under its reason; without a record it is missing."""
    evaluations = [unscored("a", "scorer"), unscored("b", "input")]
    generations = [answered("a"), lost("b", kind="input"), lost("c"), lost("d", kind="model")]
    report = report_of(evaluations, generations, [(name, 0) for name in "abcde"], interrupted=True)
    result = report.metrics["exact_match"]

    assert result.errors == {"infrastructure": 1, "input": 1, "missing": 2, "scorer": 1}
    assert report.errors == {"infrastructure": 1, "input": 1, "missing": 1, "model": 1}
    assert (
        result.mean,
        result.stderr,
        result.ci_low,
        result.n_scored,
        result.n_attempted,
    ) == (None, None, None, 0, 5)
    assert (result.bound_low, result.bound_high, report.status) == (0.0, 1.0, "interrupted")


def test_nothing_asked():
    """A report over nothing has no mean and no NaN."""
    report = report_of([], [], [])

    assert tuple(report.metrics["exact_match"][key] for key in ("mean", "bound_low", "n_attempted")) == (None, None, 0)
    json.dumps(to_json(report), allow_nan=False)


def test_two_rows_of_one_pair():
    """Two evaluations, or two generations, of one pair are refused rather than one being picked."""
    with pytest.raises(UsageError, match="two evaluations by exact_match of sample 'a', repeat 0"):
        report_of([scored("a", 1.0), scored("a", 0.0)], [], [("a", 0)])
    with pytest.raises(UsageError, match="two generations of sample 'a', repeat 0"):
        report_of([], [answered("a"), answered("a")], [("a", 0)])


def test_usage():
    """Tokens are summed over what servers told, and None where none told anything."""
    generations = [answered("a", input_tokens=5, attempts=2), answered("b", output_tokens=None), lost("c")]
    report = report_of([], generations, [(name, 0) for name in "abc"])

    assert report.usage == {
        "requests": 3,
        "attempts": 6,
        "input_tokens": 5,
        "output_tokens": 3,
        "reasoning_tokens": None,
        "cached_input_tokens": None,
    }


def test_order_of_metrics():
    """Metrics come in the order that was given, the main one first."""
    report = report_of([scored("a", 1.0, metric="z")], [answered("a")], [("a", 0)], metrics=["z", "a"])

    assert list(report.metrics) == ["z", "a"]
    assert report.status == "partial"


def test_groups():
    """Results by group cover each group's pairs, lost ones included."""
    evaluations = [scored("a", 1.0), scored("b", 0.0), scored("c", 1.0)]
    generations = [answered(name) for name in "abc"]
    found = group_results(
        columns(evaluations, EVALUATION_COLUMNS),
        columns(generations, GENERATION_COLUMNS),
        asked=[(name, 0) for name in "abcd"],
        metric="exact_match",
        groups={"a": "x", "b": "x", "c": None, "d": "y"},
    )

    assert [(r.group, r.mean, r.n_attempted) for r in found.values()] == [("x", 0.5, 2), ("y", None, 1)]
    assert found["y"].errors == {"missing": 1}


def test_groups_in_a_report():
    """A report breaks every metric down by group, with the mean of the groups' means and its standard error."""
    right = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0, "e": 0.0, "f": 1.0}
    groups = {"a": "x", "b": "x", "c": "y", "d": "y", "e": "y", "f": "y"}
    rows, answers = [scored(name, score) for name, score in right.items()], [answered(name) for name in right]
    report = report_of(rows, answers, [(name, 0) for name in right], groups=groups)
    result, x, y = report.metrics["exact_match"], *report.groups["exact_match"].values()

    assert (result.mean, result.n_groups, result.macro_mean) == (4 / 6, 2, (0.5 + 0.75) / 2)
    assert (x.group, x.mean, x.n_scored, y.mean, y.n_scored) == ("x", 0.5, 2, 0.75, 4)
    assert result.macro_stderr == pytest.approx((x.stderr**2 + y.stderr**2) ** 0.5 / 2, rel=1e-14)
    assert result.stderr_method == "independent samples"
    terminal = Console(file=io.StringIO(), width=200)
    terminal.print(report_table(report, groups=True))
    assert "exact_match (mean of 2 groups)  0.6250 ± " in terminal.file.getvalue()
    assert "exact_match (y)" in terminal.file.getvalue()
    assert to_json(report) == json.loads(json.dumps(to_json(report)))


def test_a_group_without_a_score_is_not_among_those_averaged():
    """The number of groups beside the macro average is that of the means in it."""
    groups = {"a": "x", "b": "y", "c": "z"}
    rows = [scored("a", 1.0), scored("b", 0.0), unscored("c", "infrastructure")]
    report = report_of(rows, [answered("a"), answered("b"), lost("c")], [(name, 0) for name in groups], groups=groups)
    result = report.metrics["exact_match"]

    assert (result.n_groups, result.macro_mean, list(report.groups["exact_match"])) == (2, 0.5, ["x", "y", "z"])


def test_groups_that_are_clusters():
    """Where groups are clusters, the standard error is over them, Student's interval too, and there is no breakdown."""
    scores = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0, "e": 1.0}
    groups = {"a": "p", "b": "p", "c": "q", "d": "q"}
    rows, answers = [scored(name, score) for name, score in scores.items()], [answered(name) for name in scores]
    report = report_of(rows, answers, [(name, 0) for name in scores], groups=groups, clustered=True)
    result = report.metrics["exact_match"]

    deviations = [2 * 0.4, 2 * -0.6, 0.4]
    expected = (3 / 2 * sum(value**2 for value in deviations)) ** 0.5 / 5
    assert (result.stderr_method, report.groups, result.n_groups) == ("clustered by group", {}, 0)
    assert result.stderr == pytest.approx(expected, rel=1e-14)
    assert (result.ci_low, result.ci_high) == (0.0, 1.0)


class Ratio(PooledMetric):
    """The quotient of two sums."""

    name = "ratio"

    def score(self, sample, generation):
        return Score(0.0)

    def pooled(self, sums):
        return sums[0] / sums[1]


def pooled_report(values, **options):
    """The report of a pooled metric over these values by sample, None for a lost one."""
    rows = [scored(name, 0.5, value=value, metric="ratio") for name, value in values.items() if value]
    pairs = [(name, 0) for name in values]
    return report_of(rows, [answered(name) for name in values], pairs, metrics=[Ratio()], **options)


def test_a_pooled_number():
    """The number is that of the sums; its error is the jackknife's, as computed by leaving out one sample by hand."""
    values = {"a": [1, 2], "b": [3, 5], "c": [0, 4], "d": [2, 2]}
    result = pooled_report(values).metrics["ratio"]
    others = [[value for name, value in values.items() if name != out] for out in values]
    left = [sum(value[0] for value in kept) / sum(value[1] for value in kept) for kept in others]
    center = sum(left) / 4

    assert (result.mean, result.stderr_method, result.bound_low) == (6 / 13, "jackknife over samples", 6 / 13)
    assert result.stderr == pytest.approx((3 / 4 * sum((one - center) ** 2 for one in left)) ** 0.5, rel=1e-12)
    as_json = pooled_report({name: json.dumps(value) for name, value in values.items()}).metrics["ratio"]
    assert as_json == result
    lost = pooled_report({**values, "e": None}).metrics["ratio"]
    assert (lost.mean, lost.n_scored, lost.errors, lost.bound_low) == (6 / 13, 4, {"missing": 1}, None)


def test_a_pooled_number_that_cannot_be_told(caplog):
    """Sums that make no number give None with a warning; the report is not lost."""
    assert pooled_report({"a": [0, 0], "b": [0, 0]}).metrics["ratio"].mean is None
    assert "made no number" in caplog.text
    assert pooled_report({"a": [1, 2], "b": [1, 2, 3]}).metrics["ratio"].mean is None
    assert "values of different lengths" in caplog.text
    one = pooled_report({"a": [1, 2]}).metrics["ratio"]
    assert (one.mean, one.stderr, one.ci_low) == (0.5, None, None)


def test_json():
    """The JSON has the names of Report's fields, and MetricResult's under every metric."""
    report = report_of(*hundred(), created_at=1.5, selection={"limit": 100}, config={"t": 0})
    found = json.loads(json.dumps(to_json(report), allow_nan=False))

    assert list(vars(report)) == list(found)
    assert list(MetricResult()) == list(found["metrics"]["exact_match"])
    assert found["metrics"]["exact_match"]["mean"] == 80 / 90


def test_table_never_shows_one_bare_number():
    """Terminal, Markdown and HTML show the mean with its error, interval, denominator, coverage, losses and status."""
    report = report_of(*hundred(), benchmark="a|b", model="<m>")
    terminal = Console(file=io.StringIO(), width=200)
    terminal.print(report_table([report, report]))
    shown = [
        "0.8889 ± 0.0333",
        "[0.8074, 0.9385]",
        "90/100 (90.0%)",
        "10 infrastructure",
        "[0.8000, 0.9000]",
        "partial",
    ]

    for text in (terminal.file.getvalue(), to_markdown(report), to_html(report)):
        assert [part for part in shown if part not in text] == []
    assert "a\\|b" in to_markdown(report)
    assert "&lt;m&gt;" in to_html(report)
    assert len(terminal.file.getvalue().splitlines()) == 3


def test_a_report_is_json_in_every_shape():
    """A report's __dict__ and its dataclasses.asdict() are JSON as they stand, and equal."""
    report = Report("run", "benchmark", "model", metrics={"m": MetricResult(metric="m", mean=0.5)})

    assert json.loads(json.dumps(report.__dict__)) == json.loads(json.dumps(dataclasses.asdict(report)))
    assert dataclasses.asdict(report)["metrics"]["m"]["mean"] == 0.5
