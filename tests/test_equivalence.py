"""Mathematical equivalence: what counts as equal, what it may cost, and the benchmarks that are scored by it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from themis import evaluate
from themis.benchmarks import load_benchmark
from themis.errors import DataError, SandboxError, UndecidedError
from themis.models.replay import ReplayModel
from themis.records import GenerationRecord, Sample
from themis.scoring import evaluate_generation, load_metric
from themis.scoring.equivalence import MathEquivalence, _children

METRIC = MathEquivalence()


def scored(target, response):
    """The evaluation of a response."""
    return evaluate_generation(METRIC, Sample("s", "?", target), GenerationRecord("g", "", response))


EQUAL = [
    *[(r"\frac{1}{2}", "0.5"), ("0.75", r"\frac34"), (r"\frac{2}{4}", r"\frac12"), (r"\frac13", "0.333333")],
    *[("5", "5.0"), ("1,000", "1000"), (r"1.5 \times 10^3", "1500"), ("1024", "2^{10}"), ("120", "5!")],
    *[(r"3\frac{1}{2}", r"\frac72"), (r"2\sqrt{2}", r"\sqrt{8}"), (r"\log_2 8", "3"), (r"\binom{5}{2}", "10")],
    *[("x^2+2x+1", "(x+1)^2"), ("p-q", "-(q-p)"), ("1+2i", "2i+1"), (r"\frac{\pi}{2}", r"0.5\pi")],
    *[("(1,2)", "(1, 2)"), (r"(3,\frac{\pi}{2})", r"\left(3, \pi/2\right)"), ("[0,1)", r"\left[0, 1\right)")],
    *[(r"(-\infty, 3]", r"(-\infty,3]"), (r"[1,2]\cup[3,4]", r"[3,4]\cup[1,2]"), ("(1,2)", r"x \in (1,2)")],
    *[(r"\{1,2,3\}", r"\{3, 2, 1\}"), ("1,-2", "-2, 1"), ("1, 2", r"1 \text{ and } 2"), ("3,-3", r"\pm 3")],
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & \frac{4}{2} \\ 3 & 4 \end{bmatrix}"),
    *[(r"50\%", "50"), (r"50\%", "0.5"), (r"\$18", "18.00"), (r"90^\circ", "90"), ("10", r"10\text{ cm}")],
    *[(r"864 \mbox{ inches}^2", "864"), ("5", "x=5"), ("x=5", "5"), ("3x-y=4", "y - 3x + 4 = 0")],
    *[(r"\text{Evelyn}", "Evelyn"), (r"\text{(C)}", "C"), ("C", r"\textbf{(C)}"), ("10:30", "10:30")],
    *[("1011_2", "1011_{2}"), ("1011_2", "1011")],
]
UNEQUAL = [
    *[("129200", "129201"), (r"\frac12", "0.51"), (r"\frac13", "0.33"), ("0.0000001", "0.0000002"), ("5", "-5")],
    *[("123456789012345678", "123456789012345679"), ("1,000", "1"), (r"\pi", "3.14"), (r"\sqrt2", "1.4")],
    *[("(1,2)", "(2,1)"), ("[0,1]", "(0,1)"), ("[0,1]", "[0,1)"), ("(1,2)", r"\{1,2\}"), (r"\{1,2\}", "[1,2]")],
    *[(r"\{1,2\}", r"\{1,2,3\}"), ("1,2", "1"), ("1,2", "1,2,3"), ("2,3", "23"), (r"\pm 3", "3")],
    *[("1011_2", "1011_3"), ("1011_{2}", "1011_{16}"), ("1011_2", "1001_2")],
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\4&3\end{pmatrix}"),
    *[(r"50\%", "5"), ("x^2", "x^3"), ("x", "y"), ("x=5", "y=5"), ("i", "1"), ("10^{10}", "10^{11}")],
    *[
        (r"\text{Evelyn}", r"\text{Angela}"),
        (r"\text{(C)}", r"\text{(D)}"),
        (r"\text{even}", "odd"),
        ("10:30", "10:31"),
    ],
    *[("5", r"\text{none}"), ("5", r"5 + "), ("5", r"\frac{1}{")],
]


@pytest.mark.parametrize(("target", "answer"), EQUAL)
def test_equal(target, answer):
    """One value in two ways of writing is equal."""
    assert scored(target, rf"so it is \boxed{{{answer}}}.").score == 1.0


@pytest.mark.parametrize(("target", "answer"), UNEQUAL)
def test_unequal(target, answer):
    """Other values, and what is no mathematics, are not."""
    evaluation = scored(target, rf"so it is \boxed{{{answer}}}.")

    assert (evaluation.status, evaluation.score) == ("ok", 0.0)


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [
        (r"first \boxed{1}, then \boxed{\frac{2}{4}}", r"\frac{2}{4}", 1.0),
        ("The final answer is $0.5$. I hope it is correct.", r"\frac{1}{2}", 1.0),
        (r"3 + 4 is 7, and so $x = \frac{1}{2}$", r"\frac{1}{2}", 1.0),
        ("x = 7, then it is 0.5", "0.5", 1.0),
        ("it is 0.5, then 7", "7", 0.0),
        ("I do not know", None, 0.0),
        ("", None, 0.0),
        (r"\boxed{}", None, 0.0),
    ],
)
def test_which_answer(response, answer, score):
    """The last box is the answer; without one the final answer, else the last expression; else there is none."""
    evaluation = scored(r"\frac12", response)

    assert (evaluation.score, evaluation.answer and evaluation.answer.split("= ")[-1]) == (score, answer)


def test_several_targets():
    """One of several targets is enough."""
    assert scored(["7", "0.5"], r"\boxed{\frac12}").score == 1.0
    assert scored(["7", "8"], r"\boxed{\frac12}").score == 0.0


def test_wrong_target():
    """A target that is no mathematics is an error of the scorer, unless the answer is the same text."""
    assert scored("", r"\boxed{1}").error_kind == "scorer"
    evaluation = scored(r"\frac{", r"\boxed{1}")

    assert (evaluation.error_kind, evaluation.score) == ("scorer", None)
    assert "does not fit math_equivalence: it cannot be read as mathematics" in evaluation.error_message


@pytest.fixture
def hurry(monkeypatch):
    """Children that have one second of CPU."""
    monkeypatch.setattr(_children, "SECONDS", 1)
    children = _children.Children()
    monkeypatch.setattr("themis.scoring.equivalence.CHILDREN", children)
    yield children
    children.close()


def test_what_takes_too_long(hurry):
    """An answer that cannot be compared in time is undecided, an error of the scorer; its child is ended.

    A child that somebody ended before is replaced, without notice.
    """
    assert scored("x+7", r"\boxed{7+x+0}").score == 1.0
    (child,) = hurry._all
    child._process.kill()
    child._process.wait()
    assert scored("x+7", r"\boxed{7+x+0}").score == 1.0
    evaluation = scored("x+7", r"\boxed{9^{9^{9^{9}}}}")

    assert (evaluation.error_kind, evaluation.error_type) == ("scorer", "UndecidedError")
    assert "is undecided: 1 s of CPU were not enough" in evaluation.error_message
    assert hurry._all == set()


@pytest.mark.soak
def test_a_child_that_is_ended_at_work(hurry):
    """A question whose child is ended is undecided, and so is one on which it works in Python for too long."""
    assert scored("x+7", r"\boxed{7+x+0}").score == 1.0
    (child,) = hurry._all
    threading.Timer(0.2, child._process.kill).start()
    with pytest.raises(UndecidedError):
        hurry.ask({"target": "x+7", "boxed": r"9^{9^{9^{9}}}"})

    assert hurry._all == set()
    assert scored("x+7", r"\boxed{\sum_{k=1}^{10^9} \frac{\sin k}{k^2}}").error_type == "UndecidedError"
    assert scored("x+7", r"\boxed{7+x+0}").score == 1.0


def test_a_child_that_does_not_start(hurry, monkeypatch, tmp_path):
    """What keeps the process from starting is said."""
    broken = tmp_path / "child.py"
    broken.write_text("raise ImportError('no math-verify here')")
    monkeypatch.setattr(_children, "_CHILD", broken)
    with pytest.raises(SandboxError, match=r"(?s)does not start: .*no math-verify here"):
        hurry.ask({"target": "1", "boxed": "2"})


def test_threads_share_children():
    """Many threads are answered, each with its own, by as many children as there are CPUs."""
    answers = [(str(n), rf"\boxed{{\frac{{{2 * n}}}{{2}}}}") for n in range(40)]
    with ThreadPoolExecutor(16) as pool:
        scores = list(pool.map(lambda pair: scored(*pair).score, answers))

    assert scores == [1.0] * 40
    assert len(_children.CHILDREN._all) <= _children.cores()


def test_nothing_left_at_exit():
    """Children end with the process that asked them, when it is killed too."""
    code = (
        "from themis.scoring.equivalence import CHILDREN; CHILDREN.ask({'target': '1', 'boxed': '2'}); "
        "print(*(c._process.pid for c in CHILDREN._all), flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    asking = subprocess.Popen([sys.executable, "-c", code], **pipes)
    child = int(asking.stdout.readline())
    asking.kill()
    asking.communicate()
    until = time.monotonic() + 10
    while lives(child) and time.monotonic() < until:
        time.sleep(0.02)

    assert not lives(child)


def lives(pid):
    """Whether there is a process of that id that has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and ") Z" in stat.read_text())


