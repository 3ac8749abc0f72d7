"""Benchmarks by name, out of own rows, and out of Python files."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import make_arithmetic
import pytest

import themis
from themis.benchmarks import Benchmark, benchmark_names, load_benchmark
from themis.errors import DataError, UnknownNameError, UsageError
from themis.plan import Selection
from themis.records import Request, Sample
from themis.scoring import ExactMatch
from themis.work import Item

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]


def test_names():
    """The shipped benchmarks are known by name, with where they come from and how they may be used."""
    assert {"arithmetic", "gsm8k", "math500"} <= set(benchmark_names())
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        assert benchmark.name == name
        assert all((benchmark.description, benchmark.citation, benchmark.licence, benchmark.source))


def test_arithmetic_is_its_generator():
    """The shipped rows are what the generator makes, and their questions are unique and of one line."""
    path = Path(themis.__file__).parent / "data" / "arithmetic.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    assert make_arithmetic.rows() == rows
    assert len({row["question"] for row in rows}) == 300
    assert not any("\n" in row["question"] for row in rows)
    assert any("." in row["answer"] for row in rows)
    assert any(row["answer"].startswith("-") for row in rows)


def test_arithmetic():
    """The question stands as a line of its own in the prompt, and every target is right by the metric."""
    benchmark = load_benchmark("arithmetic")
    for sample, prompt in benchmark.prompts():
        assert sample.input in prompt.splitlines()
        assert benchmark.prompt(sample) == prompt
        assert isinstance(float(sample.target), float)


def test_own_rows():
    """Rows without further words: the question is asked as it stands, ids are the rows' numbers from 0."""
    benchmark = load_benchmark(ROWS)
    samples = list(benchmark.samples())

    assert [(s.id, s.input, s.target) for s in samples] == [("0", "1 + 1?", "2"), ("1", "2 + 2?", "4")]
    assert [sample.metadata for sample in samples] == ROWS
    assert [prompt for _, prompt in benchmark.prompts()] == ["1 + 1?", "2 + 2?"]
    assert ("custom", (ExactMatch(),)) == (benchmark.name, benchmark.metrics)


def test_own_fields():
    """id, target and group are taken from their fields; numbers and booleans become their text."""
    rows = [
        {"id": 7, "x": "a", "target": 18.0, "answer": "no", "category": 3},
        {"id": "b", "x": "b", "answer": True, "subject": "logic"},
        {"id": "c", "x": "c", "target": ["1", 1]},
    ]
    samples = list(load_benchmark(rows, prompt="Say {x} {{now}}: {id}").samples())

    assert [(s.id, s.target, s.group) for s in samples] == [
        ("7", "18", "3"),
        ("b", "true", "logic"),
        ("c", ["1", "1"], None),
    ]
    assert load_benchmark(rows, prompt="Say {x} {{now}}: {id}").prompt(samples[0]) == "Say a {now}: 7"


def test_messages():
    """A row whose prompt is a list of messages is asked as these messages, after a system prompt where there is one."""
    asked = [{"role": "user", "content": "hello"}]
    benchmark = load_benchmark([{"prompt": asked, "target": "hi"}]).replace(system="Be brief.")

    ((_, prompt),) = benchmark.prompts()

    assert [{"role": "system", "content": "Be brief."}, *asked] == prompt


def test_generator_is_taken_once():
    """A generator's rows are pulled as they are needed, once, and can be walked again; it may be endless."""
    pulled = []

    def rows():
        for number in itertools.count():
            pulled.append(number)
            yield {"question": f"{number}?", "answer": number}

    benchmark = load_benchmark(rows())
    first = [sample.target for sample in itertools.islice(benchmark.samples(), 3)]
    again = [sample.target for sample in itertools.islice(benchmark.samples(), 4)]

    assert (first, again) == (["0", "1", "2"], ["0", "1", "2", "3"])
    assert pulled == [0, 1, 2, 3]


