"""Multiple choice: which letter a response picks by each rule, and which choice is the likeliest."""

from __future__ import annotations

import json
import re
import time
import zipfile

import pytest

from themis import evaluate
from themis.errors import UnknownNameError, UsageError
from themis.models import ReplayModel
from themis.records import GenerationRecord, Sample
from themis.scoring import ChoiceMatch, LikeliestChoice, evaluate_generation, load_metric
from themis.scoring.choices import RULES, choice_index

CITIES = ["Paris", "London", "Rome", "New York"]
TEN = [f"choice {number}" for number in range(10)]
SAMPLE = Sample("s", "?", "B", choices=CITIES)


def answer(response, **fields):
    """One answer to SAMPLE."""
    return GenerationRecord("g", "?", response, **fields)


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "(B)",
        "b",
        "B.",
        "B) London",
        "**B**",
        "**Answer: (B)**",
        "**Answer:** B",
        "### Answer\nB",
        "Answer:\n\nB",
        "ANSWER: B",
        "answer = B",
        "My answer: b",
        "Answer: B. London",
        "The answer is B.",
        "The answer is (A)... no wait, the answer is (B).",
        "The correct answer is **B) London**.",
        "The right answer is **B**: it has the Thames.",
        "So the correct answer is option B: London",
        "The correct option is **(B)**",
        'The best choice is "B"',
        "B is the correct answer",
        "Option A is wrong, for it is in France. Option D is too far away. So (B) is correct.",
        "Answer B is right. Answer A is wrong, and answer C is not what was asked.",
        "It's not A because that makes no sense, therefore I think it's B",
        "The answer is for sure B, it can't be A or C",
        "The answer: B, it makes no sense for it to be A or C",
        "B. it can't be A or C",
        "Alina, and the answer is\nB London",
        "B London\nand nothing else",
        "B\u3002 it is not A",
        "I'd go with B",
        "A: no. C is wrong. Therefore, the answer is: (B)",
        "A. Paris is far\nB. London has the river\nC. Rome is old\n\nThe final answer is $\\boxed{B}$.",
        "\\boxed{\\text{B}}",
        "$\\boxed{\\text{(B) London}}$",
        "**B. London**\n\nIt stands on the Thames; the others do not.",
        "It stands on the Thames.\n\n**B**",
        "London",
        "The answer is London.",
        "Answer: **London**",
        "<think>The answer is A. Wait, no.</think>\n\n**B**",
        "The answer is A. Wait, that is in France.\n\nThe answer is B.",
        "The answer is A.\n\nOn second thought:\n\n**B**",
        "You might think that the answer is A, but it must be B.",
        "The answer is B, not A.",
        "The answer is B. The answer is not A.",
        "The answer is B. A is wrong, for it is in France.",
        "The answer is B (London), not C (Rome).",
        "C. Rome is old\nB. London has the river\nA. Paris is far\n\nB. London",
        "B\n\nA: in France.\nC: in Italy.\nD: in America.",
        '{"reason": "the Thames", "answer": "B"}',
        "```json\n{'answer': 'B'}\n```",
        "<answer>\nB\n</answer>",
        "My guess is B",
        "The answer is: <b>B</b>!!",
        "I'm not certain, but the answer is B",
        "It might be A. It could be C. I'd go with B.",
        "The question asks which is not in France. The answer is B.",
        "Option B.",
        "B is the answer.",
        "\\boxed{London}",
        "A and C are wrong, so B",
        "It stands on the Thames, so it is London.",
        "B\u4e0d\u662f A",
        "La r\u00e9ponse est B, non A",
        "\u7b54\u6848\u662fB",
        "A good guess would be the one on the Thames.\n\nSo: London",
    ],
)
def test_chat_finds_the_letter(text):
    """The forms in which chat models give a letter, or the choice's text, are all read as that choice."""
    assert RULES["chat"](text, CITIES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know.",
        "A good question!",
        "The answer is a matter of taste.",
        "Answer: I think it is hard to say",
        "The answer is (E).",
        "The answer is A380.",
        "It is Paris or London.",
        "Option A is wrong, and so is option C, which leaves two.",
        "No capital is the answer",
        "It's A good question",
        "A capital",
        "It is A or B.",
        "The answer is A or B.",
        "The answer is (A) and (C).",
        "Answer: A, B",
        "Answer: A/B",
        "The answer is A (or B)",
        '{"A": 0.1, "B": 0.9}',
        '{"answer": ["A", "B"]}',
        "\\boxed{A, C}",
        "A, B and C are wrong.",
        "B - C",
        "A\nB\nC\nD",
        "The answer is not A.",
        "I would not choose A.",
        "Never choose C.",
        "I don't think A is correct.",
        "It is not the case that A is correct.",
        "If A is correct, C is wrong.",
        "Many would choose A, but that is wrong.",
        "You might think the answer is A, but it's wrong.",
        "The answer is A. Wait, let me look at that again: the Seine is not",
        "Answer A seems plausible but is wrong.",
        "We compare answer A with answer C.",
        "Vitamin C is the best",
        "Point A is right on the line.",
        "If statement A is true, then B follows.",
        "The answer is A city in England",
        "The answer is hepatitis B",
        "The answer is B cells",
        "The answer is C/C++",
        "The answer is C.I.A.",
        "Answer: A = 5",
        "The answer is $A \\cup B$.",
        "A) Paris is in France.\nB) London is in England.\nC) Rome is in Italy.\nD) New York is in America.",
        "Now consider each choice:\n(A) means that it is in France\n(B) means",
        "Option A: Paris is in France.\nOption B: London is in England.\nOption C: Rome",
        "A: I'm sorry, I cannot answer that.",
        "A Paris of the north would be",
        "It's not London",
        "The answer is not London",
        "I cannot say whether it is London.",
        "London or Paris",
        "The answer is London or Rome",
    ],
)
def test_chat_does_not_guess(text):
    """A response that names no choice has no answer, letters inside sentences and unknown letters included."""
    assert RULES["chat"](text, CITIES) is None


