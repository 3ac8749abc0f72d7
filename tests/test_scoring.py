"""Extraction, comparison, and what becomes of a generation when it is scored."""

from __future__ import annotations

import gzip
import json
import math
import os
import pickle
import time
from pathlib import Path

import pytest

from themis.benchmarks import load_benchmark
from themis.errors import UnknownNameError, UsageError
from themis.ids import text_hash
from themis.records import EvaluationRecord, GenerationRecord, Sample
from themis.scoring import (
    Contains,
    ExactMatch,
    FunctionMetric,
    Metric,
    Score,
    evaluate_generation,
    load_metric,
    metric_names,
)
from themis.scoring.numbers import final_number, same_number
from themis.scoring.text import contains_words, last_boxed, normal_latex, normal_text

DATA = Path(os.environ.get("THEMIS_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="THEMIS_DATA names no folder of benchmark data")
SAMPLE = Sample("s", "2 + 3?", "5", group="sums")


def generation(response, **fields):
    """One answer to SAMPLE."""
    return GenerationRecord("g", "2 + 3?", response, sample_id="s", repeat=1, benchmark="b", model="m", **fields)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1\n\n#### 2 eggs in 3 days", "2"),
        ("#### Step 1: two\nso it is 12", "1"),
        ("it is 12\n#### unknown", "12"),
        ("#### $1,234.50.", "1234.50"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("-\\$5", "-5"),
        ("$-5$", "-5"),
        ("\u22125", "-5"),
        ("5-3", "3"),
        ("5 - 3", "3"),
        ("x = 2\n- 3 apples", "3"),
        ("(7)-3", "3"),
        ("3-5%", "5"),
        ("A: -9", "-9"),
        ("\\boxed{-9}", "-9"),
        ("is **18**", "18"),
        ("18.00 dollars.", "18.00"),
        ("is .5", "0.5"),
        ("-.5", "-0.5"),
        ("so...5", "5"),
        ("129,200", "129200"),
        ("129{,}200", "129200"),
        ("129,\\!200", "129200"),
        ("129\u202f200", "129200"),
        ("1, 2,3", "3"),
        ("1.2e3", "1.2e3"),
        ("3eggs", "3"),
        ("none", None),
        ("", None),
    ],
)
def test_final_number(text, number):
    """The final number of a text is found, with its sign and without what decorates it."""
    assert number == final_number(text)


def test_same_number():
    """Numbers compare as exact decimals, whatever their size and their zeros."""
    assert same_number("18.00", "18")
    assert same_number("1.2e3", "$1,200")
    assert same_number("0.10", ".1")
    assert not same_number("129201", "129200")
    assert not same_number("0.30000000000000004", "0.3")
    assert not same_number("1" * 40 + "1", "1" * 40 + "2")
    with pytest.raises(ValueError, match="'five' has no number"):
        same_number("5", "five")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} and \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5$", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} and then \boxed{4", "3"),
        (r"\boxed{ }", None),
        ("no box", None),
    ],
)
def test_last_boxed(text, content):
    """The last box whose braces close is found."""
    assert content == last_boxed(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\dfrac{\pi}{2})"),
        (r"\frac12", r"\frac{1}{2}"),
        ("3/4", r"\tfrac{3}{4}"),
        (r"\frac{-3}{4}", r"-\frac34"),
        (r"90^\circ", "90"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"15\mbox{ cm}^2", "15"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\$18.90", "18.9"),
        (r"10,\!080", "10080"),
        (r"10{,}080", "10,080"),
        ("x = 5", "5"),
        (r"x \in [-2,7]", "[-2, 7]"),
        ("2_{8}", "2_8"),
        (r"\sqrt2", r"\sqrt{2}"),
        (".50", "0.5"),
        ("50\\%", "50"),
    ],
)
def test_normal_latex_joins(one, other):
    """Two ways of writing the same mathematics have one normal form."""
    assert normal_latex(one) == normal_latex(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("(1,234)", "1234"), ("x", "X"), ("129201", "129200"), ("2x", "x^2"), (r"1 \\ 2", "12"), ("10", "1"), ("-1", "1")],
)
def test_normal_latex_parts(one, other):
    """What is not the same keeps different normal forms."""
    assert normal_latex(one) != normal_latex(other)


