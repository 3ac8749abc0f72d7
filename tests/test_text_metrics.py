"""Metrics of text: parts that are found in a response, overlap with a target, and other tools' rules."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import time

import pytest

from themis import evaluate
from themis.backends import FsspecStorageBackend
from themis.errors import UsageError
from themis.ids import canonical_json
from themis.models import ReplayModel
from themis.records import GenerationRecord, Sample
from themis.score import score
from themis.scoring import evaluate_generation, load_metric, metric_names
from themis.scoring.needs import check_fit
from themis.scoring.overlap import squad_tokens

ARGUMENTS = {"after": "answer:", "json": "a.b", "lm_eval": "bbh", "regex": r"(\d+)\s*$", "regex_last": r"(\d+)"}


def scored(name, response, target):
    """The score of one response by the metric of that name."""
    return load_metric(name).score(Sample("s", "?", target), GenerationRecord("g", "?", response))


def of_text():
    """Every metric that a name means, families with an argument; those of choices and judges left out."""
    names = [f"{name}:{ARGUMENTS[name]}" if name in ARGUMENTS else name for name in metric_names()]
    return [name for name in names if not name.startswith(("acc", "choice", "judge", "pairwise"))]


@pytest.mark.parametrize(
    ("name", "response", "target", "score", "answer"),
    [
        (r"regex:Final: (\w+)", "Final: Yes, final: no", "yes", 1.0, "Yes"),
        (r"regex_last:(?i)final: (\w+)", "Final: Yes, final: no", "yes", 0.0, "no"),
        (r"regex:(?<=the answer is )(.*)(?=\.)", "So the answer is 5.", "5", 1.0, "5"),
        ("regex:nothing", "Final: Yes", "yes", 0.0, None),
        ("json:answer.value", 'So: {"answer": {"value": 18.50}}', "18.5", 1.0, "18.5"),
        ("json:answer", '{"answer": true}', "true", 1.0, "true"),
        ("json:answer", '{"answer": "New  York."}', "new york", 1.0, "New  York."),
        ("json:answer", '{"other": 1}', "1", 0.0, None),
        ("json:answer", '{"answer": 1e400}', "x", 0.0, "1e400"),
        ("after:Answer:", "Answer: Paris.", "paris", 1.0, "Paris"),
        ("last_line", "Some steps.\nParis", "Paris", 1.0, "Paris"),
        ("stated_match", "Some steps. So the answer is **(B)**.", "(B)", 1.0, "**(B)**"),
        ("token_f1", "The cat sat", "cat sat down", 0.8, "The cat sat"),
        ("squad_match", "The cat, sat!", "a cat sat", 1.0, "The cat, sat!"),
        ("rouge1", "the cat sat", "the cat ran", 2 / 3, "the cat sat"),
        ("rouge2", "the cat sat", "the cat ran", 0.5, "the cat sat"),
        ("rougeL", "sat the cat", "the cat sat", 2 / 3, "sat the cat"),
        ("rouge2", "cat", "cat", 0.0, "cat"),
        ("edit_similarity", "kitten", "sitting", 4 / 7, "kitten"),
        ("word_accuracy", "the cat  sat", "the cat sat down", 0.75, "the cat  sat"),
        ("word_accuracy", "a b c", "d", -2.0, "a b c"),
        ("character_accuracy", "abxd", "abcd", 0.75, "abxd"),
    ],
)
def test_scores(name, response, target, score, answer):
    """Each metric gives the score that its definition gives, and the part of the response that it read."""
    found = scored(name, response, target)

    assert (found.score, found.answer) == (pytest.approx(score, abs=1e-12), answer)


@pytest.mark.parametrize(
    ("rule", "response", "target", "score", "answer"),
    [
        ("strict-match", "so 5\n#### 1,234.", "1234", 1.0, "1,234."),
        ("strict-match", "#### 5 and #### 6", "6", 0.0, "5"),
        ("strict-match", "it is 5", "5", 0.0, None),
        ("flexible-extract", "it costs $1,234.", "1234", 1.0, "$1,234."),
        ("flexible-extract", "18.00 dollars", "18", 0.0, "18.00"),
        ("flexible-extract", "5 then 6", "6", 1.0, "6"),
        ("strict-match-cot", "The answer is 42.", "42", 1.0, "42"),
        ("bbh", "So the answer is (B). Then the answer is (C).", "(B)", 0.0, "(B). Then the answer is (C)"),
        ("bbh", "So the answer is (B).", "(B)", 1.0, "(B)"),
        ("bbh", "So the answer is (b).", "(B)", 0.0, "(b)"),
    ],
)
def test_rules_of_lm_eval(rule, response, target, score, answer):
    """The rules of lm-evaluation-harness are kept as they are: first match, text for text, with their own faults."""
    found = scored(f"lm_eval:{rule}", response, target)

    assert (found.score, found.answer) == (score, answer)


def test_flexible_extract_equals_its_definition(benchmark_data):
    """On 1,319 real responses the rule finds what its published pattern finds last."""
    with gzip.open(benchmark_data / "gsm8k_graded" / "175b_verification.jsonl.gz", "rt") as lines:
        responses = [json.loads(line)["solution"] for line in lines]
    pattern = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
    last = [next(filter(None, found[-1])) if (found := pattern.findall(text)) else None for text in responses]

    metric, sample = load_metric("lm_eval:flexible-extract"), Sample("s", "?", "1")
    assert [metric.score(sample, GenerationRecord("g", "?", text)).answer for text in responses] == last


PAIRS = [
    ("the cat sat on the mat", "the cat sat on a mat"),
    ("there is a cat", "the cat sat on the mat, it is said"),
    ("", "nothing was said"),
    ("nothing at all", "the quick brown fox jumps over the lazy dog"),
    ("Zwölf Boxkämpfer jagen Viktor", "Zwölf große Boxkämpfer jagen Viktor"),
]


@pytest.mark.parametrize("name", ["bleu", "chrf", "chrf++"])
def test_corpus_scores_are_those_of_sacrebleu(name):
    """Summed counts give sacrebleu's corpus score exactly, and each response has its sentence score."""
    from sacrebleu.metrics import BLEU, CHRF

    corpus = BLEU() if name == "bleu" else CHRF(word_order=2 if name == "chrf++" else 0)
    sentence = BLEU(effective_order=True) if name == "bleu" else corpus
    found = [scored(name, response, target) for response, target in PAIRS]

    sums = [sum(column) for column in zip(*(each.value for each in found), strict=True)]
    responses, targets = map(list, zip(*PAIRS, strict=True))
    assert load_metric(name).pooled(sums) == pytest.approx(corpus.corpus_score(responses, [targets]).score / 100)
    for each, (response, target) in zip(found, PAIRS, strict=True):
        assert each.score == pytest.approx(sentence.sentence_score(response, [target]).score / 100)