def test_chat_knows_a_text_that_begins_with_a_letter():
    """A choice's own text that begins like a letter with a full stop is that choice, not the letter's."""
    species = ["C. difficile", "E. coli", "B. subtilis", "none", "all"]

    for text in ("The answer is E. coli.", "E. coli", "**Answer: E. coli**"):
        assert RULES["chat"](text, species) == "B"
    assert RULES["chat"]("The answer is B. E. coli", species) == "B"


def mmlu_pro_reference(text):
    """The three steps of MMLU-Pro's script, as slow as they are there: what the fast rule has to equal."""
    first = re.search(r"answer is \(?([A-J])\)?", text) or re.search(r".*[aA]nswer:\s*([A-J])", text)
    if first:
        return first.group(1)
    last = re.search(r"\b[A-J]\b(?!.*\b[A-J]\b)", text, re.DOTALL)
    return last.group(0) if last else None


@pytest.mark.parametrize(
    ("rule", "text", "letter"),
    [
        ("answer_is", "answer is (C). The answer is (D)", "C"),
        ("answer_is", "The answer is J", "J"),
        ("answer_is", "Answer: C", None),
        ("answer_is", "The answer is: (C)", None),
        ("mmlu_pro_script", "x\nAnswer: C or Answer: D\nAnswer: E", "D"),
        ("mmlu_pro_script", "answer:\n\n F", "F"),
        ("mmlu_pro_script", "Answer:Answer: B", "B"),
        ("mmlu_pro_script", "I pick C, or D maybe", "D"),
        ("mmlu_pro_script", "no", None),
        ("mmlu_pro_script_v1", "I pick C, or DNA", "A"),
        ("answer_line", "Answer: $D$ then answer: B", "D"),
        ("answer_line", "Answer: E", None),
        ("first_letter", "I say C, not D", "C"),
        ("last_letter", "I say C, not D", "D"),
        ("only_letter", " (c). ", "C"),
        ("only_letter", "C is it", None),
        ("boxed", "so \\boxed{C}", "C"),
        ("boxed", "C", None),
        ("simple_evals", "**Answer:** $D$", "D"),
        ("simple_evals", "উত্তর: খ", None),
        ("simple_evals", "Respuesta : B", "B"),
        ("simple_evals", "答案\uff1a\uff23", "C"),
        ("simple_evals", "الإجابة: ب", "B"),
        ("simple_evals", "the answer is B", None),
        ("simple_evals", f"Answer:{6 * chr(0x200B)} D", "D"),
    ],
)
def test_rules(rule, text, letter):
    """Each rule finds what it was published to find, and nothing else."""
    choices = CITIES if rule in {"answer_line", "first_letter", "last_letter", "only_letter", "boxed"} else TEN
    assert RULES[rule](text, choices) == letter


def test_the_fast_rule_equals_the_published_script(benchmark_data):
    """MMLU-Pro's three steps and their linear form agree on 2,000 real responses, and on their tails."""
    for row in graded_rows(benchmark_data)[:2000]:
        for text in (row["generated_text"], row["generated_text"][-60:]):
            assert RULES["mmlu_pro_script"](text, TEN) == mmlu_pro_reference(text)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "text",
    [
        *("A" * 10**6, " " * 10**6, "A " * 500_000, "*" * 10**6, "\\boxed{" * 140_000, "(A) " * 250_000),
        *("answer is " * 100_000, "Answer:" * 140_000, "Answer:\n" * 120_000, "answer" + " " * 10**6),
        *("option is " * 100_000, "A is the " * 110_000, "Paris " * 160_000, "A.\n" * 330_000, "答案 " * 330_000),
        *("If the answer is A. " * 50_000, "(A) or (B) " * 90_000, "Answer: A" * 110_000, "B " + "x" * 10**6),
    ],
    ids=lambda text: repr(text[:9]),
)
def test_linear_time(rule, text):
    """A megabyte made to defeat patterns costs any rule less than a second and a half of CPU."""
    start = time.process_time()

    RULES[rule](text, CITIES)

    assert time.process_time() - start < 1.5


