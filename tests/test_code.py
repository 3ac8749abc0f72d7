"""Code as an answer: how it is found, how it is scored, and the benchmarks that ask for it."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest

from themis import evaluate
from themis.benchmarks import load_benchmark
from themis.errors import DataError, UsageError
from themis.models.replay import ReplayModel
from themis.records import GenerationRecord, Sample
from themis.scoring import PassAtK, evaluate_generation, load_metric, sandbox
from themis.scoring.code import PassesTests, extract_code, in_words
from themis.scoring.sandbox import Execution, Limits

START = """import math


def half(x):
    '''Half of x.'''
    return x / 2


def quarter(x):
    '''A quarter of x.'''
"""
FUNCTION = "def quarter(x):\n    return x / 4\n"
TESTS = "def check(f):\n    assert f(8) == 2\n    assert f(-4) == -1\n\n\ncheck(quarter)"
ROW = {"prompt": START, "entry_point": "quarter", "test": TESTS}
SAMPLE = Sample("q", START, TESTS, metadata=ROW)
METRIC = PassesTests(start="prompt", entry_point="entry_point", limits=Limits(seconds=1.0))


def scored(response, metric=METRIC, sample=SAMPLE, kind="chat"):
    """The evaluation of a response."""
    return evaluate_generation(metric, sample, GenerationRecord("g", "", response, kind=kind))


@pytest.fixture(autouse=True)
def any_level(monkeypatch):
    """These programs are known: the tests run on machines that isolate little, too."""
    monkeypatch.setenv("THEMIS_ISOLATION", "process")


RIGHT = {
    "body": "    return x / 4",
    "body, stripped": "return x / 4",
    "body, first line stripped": "y = x / 2\n    if y:\n        y /= 2\n    return y",
    "body, opening a block": "if x:\n        return x / 4\n    return 0",
    "body, all in a block": "while True:\n    x /= 2\n    return x / 2",
    "body in a fence": "```python\n    return x / 4\n```",
    "body in a fence, stripped": "Sure!\n```\nreturn half(half(x))\n```",
    "function": "def quarter(x):\n    return half(x) / 2",
    "function in a fence": "Here:\n\n```python\ndef quarter(x):\n    return math.floor(x / 4)\n```\nIt divides.",
    "all repeated": f"```py\n{START}    return x / 4\n```",
    "fence that does not close": "```python\ndef quarter(x):\n    return x / 4\n",
    "words around it": "The idea is to divide.\n\ndef quarter(x):\n    return x / 4\n\nThat is all.",
    "usage after it": "```python\ndef quarter(x):\n    return x / 4\n```\nUse:\n```python\nprint(quarter(8))\n```",
    "second thoughts": f"```python\ndef quarter(x):\n    return x\n```\nNo:\n```python\n{FUNCTION}```",
    "other languages": f"```bash\npip install x\n```\n```python\n{FUNCTION}```\n```text\n2\n```",
    "in a list": "1. Write\n   ```python\n   def quarter(x):\n       return x / 4\n   ```\n",
    "fence after words": f"Here: ```python\n{FUNCTION}```",
    "fence after code": f"```python\n{FUNCTION.rstrip()}```\nDone.",
    "body and a stray fence": "    return x / 4\n```\nThat is all.",
    "fence in a text": "```python\ndef quarter(x):\n    s = '```x'\n    return x / 4\n```",
    "four backticks": f"````python\n{FUNCTION}````",
    "tildes": f"~~~python\n{FUNCTION}~~~\nIt divides.",
    "language with a version": f"```python3.11\n{FUNCTION}```",
    "language in braces": f"```{{.python}}\n{FUNCTION}```",
    "fence in a docstring": "```python\ndef quarter(x):\n    '''X.\n\n    ```\n    x\n    ```\n    '''\n"
    "    return x / 4\n```",
    "too far in": "```python\n    def quarter(x):\n        return x / 4\n```",
    "function of another block": "```\ndef h(x):\n    return x / 4\n```\nSo:\n```\n"
    f"{FUNCTION.replace('x / 4', 'h(x)')}```",
    "imports of another block": "```py\nfrom operator import truediv as d\nd(1, 0)\n```\nSo:\n```\n"
    f"{FUNCTION.replace('x / 4', 'd(x, 4)')}```",
    "assigned": "```python\nquarter = lambda x: x / 4\n```",
}


@pytest.mark.parametrize("form", RIGHT)
def test_code_is_found(form):
    """A right function passes in whatever form an answer gives it."""
    evaluation = scored(RIGHT[form])

    assert (evaluation.score, evaluation.explanation) == (1.0, "every test passed")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("    return x / 2", "failed assertion (line 14: assert f(8) == 2)"),
        ("    return y", "NameError: name 'y' is not defined (line 11: return y)"),
        ("    while True: pass", "timed out after 1 s"),
        ("    return 'x' * (1 << 40)", "MemoryError (line 11: return 'x' * (1 << 40))"),
        ("    import os; os._exit(0)", "it ended its process (exit code 0) before its tests were over"),
        (
            "    raise SystemExit(0)",
            "it ended itself before its tests were over: 0 (line 11: raise SystemExit(0))",
        ),
        ("    return object()(x)", "TypeError: 'object' object is not callable (line 11: return object()(x))"),
        (
            "    raise ValueError(object())",
            "ValueError: <object object at 0x...> (line 11: raise ValueError(object()))",
        ),
        (
            "```python\ndef quarter(x) return x\n```",
            "SyntaxError: expected ':' (program.py, line 9) (line 9: def quarter(x) return x)",
        ),
    ],
)
def test_reasons(response, reason):
    """A program that does not pass scores 0, with the reason in words that name the line."""
    evaluation = scored(response)

    assert (evaluation.status, evaluation.score, evaluation.explanation) == ("ok", 0.0, reason)


def test_endings_in_words():
    """Every way in which a program can end has its sentence."""
    words = {
        ending: in_words(Execution(ending, "N", None, "", "", False, 0.0, 0.0, "process"))
        for ending in sandbox.Ending.__args__
    }

    assert words["killed"] == "killed by N"
    assert words["out of memory"] == "killed for memory: more than N"
    assert len(set(words.values())) == len(words)


def test_no_code():
    """An answer without code has no answer, and scores 0."""
    for response in ("", "  \n", "```python\n```"):
        evaluation = scored(response)
        assert (evaluation.score, evaluation.answer) == (0.0, None)


def test_completion():
    """What a base model writes goes on where the prompt ended, as it stands."""
    assert scored("    return x / 4\n", kind="completion").score == 1.0
    assert scored("return x / 4", kind="completion").score == 0.0


def test_answer_is_the_program():
    """The answer that is stored is the whole program without the tests."""
    assert scored("return x / 4").answer == START + "    return x / 4"


def test_tests_alone():
    """Without a start, the target's tests tell which block counts; a program that reads input gets none."""
    metric, sample = load_metric("passes"), Sample("s", "?", ["assert double(2) == 4", "assert double('a') == 'aa'"])
    block = "Example:\n```\nx = 1\n```\n```python\ndef double(x):\n    return 2 * x\n```\n"

    assert metric == PassesTests()
    assert scored(block, metric, sample).score == 1.0
    assert scored("def double(x):\n    return 2 * x\nprint(double(3))", metric, sample).score == 1.0
    assert scored("double: object = lambda x: 2 * x", metric, sample).score == 1.0
    assert (
        scored("Note: two.\ndef double(x):\n    return 2 * x\nY = {\n1: 2\n}\nThat is it", metric, sample).score == 1.0
    )
    assert scored("[BEGIN]\ndef double(x):\n    return 2 * x\n[DONE]\nmore", metric, sample).score == 1.0
    assert scored("```python\ndef double(x):\n    return input()\n```", metric, sample).explanation.startswith(
        "EOFError"
    )