def test_two_walks_at_once():
    """Two walks over one generator at the same time each see every row."""
    benchmark = load_benchmark(row for row in ROWS)
    pairs = list(zip(benchmark.samples(), benchmark.samples(), strict=True))

    assert len(pairs) == 2
    assert all(one == other for one, other in pairs)


def test_data_file(tmp_path):
    """A data file is a benchmark under the file's name; `data` and `prompt` replace those of any benchmark."""
    path = tmp_path / "quiz.csv"
    path.write_text("question,answer\nWhat is 3 + 4?,7\n")

    assert load_benchmark(str(path)).name == "quiz"
    assert load_benchmark(path).name == "quiz"
    replaced = load_benchmark("gsm8k", data=path, prompt=lambda sample: f"Q: {sample.input}")
    ((sample, prompt),) = replaced.prompts()
    assert ("gsm8k", str(path), "7", "Q: What is 3 + 4?") == (
        replaced.name,
        replaced.source,
        sample.target,
        prompt,
    )


@pytest.mark.parametrize(
    ("rows", "prompt", "message"),
    [
        ([ROWS[0], {"question": "?"}], None, r"row 2 has no target \(it has question\)"),
        ([ROWS[0], {"question": "?", "answer": None}], None, r"row 2 has no target \(its 'answer' is null\)"),
        ([{"target": "", "question": "?"}], None, "row 1 has no target"),
        ([ROWS[0], {"x": "?", "answer": "1"}], None, "row 2 has none of the fields prompt, input, question"),
        (
            [ROWS[0], {"answer": "1"}],
            "{question}",
            "row 2: the prompt asks for {question}, .* it has answer, id, input",
        ),
        ([ROWS[0], ROWS[1] | {"id": "0"}], None, "rows 1 and 2 have one id, '0'"),
        ([ROWS[0], "text"], None, "row 2 is a str; every row must be a dict"),
        ([{"question": {1}, "answer": "1"}], None, "row 1 is not JSON"),
        ([], None, "there are no rows in 0 rows in memory"),
        ([ROWS[0]], lambda sample: sample.metadata["nothing"], "row 1: the prompt function raised KeyError"),
        ([ROWS[0]], lambda sample: 5, "row 1: the prompt function returned 5"),
    ],
)
def test_bad_rows(rows, prompt, message):
    """What a row lacks is said with its number, counted from 1."""
    with pytest.raises(DataError, match=message):
        list(load_benchmark(rows, prompt=prompt).prompts())


def test_bad_shipped_row():
    """Rows given in the place of a shipped benchmark's must have its fields."""
    with pytest.raises(DataError, match="gsm8k: row 1 has no 'answer'; its fields are question"):
        list(load_benchmark("gsm8k", data=[{"question": "?"}]).samples())
    with pytest.raises(DataError, match="gsm8k: row 1: there is no number in the answer 'none'"):
        list(load_benchmark("gsm8k", data=[{"question": "?", "answer": "none"}]).samples())


@pytest.mark.parametrize(
    ("benchmark", "error", "message"),
    [
        ("gsm8", UnknownNameError, "unknown benchmark 'gsm8'. Did you mean 'gsm8k'?"),
        ("quiz.jsonl", UsageError, "there is no file 'quiz.jsonl'"),
        ("owner/quiz", UnknownNameError, "hf://datasets/owner/quiz/FILE"),
        ("quiz.py", UsageError, "there is no file 'quiz.py'"),
        (3, UsageError, "3 is a int; a benchmark is a name"),
        ({"question": "?"}, UsageError, "is a dict; a benchmark is a name"),
    ],
)
def test_unknown(benchmark, error, message):
    """A name that is unknown, a file that is not there and a value that is no benchmark are told apart."""
    with pytest.raises(error) as caught:
        load_benchmark(benchmark)

    assert message in str(caught.value)