@pytest.mark.parametrize(
    ("target", "index"), [("B", 1), ("London", 1), ("1", 1), ("E", None), ("9", None), ("b", None)]
)
def test_targets(target, index):
    """A target is a letter, a choice's text or its position; anything else is none of the choices."""
    assert choice_index(target, CITIES) == index
    assert choice_index("1", ["0", "2", "1", "3"]) == 2


def test_choice_match():
    """The right letter scores 1, another 0, none 0 without an answer; a target may be the choice's text."""
    metric = ChoiceMatch()
    found = [metric.score(SAMPLE, answer(text)) for text in ("B", "The answer is C", "hm")]

    assert [(score.score, score.answer) for score in found] == [(1.0, "B"), (0.0, "C"), (0.0, None)]
    assert metric.score(Sample("s", "?", "London", choices=CITIES), answer("(B)")).score == 1.0


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample("s", "?", "B"), "sample 's' has no choices"),
        (Sample("s", "?", None, choices=CITIES), "has no target"),
        (Sample("s", "?", "Berlin", choices=CITIES), "the target 'Berlin' of sample 's' is none of its choices"),
        (Sample("s", "?", "B", choices=["x"] * 27), "27 choices, more than there are letters"),
    ],
)
def test_a_sample_without_choices_is_an_error(sample, reason):
    """Letters of a sample that has no choices are an error of the scorer, and known before anything is asked."""
    for metric, generation in [
        (ChoiceMatch(), answer("B")),
        (LikeliestChoice(), answer(None, kind="loglikelihood", choice_logprobs=[-1.0] * 4)),
    ]:
        record = evaluate_generation(metric, sample, generation)

        assert (record.error_kind, record.score) == ("scorer", None)
        assert reason in record.error_message
        assert reason in metric.unfit(sample, generation.kind)


def test_likeliest_choice():
    """Acc compares log-likelihoods, acc_norm divides by characters, acc_bytes by bytes; the first of equals wins."""
    sample = Sample("s", "?", "B", choices=["no", "a long one", "üüüü"])
    found = answer(None, kind="loglikelihood", choice_logprobs=[-3.0, -5.0, -2.2])
    names = ("acc", "acc_norm", "acc_bytes")
    letters = [load_metric(name).score(sample, found).answer for name in names]

    assert letters == ["C", "B", "C"]
    assert load_metric("acc").score(sample, answer(None, choice_logprobs=[-1.0, -1.0, -2.0])).answer == "A"


@pytest.mark.parametrize("logprobs", [None, [-1.0], [-1.0, float("nan"), -2.0, -3.0]])
def test_wrong_loglikelihoods_are_errors(logprobs):
    """Missing, too few or infinite log-likelihoods are an error of the scorer."""
    record = evaluate_generation(LikeliestChoice(), SAMPLE, answer(None, choice_logprobs=logprobs))

    assert record.error_kind == "scorer"
    assert "choice_logprobs" in record.error_message


def test_a_rule_that_does_not_exist():
    """An unknown rule is refused with the nearest and all that there are."""
    with pytest.raises(UsageError, match=r"unknown rule of choice_match 'last_leter'\. Did you mean 'last_letter'"):
        load_metric("choice_match:last_leter")
    with pytest.raises(UnknownNameError, match="Did you mean 'choice_match'"):
        load_metric("choice_mach")


def test_rules_have_names_of_their_own():
    """Two rules are two metrics with two names, and their scores have different ids."""
    chat, last = load_metric("choice_match"), load_metric("choice_match:last_letter")
    ids = {evaluate_generation(metric, SAMPLE, answer("B")).id for metric in (chat, last)}

    assert (chat.name, last.name) == ("choice_match", "choice_match:last_letter")
    assert len(ids) == 2


def graded_rows(benchmark_data):
    """The published run of a model over MMLU-Pro: one JSON list in a zip."""
    (path,) = (benchmark_data / "mmlu_pro").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def test_mmlu_pro_has_the_publishers_answers(benchmark_data, tmp_path):
    """12,032 real responses through evaluate(): each answer is the published one, 2,906 right, 1,865 without one."""
    rows = graded_rows(benchmark_data)
    model = ReplayModel(rows, response="generated_text", sample_id="question_id", name="mistral")

    result = evaluate("mmlu_pro", model, storage=tmp_path)

    metric = result.report.metrics["choice_match"]
    assert (metric.mean, metric.n_scored, metric.n_unanswered) == (2906 / 12032, 12032, 1865)
    published = {str(row["question_id"]): row["pred"] for row in rows}
    assert {each.sample_id: each.answer for each in result.evaluations} == published
    assert {each.group for each in result.evaluations} == {row["category"] for row in rows}