def test_no_sandbox(monkeypatch):
    """A machine that cannot isolate is an error of the scorer, not a 0."""
    monkeypatch.setattr(sandbox, "_best", lambda: ("process", {}))
    monkeypatch.setenv("THEMIS_ISOLATION", "namespaces")
    evaluation = scored("return x / 4")

    assert (evaluation.status, evaluation.error_kind, evaluation.error_type) == ("error", "scorer", "SandboxError")
    assert evaluation.score is None


def test_samples_that_do_not_fit():
    """A sample without tests, or without the fields that the metric names, is refused before anything is asked."""
    with pytest.raises(UsageError, match="has no target"):
        evaluate([{"question": "?"}], lambda prompt: "pass", metrics=["passes"], storage=None)
    with pytest.raises(UsageError, match="has no field 'prompt' in its row; it has question, answer"):
        evaluate([{"question": "?", "answer": "1"}], lambda prompt: "pass", metrics=[METRIC])


def test_metric_is_a_value():
    """It pickles, never runs where model calls wait, and other limits give other ids."""
    assert METRIC.dear
    assert pickle.loads(pickle.dumps(METRIC)) == METRIC
    assert PassesTests(limits=Limits(seconds=9)).config() != PassesTests().config()


@pytest.mark.parametrize(
    "response",
    ["```" * 300_000, "```py\n" * 100_000, "def f():\n" * 100_000, "a" * 10**6, " " * 10**6, "x: " * 300_000],
    ids=["fences", "blocks", "functions", "word", "spaces", "colons"],
)
def test_extraction_is_linear(response):
    """A million characters take less than a second and a half, whatever they are."""
    began = time.process_time()
    extract_code(response, START, frozenset({"f"}))

    assert time.process_time() - began < 1.5


@pytest.fixture
def humaneval(benchmark_data):
    """The folder with HumanEval's own files."""
    folder = benchmark_data / "humaneval"
    if not folder.is_dir():
        pytest.skip("THEMIS_DATA has no humaneval")
    return folder


