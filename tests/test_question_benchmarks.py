"""Benchmarks of questions with choices and of free text, on data in the layout that is published; few-shot examples."""

from __future__ import annotations

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from themis import Model, Response, evaluate
from themis.benchmarks import FewShot, load_benchmark
from themis.benchmarks.bbh import TASKS
from themis.cli import themis
from themis.errors import DataError, UsageError
from themis.models import ReplayModel

MMLU = [
    {"question": "1 + 1?", "subject": "astronomy", "choices": ["1", "2", "3", "4"], "answer": 1},
    {"question": "2 + 1?", "subject": "law", "choices": ["1", "2", "3", "4"], "answer": 2},
]
DEV = [
    {"question": f"{n} + 0?", "subject": subject, "choices": ["0", "1", "2", "3"], "answer": n}
    for subject in ("astronomy", "law")
    for n in (0, 1, 2)
]
ARC_HUB = {
    "id": "Q1",
    "question": "Which is a star?",
    "choices": {"text": ["Moon", "Sun", "Mars"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
ARC_OWN = {
    "id": "Q1",
    "question": {
        "stem": "Which is a star?",
        "choices": [{"text": text, "label": label} for text, label in (("Moon", "A"), ("Sun", "B"), ("Mars", "C"))],
    },
    "answerKey": "B",
}
TRUTH = ["Nothing happens", "You die", "You grow", "You shrink"]
TRUTH_HUB = {"question": "What if you eat it?", "mc1_targets": {"choices": TRUTH, "labels": [1, 0, 0, 0]}}
TRUTH_OWN = {"question": "What if you eat it?", "mc1_targets": dict(zip(TRUTH, [1, 0, 0, 0], strict=True))}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder that $THEMIS_DATA names, and what writes rows into it."""
    folder = tmp_path / "data"
    monkeypatch.setenv("THEMIS_DATA", str(folder))

    def write(name, rows):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return path

    return write


def one(name, **options):
    """The first sample of a benchmark, and its prompt."""
    return next(load_benchmark(name, **options).prompts())


def test_mmlu(data):
    """MMLU asks for a letter, below lettered choices; subjects are groups."""
    data("mmlu/test.parquet", MMLU)

    sample, prompt = one("mmlu")

    assert (sample.id, sample.target, sample.group, sample.choices) == ("0", "B", "astronomy", ["1", "2", "3", "4"])
    assert prompt.endswith("1 + 1?\n\nA. 1\nB. 2\nC. 3\nD. 4")
    assert [each.group for each in load_benchmark("mmlu").samples()] == ["astronomy", "law"]


def test_mmlu_stem(benchmark_data, data):
    """The STEM part is 3,018 real questions of 18 subjects; out of all of MMLU it takes those subjects."""
    samples = list(load_benchmark("mmlu_stem", data=benchmark_data / "mmlu_stem" / "test.jsonl.gz").samples())
    data("mmlu/test.parquet", MMLU)

    assert (len(samples), len({each.group for each in samples}), samples[0].target) == (3018, 18, "C")
    assert [each.group for each in load_benchmark("mmlu_stem").samples()] == ["astronomy"]


def test_fewshot_as_turns(data):
    """Examples of the question's own subject stand in front as turns, the first ones of the source."""
    data("mmlu/test.jsonl", MMLU)
    data("mmlu/dev.jsonl", DEV)

    prompts = [prompt for _, prompt in load_benchmark("mmlu", num_fewshot=2).prompts()]

    assert [message["role"] for message in prompts[0]] == ["user", "assistant"] * 2 + ["user"]
    assert [message["content"] for message in prompts[0] if message["role"] == "assistant"] == [
        "Answer: A",
        "Answer: B",
    ]
    assert prompts[0][0]["content"].endswith("0 + 0?\n\nA. 0\nB. 1\nC. 2\nD. 3")
    assert prompts[0][4]["content"].endswith("1 + 1?\n\nA. 1\nB. 2\nC. 3\nD. 4")
    assert prompts[0][:4] == prompts[1][:4]


def test_fewshot_as_one_text(data):
    """The likelihood of letters is asked after one text: what it is about, examples with answers, the question."""
    data("mmlu/test.jsonl", MMLU)
    data("mmlu/dev.jsonl", DEV)

    sample, prompt = one("mmlu_loglikelihood", num_fewshot=1)

    assert prompt == (
        "Multiple-choice questions about astronomy, each with its answer.\n\n"
        "0 + 0?\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer: A\n\n1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert load_benchmark("mmlu_loglikelihood").continuations(sample) == [" A", " B", " C", " D"]
    assert one("mmlu_loglikelihood")[1].count("Answer:") == 1


def test_fewshot_of_mmlu_pro(benchmark_data, data):
    """MMLU-Pro's examples show their reasoning, in one text, behind the words that begin each answer."""
    row = {"question_id": 1, "question": "1 + 1?", "options": ["1", "2", "N/A"], "answer_index": 1, "category": "math"}
    steps = "A: Let's think step by step. One and one is two. The answer is (B)."
    data("mmlu_pro/validation.jsonl", [row | {"question": "0 + 2?", "cot_content": steps}])
    data("mmlu_pro/test.jsonl", [row])

    sample, prompt = one("mmlu_pro", num_fewshot=1)

    assert (sample.id, sample.choices, sample.target) == ("1", ["1", "2"], "B")
    assert prompt.startswith("Multiple-choice questions about math. Think step by step")
    assert prompt.endswith(
        "Question:\n0 + 2?\nOptions:\nA. 1\nB. 2\nAnswer: Let's think step by step. One and one is two. "
        "The answer is (B).\n\nQuestion:\n1 + 1?\nOptions:\nA. 1\nB. 2\nAnswer: Let's think step by step."
    )
    graded = next(load_benchmark("mmlu_pro", data=benchmark_data / "mmlu_pro").samples())
    assert "generated_text" not in graded.metadata
    assert "pred" not in graded.metadata


def test_fewshot_of_gsm8k(benchmark_data):
    """GSM8K's examples are the first of its 7,473 training questions, each with its gold solution."""
    assert benchmark_data
    _, prompt = one("gsm8k", num_fewshot=8)

    assert len(prompt) == 17
    assert prompt[1]["content"].endswith("#### 72")


@pytest.mark.parametrize("row", [ARC_HUB, ARC_OWN], ids=["hub", "authors"])
@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
def test_arc(data, name, row):
    """ARC's rows are read in the hub's layout and in the authors' own; digits as labels are letters in the prompt."""
    data(f"{name}/test.jsonl", [row])
    sample, prompt = one(name)
    likelihood = one(f"{name}_loglikelihood")

    assert (sample.id, sample.target) == ("Q1", "B")
    assert prompt.endswith("Which is a star?\n\nA. Moon\nB. Sun\nC. Mars")
    assert likelihood[1] == "Question: Which is a star?\nAnswer:"
    assert load_benchmark(f"{name}_loglikelihood").continuations(likelihood[0]) == [" Moon", " Sun", " Mars"]


def test_fewshot_of_arc(data):
    """An example of ARC by likelihood is a question with the text of its right choice."""
    data("arc_easy/test.jsonl", [ARC_HUB])
    data("arc_easy/train.jsonl", [ARC_HUB | {"question": "Which shines?"}])

    assert one("arc_easy_loglikelihood", num_fewshot=1)[1] == (
        "Question: Which shines?\nAnswer: Sun\n\nQuestion: Which is a star?\nAnswer:"
    )


@pytest.mark.parametrize("row", [TRUTH_HUB, TRUTH_OWN], ids=["hub", "authors"])
def test_truthfulqa(data, row):
    """The true choice, which the data has first, stands elsewhere, and in the same place whatever the layout."""
    rows = [row | {"question": f"What if {n}?"} for n in range(40)]
    data("truthfulqa/mc_task.json", rows)
    samples = list(load_benchmark("truthfulqa").samples())

    assert {sample.choices[ord(sample.target) - ord("A")] for sample in samples} == {"Nothing happens"}
    assert {sample.target for sample in samples} == set("ABCD")
    assert (
        samples[0].target
        == next(load_benchmark("truthfulqa", data=[TRUTH_HUB | {"question": "What if 0?"}]).samples()).target
    )
    assert one("truthfulqa_loglikelihood")[1] == "Q: What if 0?\nA:"


COT = """\
a line that is no question
-----
Evaluate the result of an expression.

Q: not ( True ) is
A: Let's think step by step.
The expression is False. So the answer is False.

Q: True and True is
A: Let's think step by step.
Both are True.

So the answer is True.
"""


@pytest.fixture
def bbh_data(data):
    """Two rows of every task, in the authors' layout, and the prompts of every task."""
    for task in TASKS:
        data(f"bbh/{task}.json", {"canary": "x", "examples": [{"input": f"{task}?", "target": "(B)"}] * 2})
        data(f"bbh/cot-prompts/{task}.txt", COT)
    return data


def test_bbh(bbh_data, tmp_path):
    """BBH has its 27 tasks as groups; what follows the last "answer is" is compared, else the one line there is."""
    samples = list(load_benchmark("bbh").samples())
    said = ["The answer is (A)? No: so the answer is (B).", "(B)"]
    answers = [{"sample_id": sample.id, "response": said[n % 2]} for n, sample in enumerate(samples)]

    result = evaluate("bbh", ReplayModel(answers), storage=tmp_path / "runs")

    assert [sample.id for sample in samples[:2]] == ["boolean_expressions-0", "boolean_expressions-1"]
    assert len({sample.group for sample in samples}) == 27
    assert result.metrics == {"exact_match": 1.0}


def test_fewshot_of_bbh(bbh_data):
    """BBH's examples are those of the authors' prompts, with their reasoning."""
    _, prompt = one("bbh", num_fewshot=2)

    assert prompt[0]["content"].startswith("not ( True ) is\n\nThink step by step")
    assert prompt[1]["content"] == "The expression is False. So the answer is False."
    assert prompt[3]["content"] == "Both are True.\n\nSo the answer is True."


class Likelihoods(Model):
    """Says how likely each continuation is: the longer, the less."""

    name = "likelihoods"
    kinds = frozenset({"loglikelihood"})

    def identity(self):
        return {"name": self.name}

    async def generate(self, request):
        return Response(text=None, choice_logprobs=[-float(len(text)) for text in request.continuations])


def test_likelihoods_through_evaluate(data, tmp_path):
    """A loglikelihood benchmark asks for each choice behind a space, and is stored, resumed, scored and replayed."""
    data("arc_easy/test.jsonl", [ARC_HUB, ARC_HUB | {"id": "Q2", "answerKey": "1"}])
    call = {"benchmark": "arc_easy_loglikelihood", "storage": tmp_path / "runs"}

    result = evaluate(**call, model=Likelihoods())
    again = evaluate(**call, model=Likelihoods())
    replayed = evaluate(**call, model=ReplayModel(result.generations))

    assert result.generations[0].choice_logprobs == [-5.0, -4.0, -5.0]
    assert result.metrics == {"acc": 0.5, "acc_norm": 0.5} == replayed.metrics
    assert again.n_asked == 0


def test_a_model_that_cannot_is_refused(data, tmp_path):
    """A model that has no likelihoods is refused before anything is read or asked."""
    with pytest.raises(UsageError, match="makes loglikelihood requests, and demo answers only"):
        evaluate("arc_easy_loglikelihood", "demo", storage=tmp_path)


def test_examples_are_part_of_what_a_run_is(data, tmp_path):
    """Another number of examples is another run; none is the same as not saying it."""
    data("mmlu/test.jsonl", MMLU)
    data("mmlu/dev.jsonl", DEV)
    ids = [evaluate("mmlu", "demo", num_fewshot=n, storage=tmp_path / "runs").report.run_id for n in (None, 0, 1, 3)]

    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_completion_instead_of_chat(data):
    """As completion a chat benchmark's examples are one text; a system prompt and likelihoods cannot become one."""
    data("mmlu/test.jsonl", MMLU)
    data("mmlu/dev.jsonl", DEV)
    benchmark = load_benchmark("mmlu", num_fewshot=1, kind="completion")

    _, prompt = one(benchmark)

    assert benchmark.kind == "completion"
    assert "A. 0\nB. 1\nC. 2\nD. 3\n\nAnswer: A\n\nAnswer the following" in prompt
    assert benchmark.template_identity() != load_benchmark("mmlu", num_fewshot=1).template_identity()
    with pytest.raises(DataError, match="row 1: a system prompt is for chat requests; a completion request takes one"):
        one(benchmark.replace(system="Be brief."))
    with pytest.raises(UsageError, match="kind='chat': 'mmlu_loglikelihood' makes loglikelihood requests"):
        load_benchmark("mmlu_loglikelihood", kind="chat")


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("mmlu_pro", "\n\nQuestion:"),
        ("gsm8k", "\n\nSolve the following problem step by step"),
        ("bbh", '\n\nThink step by step, then end with "So th'),
    ],
)
def test_completion_ends_before_another_question(name, stop):
    """A model that completes text is stopped where it would go on with a question of its own, and answer that."""
    assert load_benchmark(name, kind="completion").stop == (stop,)
    assert load_benchmark(name).stop is None
    own = load_benchmark([{"question": "?", "answer": "4"}], prompt="{question}")
    assert load_benchmark(own, kind="completion").stop is None


@pytest.mark.parametrize("name", ["mmlu", "mmlu_loglikelihood"])
def test_a_question_is_no_example_of_itself(data, name):
    """Where the question is among its examples, the next example takes its place, or there is one less."""
    rows = [{"question": f"{n} + 0?", "subject": "law", "choices": ["0", "1", "2"], "answer": n} for n in range(3)]
    data("mmlu/test.jsonl", rows)
    data("mmlu/dev.jsonl", rows)
    two = [str(prompt) for _, prompt in load_benchmark(name, num_fewshot=2).prompts()]
    three = [str(prompt) for _, prompt in load_benchmark(name, num_fewshot=3).prompts()]

    assert [[prompt.count(f"{n} + 0?") for n in range(3)] for prompt in two] == [[1, 1, 1]] * 3
    assert [[prompt.count(f"{n} + 0?") for n in range(3)] for prompt in three] == [[1, 1, 1]] * 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_fewshot": 4}, DataError, r"num_fewshot=4, but .*dev.jsonl has 3 examples for the group 'astronomy'"),
        ({"num_fewshot": -1}, UsageError, "num_fewshot=-1: give a whole number from 0"),
        ({"num_fewshot": True}, UsageError, "num_fewshot=True: give a whole number from 0"),
    ],
)
def test_wrong_numbers_of_examples(data, options, error, message):
    """More examples than there are, or a number that is none, is refused with what there is."""
    data("mmlu/test.jsonl", MMLU)
    data("mmlu/dev.jsonl", DEV)
    with pytest.raises(error, match=message):
        one("mmlu", **options)