def test_wrong_prompt():
    """A prompt that is neither text nor a function is refused at once."""
    with pytest.raises(UsageError, match="prompt=5 is a int; give text"):
        load_benchmark(ROWS, prompt=5)
    with pytest.raises(UsageError, match="data=5 is a int"):
        load_benchmark("gsm8k", data=5)


FILE = """
from themis.benchmarks import Benchmark
from themis.records import Sample
from themis.scoring import Metric, Score

class Loud(Metric):
    name = "loud"
    def score(self, sample, generation):
        return Score(float(generation.response.isupper()), generation.response)

def sample(row, number):
    return Sample(str(number), row["word"])

shout = Benchmark("shout", lambda: [{"word": "hi"}], sample, "Shout {input}!", (Loud(),))
"""


def test_python_file(tmp_path):
    """A Python file defines a benchmark, or several of which one is named."""
    path = tmp_path / "my_bench.py"
    path.write_text(FILE)
    ((_, prompt),) = load_benchmark(path).prompts()
    assert prompt == "Shout hi!"

    path.write_text(f"{FILE}\nwhisper = shout.replace(name='soft')\n")
    assert load_benchmark(f"{path}:whisper").name == "soft"
    assert load_benchmark(f"{path}:soft").name == "soft"
    with pytest.raises(UsageError, match=r"defines shout, whisper; say which: .*my_bench\.py:shout"):
        load_benchmark(str(path))
    with pytest.raises(UsageError, match=r"unknown benchmark 'whisker'\. Did you mean 'whisper'"):
        load_benchmark(f"{path}:whisker")


def test_bad_python_file(tmp_path):
    """A Python file that raises, or defines nothing, is named with the reason."""
    path = tmp_path / "my_bench.py"
    path.write_text("x = 1")
    with pytest.raises(UsageError, match="defines no Benchmark"):
        load_benchmark(path)
    path.write_text("1 / 0")
    with pytest.raises(UsageError, match="could not be run: ZeroDivisionError: division by zero"):
        load_benchmark(path)


def test_python_file_travels(tmp_path):
    """A metric that a Python file defines can be used in a process that does not see the file."""
    import cloudpickle

    path = tmp_path / "my_bench.py"
    path.write_text(FILE)
    pickled = cloudpickle.dumps(load_benchmark(path).metrics[0])
    path.unlink()
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).name)"
    found = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True, timeout=60)

    assert found.stdout.strip() == b"loud"


def test_template_identity():
    """Equal templates have one identity, and what changes the prompt changes it."""
    one = load_benchmark(ROWS, prompt="{question}")

    assert one.template_identity() == load_benchmark(ROWS[:1], prompt="{question}").template_identity()
    others = [one.replace(template="{answer}"), one.replace(system="x"), one.replace(template=lambda s: s.input)]
    assert len({json.dumps(b.template_identity()) for b in [one, *others]}) == 4
    assert one.replace(template=len).template_identity() is None


def fingerprint(samples):
    """That of a call which asks each sample once."""
    selection = Selection()
    for sample in samples:
        selection.add(Item(Request(id=sample.id, prompt="", sample_id=sample.id), sample), [])
    return selection.fingerprint()


def test_fingerprint():
    """The fingerprint of the data changes with order, text and target."""
    samples = list(load_benchmark(ROWS).samples())
    changed = [samples[::-1], samples[:1], [samples[0], Sample("1", "2 + 2?", "5")]]

    assert fingerprint(samples) == fingerprint(load_benchmark(ROWS).samples())
    assert len({fingerprint(s) for s in [samples, *changed]}) == 4


def test_metrics_pickle():
    """The metrics of every shipped benchmark travel to workers."""
    for name in benchmark_names():
        metrics = load_benchmark(name).metrics
        assert metrics == pickle.loads(pickle.dumps(metrics))


def test_a_benchmark_is_itself():
    """A Benchmark value is taken as it is."""
    benchmark = Benchmark("b", lambda: ROWS, lambda row, number: Sample(str(number), "?"), "{input}", (ExactMatch(),))

    assert benchmark is load_benchmark(benchmark)