def test_example_samples(humaneval, tmp_path):
    """The authors' six samples of their example give pass@1 = 0.5, in time and with the file system unharmed."""
    (tmp_path / "tmp").mkdir()
    result = evaluate(
        "humaneval",
        ReplayModel(str(humaneval / "example_samples.jsonl"), response="completion", sample_id="task_id"),
        data=humaneval / "example_problem.jsonl",
        metrics=[METRIC, PassAtK(1, METRIC)],
        num_samples=6,
        storage=tmp_path / "runs",
    )
    rows = (humaneval / "example_samples.jsonl").read_text().splitlines()
    scores = {e.repeat: e.score for e in result.evaluations if e.metric == "passes"}

    assert result.metrics == {"passes": 0.5, "pass@1": 0.5}
    assert [scores[repeat] for repeat in range(6)] == ["return 1" in row and "sleep" not in row for row in rows]
    assert (tmp_path / "tmp").is_dir()


def test_canonical_solutions(humaneval, tmp_path):
    """All 164 canonical solutions pass, given as the function's body alone, stripped and in a fence."""
    benchmark = load_benchmark("humaneval")
    rows = [
        {"sample_id": s.id, "response": f"```python\n{s.metadata['canonical_solution'].strip()}\n```"}
        for s in benchmark.samples()
    ]
    result = evaluate(benchmark, ReplayModel(rows), storage=tmp_path)

    assert [(e.sample_id, e.explanation) for e in result.evaluations if e.score != 1.0] == []
    assert result.report.metrics["passes"].n_scored == 164


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_canonical_solutions_in_other_forms(humaneval, kind):
    """All 164 canonical solutions pass as whole functions in an answer of words, and as completions."""
    name = "humaneval" if kind == "chat" else "humaneval_completion"
    for sample in load_benchmark(name).samples():
        code = sample.metadata["canonical_solution"]
        answer = code if kind == "completion" else f"So:\n```python\n{sample.input}{code}```\nIt works."
        assert scored(answer, load_benchmark(name).metrics[0], sample, kind).score == 1.0, sample.id


def test_humaneval_prompts(humaneval):
    """Chat models get the function in a fence and words around it, base models the function's head alone."""
    chat, base = (next(iter(load_benchmark(name).prompts())) for name in ("humaneval", "humaneval_completion"))

    assert chat[1].endswith(f"```python\n{chat[0].input}```")
    assert base[1] == chat[0].input
    assert chat[0].target.endswith("\n\n\ncheck(has_close_elements)")


MBPP = {
    "task_id": 11,
    "text": "Write a function to count the vowels of a word.",
    "code": "def count_vowels(word):\n    return sum(c in Vowels.ALL for c in word)",
    "test_list": ["assert count_vowels('themis') == 2", "assert count_vowels('') == 0"],
    "test_setup_code": "class Vowels:\n    ALL = 'aeiou'",
    "challenge_test_list": [],
}
SANITIZED = {
    "source_file": "none",
    "task_id": 12,
    "prompt": "Write a function that gives the root of a number.",
    "code": "import math\ndef root(x):\n    return math.sqrt(x)",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(2) ** 2, 2)"],
}


@pytest.mark.parametrize(
    ("name", "file", "row"), [("mbpp", "mbpp.jsonl", MBPP), ("mbpp_sanitized", "sanitized-mbpp.json", SANITIZED)]
)
def test_mbpp(name, file, row, tmp_path, monkeypatch):
    """Both layouts of MBPP: the test split alone is asked, the tests stand in the prompt, and the row's code passes."""
    rows = [{**row, "task_id": 10}, row, {**row, "task_id": 511}]
    (tmp_path / "mbpp").mkdir()
    text = json.dumps(rows) if file.endswith(".json") else "\n".join(map(json.dumps, rows))
    (tmp_path / "mbpp" / file).write_text(text)
    monkeypatch.setenv("THEMIS_DATA", str(tmp_path))
    benchmark = load_benchmark(name)
    ((sample, prompt),) = benchmark.prompts()

    assert sample.id == str(row["task_id"])
    assert "\n".join(row["test_list"]) in prompt
    assert scored(f"```python\n{row['code']}\n```", benchmark.metrics[0], sample).score == 1.0
    assert scored("```python\ndef other(): pass\n```", benchmark.metrics[0], sample).score == 0.0


def test_mbpp_without_tests():
    """A row without tests is refused by its number."""
    with pytest.raises(DataError, match="row 1 has no list of tests in 'test_list'"):
        next(load_benchmark("mbpp", data=[{"task_id": 11, "text": "x"}]).samples())


def test_nothing_is_written_here():
    """Programs leave no file in the folder of whoever asks."""
    before = set(Path.cwd().iterdir())
    scored("    open('left', 'w').write('x'); return x / 4")

    assert set(Path.cwd().iterdir()) == before
    assert not Path("left").exists()