def test_metric_is_a_value():
    """It has a name, pickles, never runs where model calls wait, and its id takes in the library's version."""
    assert load_metric("math_equivalence") == METRIC == pickle.loads(pickle.dumps(METRIC))
    assert METRIC.dear
    assert METRIC.config()["math_verify"].count(".") == 2


def test_importing_the_metric_is_light():
    """Neither sympy nor math-verify is loaded where the metric is."""
    code = "import sys, themis.scoring.equivalence; print({'sympy', 'math_verify'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_math500_targets(benchmark_data):
    """Every one of the 500 answers is equal to itself, and to what its own solution has in the last box."""
    samples = list(load_benchmark("math500").samples())

    def score(sample):
        return scored(sample.target, rf"\boxed{{ {sample.target} }}").score, scored(
            sample.target, sample.metadata["solution"]
        ).score

    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(score, samples))

    assert len(scores) == 500
    assert [sample.id for sample, both in zip(samples, scores, strict=True) if both != (1.0, 1.0)] == []


@pytest.mark.soak
def test_math500_targets_through_the_library(benchmark_data):
    """The same without the short way: math-verify reads every one of the 500 targets, and finds it equal to itself."""
    samples = list(load_benchmark("math500").samples())
    replies = [_children.CHILDREN.ask({"target": s.target, "text": s.metadata["solution"]}) for s in samples]

    assert [s.target for s, reply in zip(samples, replies, strict=True) if not reply.get("equal")] == []