def test_examples_that_are_not_there(data, monkeypatch):
    """Examples that cannot be had are advised on by themselves: data= would not bring them."""

    def no_hub(url):
        raise DataError(f"{url}: no hub")

    monkeypatch.setattr("themis.benchmarks.data.read_rows", no_hub)

    with pytest.raises(DataError, match=r"put the data at \$THEMIS_DATA/mmlu/dev\.\*, or ask without examples"):
        one(load_benchmark("mmlu", data=MMLU, num_fewshot=1))


def test_a_benchmark_without_examples(tmp_path):
    """Where there are no examples, the sentence names the benchmarks that have some; the command line says the same."""
    with pytest.raises(UsageError, match=r"'arithmetic' has no few-shot examples; arc_challenge, .* have"):
        load_benchmark("arithmetic", num_fewshot=2)
    command = ["eval", "arithmetic", "--model", "demo", "--num-fewshot", "2", "--storage", str(tmp_path)]
    assert "has no few-shot examples" in str(CliRunner().invoke(themis, command).exception)


def test_own_examples():
    """A benchmark of one's own gets examples from rows in memory; with a system prompt, and by its own template."""
    rows = [{"question": "2 + 2?", "answer": "4"}]
    shots = FewShot(lambda: [{"question": "1 + 1?", "answer": "2"}], lambda shot: shot.target)
    benchmark = load_benchmark(rows, prompt="Q: {question}").replace(fewshot=shots, num_fewshot=1, system="Be brief.")

    assert [message["content"] for message in one(benchmark)[1]] == ["Be brief.", "Q: 1 + 1?", "2", "Q: 2 + 2?"]