def test_corpus_bleu_of_a_run_is_pooled(tmp_path):
    """The number of a run is the corpus's, and not the mean of the sentences' scores."""
    from sacrebleu.metrics import BLEU

    rows = [{"id": str(n), "question": str(n), "answer": target} for n, (_, target) in enumerate(PAIRS)]
    answers = [{"sample_id": str(n), "response": response} for n, (response, _) in enumerate(PAIRS)]

    result = evaluate(rows, ReplayModel(answers), metrics=["bleu"], storage=tmp_path)

    responses, targets = map(list, zip(*PAIRS, strict=True))
    assert result.metrics["bleu"] == pytest.approx(BLEU().corpus_score(responses, [targets]).score / 100)


def test_error_rates_are_pooled():
    """Word accuracy of a run is 1 less all errors over all words of the targets."""
    metric = load_metric("word_accuracy")
    values = [
        scored("word_accuracy", response, target).value for response, target in [("a", "a b"), ("c d e f", "c d e f")]
    ]

    assert values == [[1, 2], [0, 4]]
    assert metric.pooled([1, 6]) == pytest.approx(5 / 6)


def test_squad_tokens():
    """SQuAD's normal form has neither case, punctuation nor articles; an article inside a word stays."""
    assert squad_tokens("The U.S.A., an area; a theatre!") == ["usa", "area", "theatre"]