def test_math500(benchmark_data, tmp_path):
    """Its main metric is the equivalence, and the exact form is kept beside it."""
    rows = [
        {"prompt": prompt, "response": rf"\boxed{{0+{s.target}}}"}
        for s, prompt in list(load_benchmark("math500").prompts())[:8]
    ]
    result = evaluate("math500", ReplayModel(rows), limit=8, storage=tmp_path)

    assert list(result.metrics) == ["math_equivalence", "boxed_match"]
    assert result.metrics["math_equivalence"] > 0.5
    assert result.metrics["boxed_match"] == 0.0


def test_math(tmp_path, monkeypatch):
    """MATH's rows: the target is the last box of the solution, the type is the group, the number is the id."""
    row = {"problem": "$1+1$?", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{1+1} = \boxed{2}"}
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "test.jsonl").write_text(json.dumps(row))
    monkeypatch.setenv("THEMIS_DATA", str(tmp_path))
    ((sample, prompt),) = load_benchmark("math").prompts()

    assert (sample.id, sample.target, sample.group, sample.metadata["level"]) == ("0", "2", "Algebra", "Level 1")
    assert prompt.endswith(r"in \boxed{}." + "\n\n$1+1$?")
    with pytest.raises(DataError, match=r"row 1: there is no \\boxed\{\} in the solution"):
        next(load_benchmark("math", data=[{**row, "solution": "2"}]).samples())