def test_text():
    """Case, spaces, quotes, emphasis and a final dot do not matter in a text; whole words are told from parts."""
    assert normal_text('  **New   York**. "') == "new york"
    assert normal_text("3.5") == "3.5"
    assert normal_text(" * ") == "*"
    assert contains_words("born in 19, or so", "19")
    assert not contains_words("born in 1985", "19")


@needs_data
@pytest.mark.parametrize(("name", "right"), [("6b_finetuning", 286), ("175b_verification", 742)])
def test_gsm8k_graded(name, right):
    """GSM8K's metric agrees with the published grade of every one of 1,319 real answers."""
    (metric,) = load_benchmark("gsm8k").metrics
    with gzip.open(DATA / "gsm8k_graded" / f"{name}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    samples = [Sample("s", row["question"], row["ground_truth"].rpartition("\nA: ")[2]) for row in rows]
    scores = [metric.score(s, generation(row["solution"])).score for s, row in zip(samples, rows, strict=True)]

    assert [float(row["is_correct"]) for row in rows] == scores
    assert (1319, right) == (len(scores), sum(scores))


@needs_data
def test_gold_is_right():
    """Every gold solution of GSM8K and MATH-500 is right by its benchmark's own exact metric."""
    for name, solution, count in [("gsm8k", "answer", 1319), ("math500", "solution", 500)]:
        benchmark = load_benchmark(name)
        metric = benchmark.metrics[-1]
        scores = [metric.score(s, generation(s.metadata[solution])).score for s in benchmark.samples()]

        assert [1.0] * count == scores, name


@pytest.mark.parametrize(
    "text",
    [
        "1" * 10**6,
        "1," * 500_000,
        "1,111," * 160_000,
        "1.1e1" * 200_000,
        " -$" * 330_000,
        "#" * 10**6,
        "{" * 10**6,
        "\\boxed{" * 140_000,
        "\\boxed{" + "{" * 10**6,
        "\\boxed{" * 100_000 + "}" * 100_000,
        "\\boxed{" + " " * 10**6 + "}",
        "\\boxed{" + "\\text{" * 160_000 + "}" * 160_000 + "}",
        "\\boxed{1" + "0" * 10**6 + ".}",
        "\\boxed{" + "1,111" * 200_000 + "}",
        "\\boxed{" + "x^{1}" * 200_000 + "}",
    ],
    ids=lambda text: text[:12],
)
def test_linear_time(text):
    """A megabyte made to defeat patterns is scored by every comparison in less than two seconds of CPU."""
    start = time.process_time()
    for metric in (ExactMatch(), ExactMatch("number"), ExactMatch("boxed"), Contains()):
        assert math.isfinite(metric.score(SAMPLE, generation(text)).score)

    assert time.process_time() - start < 2


def test_evaluation_of_an_answer():
    """A scored generation gives a record with the answer, the target, the scorer and the hash of the response."""
    record = evaluate_generation(ExactMatch("number"), SAMPLE, generation("It is 5."))

    assert (
        record.score,
        record.answer,
        record.target,
        record.status,
        record.error_kind,
    ) == (1.0, "5", "5", "ok", None)
    assert ("exact_match@1", text_hash("It is 5."), "sums") == (record.scorer, record.response_hash, record.group)
    assert (
        record.generation_id,
        record.sample_id,
        record.repeat,
        record.benchmark,
        record.model,
    ) == ("g", "s", 1, "b", "m")
    json.dumps(record.__dict__)


def test_no_answer_found():
    """A response without an answer is scored 0, and its answer is None."""
    for metric, response in [(ExactMatch("number"), "no idea"), (ExactMatch("boxed"), "5"), (ExactMatch(), " ")]:
        record = evaluate_generation(metric, SAMPLE, generation(response))

        assert (record.score, record.answer, record.status) == (0.0, None, "ok")


@pytest.mark.parametrize("kind", ["infrastructure", "input"])
def test_lost_generation(kind):
    """What the infrastructure or the request lost is not scored, and keeps its kind and its message."""
    lost = generation(None, status="error", error_kind=kind, error_type="E", error_message="why")
    record = evaluate_generation(ExactMatch(), SAMPLE, lost)

    assert ("error", None, kind, "E", "why", None) == (
        record.status,
        record.score,
        record.error_kind,
        record.error_type,
        record.error_message,
        record.response_hash,
    )


def test_outcome_of_the_model():
    """A refusal is the model's own outcome: scored 0, with its kind kept in sight."""
    refused = generation(None, status="error", error_kind="model", error_type="E", error_message="refused")
    record = evaluate_generation(ExactMatch(), SAMPLE, refused)

    assert (
        record.status,
        record.score,
        record.answer,
        record.error_kind,
        record.error_message,
    ) == ("ok", 0.0, None, "model", "refused")


@pytest.mark.parametrize(
    "func",
    [
        lambda s, g: 1 / 0,
        lambda s, g: math.nan,
        lambda s, g: math.inf,
        lambda s, g: "right",
        lambda s, g: None,
        lambda s, g: Score(1.0, answer=5),
        lambda s, g: Score(1.0, value={1, 2}),
    ],
)
def test_failing_scorer(func):
    """A metric that raises, or whose score cannot be stored, is an error of the scorer and never a 0."""
    record = evaluate_generation(FunctionMetric(func), SAMPLE, generation("5"))

    assert (record.status, record.score, record.error_kind) == ("error", None, "scorer")
    assert record.error_message


def test_missing_target_is_an_error():
    """A sample without a target, or a target that is no number, is an error of the scorer."""
    for sample in (Sample("s", "?"), Sample("s", "?", "five")):
        assert evaluate_generation(ExactMatch("number"), sample, generation("5")).error_kind == "scorer"


def test_evaluation_id():
    """The id of an evaluation changes with the metric, its settings and the target, and with nothing else."""
    one = evaluate_generation(ExactMatch("number"), SAMPLE, generation("5"))
    ids = {
        evaluate_generation(metric, sample, generation(response)).id
        for metric, sample, response in [
            (ExactMatch("number"), SAMPLE, "6"),
            (ExactMatch("boxed"), SAMPLE, "5"),
            (ExactMatch("number", "number_match"), SAMPLE, "5"),
            (ExactMatch("number"), Sample("s", "?", "6"), "5"),
        ]
    }

    assert len(ids) == 4
    assert one.id in ids


def test_several_targets():
    """One of several targets is enough."""
    sample = Sample("s", "?", ["four", "4"])

    assert ExactMatch().score(sample, generation("Four.")).score == 1.0
    assert Contains().score(sample, generation("It is 4, I think")).score == 1.0
    assert Contains().score(sample, generation("It is 44")).score == 0.0


def test_function_metric():
    """A function is a metric under its own name, and two of one text have one identity."""

    def is_short(sample, generation):
        return len(generation.response) < 3

    record = evaluate_generation(load_metric(is_short), SAMPLE, generation("5"))

    assert (record.metric, record.score, record.answer) == ("is_short", 1.0, "5")
    assert FunctionMetric(lambda s, g: 1).config() == FunctionMetric(lambda s, g: 1).config()
    assert FunctionMetric(lambda s, g: 1).config() != FunctionMetric(lambda s, g: 0).config()


def test_function_of_unknown_identity():
    """A callable whose code cannot be told never shares a stored score with another object, but does with its copy."""
    one, other = FunctionMetric(max, "m"), FunctionMetric(max, "m")

    assert one.config() != other.config()
    assert one.config() == pickle.loads(pickle.dumps(one)).config()


def test_load_metric():
    """A name means the benchmark's own metric first, then the table; all else is refused with what is possible."""
    own = load_benchmark("arithmetic").metrics

    assert own[0] is load_metric("exact_match", own)
    assert ExactMatch() == load_metric("exact_match")
    assert {"boxed_match", "contains", "exact_match", "judge", "number_match", "pairwise"} <= set(metric_names())
    assert Contains() == load_metric(Contains)
    with pytest.raises(UnknownNameError, match=r"'exact_mach'\. Did you mean 'exact_match'"):
        load_metric("exact_mach", own)
    with pytest.raises(UsageError, match="give a name, a Metric or a function"):
        load_metric(3)


def test_metric_without_name():
    """A metric that has no name is refused before anything is scored."""

    class Nameless(Metric):
        def score(self, sample, generation):
            return Score(1.0)

    with pytest.raises(UsageError, match="Nameless has no name"):
        load_metric(Nameless())


def test_cost():
    """One exact match with its record takes less than 100 microseconds of CPU (about 15 where nothing else runs)."""
    metric, answer = ExactMatch("number"), generation("First 2, then 3, which makes 5.\n#### 5")
    start = time.process_time()
    records = [evaluate_generation(metric, SAMPLE, answer) for _ in range(2000)]

    assert time.process_time() - start < 0.2
    assert all(isinstance(record, EvaluationRecord) and record.score == 1.0 for record in records)