def test_the_best_target_counts():
    """Of several targets the best one scores."""
    for name in ("token_f1", "rougeL", "edit_similarity", "word_accuracy", "chrf", "bleu"):
        response = "the cat sat on the mat"
        assert scored(name, response, ["a dog ran far away", response]).score == 1.0


@pytest.mark.parametrize(
    "text", ["1" * 10**6, "#### " * 200_000, "the answer is " * 70_000, "a " * 500_000, "\n" * 10**6]
)
def test_linear_time(text):
    """A megabyte made to defeat patterns costs no metric of ours more than a second and a half of CPU."""
    for name in of_text():
        # sacrebleu counts its n-grams in about as long; IFEval's metrics score rows of instructions only
        if not name.startswith(("bleu", "chrf", "prompt_level", "inst_level")):
            start = time.process_time()
            scored(name, text, "17 cats")
            assert time.process_time() - start < 1.5, name


@pytest.mark.parametrize("name", of_text())
def test_metrics_travel_and_their_settings_are_json(name):
    """Every metric that has a name pickles as equal, and its settings are JSON."""
    metric = load_metric(name)

    assert pickle.loads(pickle.dumps(metric)) == metric
    assert canonical_json(metric.config())
    assert metric.name == name


def test_settings_make_ids():
    """Two patterns, two paths and two units never share the id of a score."""
    names = ["regex:a", "regex:b", "regex_last:a", "json:a", "json:b", "after:a", "word_accuracy", "character_accuracy"]
    sample, generation = Sample("s", "?", "a"), GenerationRecord("g", "?", "a")
    ids = {evaluate_generation(load_metric(name), sample, generation).id for name in names}

    assert len(ids) == len(names)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_name_without_its_argument(name):
    """A metric that needs an argument says how it is written, before anything is asked."""
    word = load_metric(name).config()["argument"]
    with pytest.raises(UsageError, match=f"{name}:{word}"):
        load_metric(f"{name}:")
    with pytest.raises(UsageError, match=f"the metric '{name}' does not fit.*{name}:{word}"):
        check_fit([load_metric(name)], Sample("s", "?", "a"), "chat")


@pytest.mark.parametrize(
    ("metric", "target", "reason"),
    [
        ("choice_match", "5", "sample '0' has no choices"),
        ("acc", "5", "it compares log-likelihoods, and a chat request brings none"),
        ("number_match", "five", "the target 'five' of sample '0' has no number in it"),
    ],
)
def test_a_metric_that_does_not_fit_is_found_before_the_first_call(metric, target, reason, tmp_path):
    """evaluate() refuses a metric that cannot score the first sample, names what fits, and asks nothing."""
    asked = []
    with pytest.raises(UsageError, match=re.escape(reason)) as caught:
        evaluate([{"question": "?", "answer": target}], asked.append, metrics=["contains", metric], storage=tmp_path)

    assert f"the metric '{metric}' does not fit" in str(caught.value)
    assert "of those given, contains fits" in str(caught.value)
    assert asked == []


def test_scoring_a_stored_run_refuses_what_does_not_fit(tmp_path):
    """score() refuses such a metric too, and takes one that fits."""
    with FsspecStorageBackend(tmp_path) as storage:
        evaluate([{"question": "?", "answer": "5"}], lambda _: "It is 5", run_id="r", storage_backend=storage)

        with pytest.raises(UsageError, match="'choice_match' does not fit"):
            score("r", ["choice_match"], storage_backend=storage)
        assert score("r", [r"regex:(\d+)"], storage_backend=storage).metrics[r"regex:(\d+)"] == 1.0


def test_a_pattern_that_backtracks_is_an_error_of_the_scorer():
    """A response on which a pattern never ends has a scorer error, and no score of 0."""
    metric = load_metric(r"regex:^(a|a|b?a)+$")
    record = evaluate_generation(metric, Sample("s", "?", "a"), GenerationRecord("g", "?", "a" * 40 + "!"))

    assert (record.error_kind, record.score) == ("scorer", None)
    assert "it backtracks" in record.error_message