def test_own_rows_with_choices(tmp_path):
    """A row's list of choices is the sample's, so that letters of own questions are scored."""
    rows = [{"question": "Capital of France?", "choices": ["Rome", "Paris"], "answer": "Paris"}]

    result = evaluate(rows, lambda _: "It is (B).\n\n**B**", metrics=["choice_match"], storage=tmp_path)

    assert result.metrics == {"choice_match": 1.0}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("mmlu", {"question": "?", "choices": ["a"], "answer": 3}, "row 1 has 3 as the right choice's position"),
        ("mmlu", {"question": "?", "choices": "ab", "answer": 0}, "row 1 has 'ab' as 'choices'; it must be a list"),
        ("arc_easy", ARC_HUB | {"answerKey": "Z"}, "row 1 has 'Z' as 'answerKey'; its choices are 1, 2, 3"),
        ("arc_easy", {"question": "?", "answerKey": "A"}, "row 1 has no 'choices' with a list of 'text'"),
        ("truthfulqa", {"question": "?"}, "row 1 has no 'mc1_targets'; its fields are question"),
        ("truthfulqa", {"question": "?", "mc1_targets": {"a": 0, "b": 0}}, "row 1 has 0 true choices"),
        ("bbh", {"input": "?"}, "row 1 has no 'target'"),
    ],
)
def test_bad_rows(name, row, message):
    """A row that cannot be used is named with what it has."""
    with pytest.raises(DataError, match=message):
        list(load_benchmark(name, data=[row]).samples())


def test_a_zip_with_one_file(tmp_path):
    """A zip stands for the one data file in it, of whatever format; several are told, and what is no zip too."""
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.md", "words")
        archive.writestr("run/rows.json", json.dumps([{"question": "?", "answer": "5"}]))
    assert next(load_benchmark(str(path)).samples()).target == "5"
    assert ReplayModel(str(path), response="answer", prompt="question").identity()

    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.jsonl", "{}")
    with pytest.raises(DataError, match=r"a zip must have one data file in it; it has 2, run/rows\.json the first"):
        list(load_benchmark(str(path)).samples())
    path.write_text("no zip")
    with pytest.raises(DataError, match="is not what its ending says"):
        list(load_benchmark(str(path)).samples())
