"""themis.ids: what is the same. A change of a golden value here orphans every stored record."""

from __future__ import annotations

import enum
import functools
import json
import math
import subprocess
import sys

import pytest

from themis.errors import UsageError
from themis.ids import callable_identity, canonical_json, content_hash, evaluation_id, generation_id, text_hash

ASKED = {
    "benchmark": "gsm8k",
    "sample_id": "0",
    "prompt": "2 + 2 = ?",
    "model": {"provider": "openai", "name": "gpt-4o"},
    "params": {},
}
SCORED = {
    "generation_ids": ("0" * 32,),
    "metric": "exact_match",
    "version": "1",
    "config": {},
    "target": "4",
}


class Color(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.0, 0.5, -0.0]}, '{"a":[1,0.5,0],"b":1}'),
        ("Grüße 🦉", '"Gr\\u00fc\\u00dfe \\ud83e\\udd89"'),
        ([True, False, None, 1], "[true,false,null,1]"),
        ((1, (2,)), "[1,[2]]"),
        (1e22, "10000000000000000000000"),
        (1e-7, "1e-07"),
        ({"color": Color.RED, "level": Level.HIGH}, '{"color":"red","level":3}'),
        ("\ud800", '"\\ud800"'),
    ],
)
def test_canonical_json(value, text):
    """Keys are sorted, whole floats are whole numbers, tuples are lists, enums their values, text is ASCII."""
    assert canonical_json(value) == text


def test_numpy_scalars_count_as_the_numbers_they_are():
    """A float64 of numpy, which is a float, is written as that float; a whole one as a whole number."""
    numpy = pytest.importorskip("numpy")

    assert canonical_json([numpy.float64(0.5), numpy.float64(2.0)]) == "[0.5,2]"


def test_equal_values_in_another_order_are_the_same():
    """The order of keys and 1.0 for 1 make no difference; True is not 1, and "1" is not 1."""
    assert content_hash({"a": 1, "b": 2.0}) == content_hash({"b": 2, "a": 1.0})
    assert len({content_hash(value) for value in (1, True, "1", [1], None)}) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1: "x"}, {1, 2}, b"x", object(), [{"a": {2}}]])
def test_what_is_not_json_is_refused(value):
    """NaN, infinities, keys that are no text and other types are a UsageError, however deep they stand."""
    with pytest.raises(UsageError, match="JSON"):
        canonical_json(value)


def test_canonical_json_reads_back():
    """Any JSON reader gets an equal value."""
    value = {"text": 'a "b"\n\\', "numbers": [1, 2.5, -3], "nested": {"none": None}}

    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize(
    ("found", "golden"),
    [
        (text_hash(""), "e3b0c44298fc1c149afbf4c8996fb924"),
        (text_hash("Grüße"), "f83e039796c6453a10f5519e39fd1139"),
        (content_hash({"a": [1, "x", None]}), "cf946966268a847cf33ffefa5b616e3e"),
        (generation_id(**ASKED), "e43ac74b7c4604fa719b809155b99eb7"),
        (
            generation_id(**{**ASKED, "params": {"temperature": 0.7, "stop": ["\n"]}}, repeat=7),
            "aa7066ba7c219023f75f43655a44d471",
        ),
        (
            generation_id(**{**ASKED, "prompt": [{"role": "user", "content": "2 + 2 = ?"}]}),
            "4ccbef38ed46a50bc86fe2fdf32803e8",
        ),
        (generation_id(**ASKED, kind="loglikelihood", continuations=[" 4", " 5"]), "d5acce04b5698283494200862dad478d"),
        (evaluation_id(**SCORED), "c00ab1fcd51ee4b2852ca831d5deb5ed"),
        (
            evaluation_id(**{**SCORED, "target": ["4", "four"], "config": {"by": "number"}}),
            "ee2e676f160d89b236ad5ded7ceb991c",
        ),
        (evaluation_id(**SCORED, judge={"provider": "openai", "name": "judge"}), "e684f156fd0c742cb2cc7fa153aa7f02"),
    ],
)
def test_golden_vectors(found, golden):
    """Ids are what they were when the first records were stored."""
    assert found == golden


@pytest.mark.parametrize(
    "change",
    [
        {"benchmark": "math500"},
        {"sample_id": "1"},
        {"prompt": "2 + 2 = ? "},
        {"model": {"provider": "openai", "name": "gpt-4o-mini"}},
        {"params": {"temperature": 0}},
        {"kind": "completion"},
        {"continuations": [" 4"]},
        {"repeat": 1},
    ],
)
def test_a_generations_id_takes_in_everything_that_is_asked(change):
    """Each thing that determines what the model is asked makes another id."""
    assert generation_id(**{**ASKED, **change}) != generation_id(**ASKED)


@pytest.mark.parametrize(
    "change",
    [
        {"generation_ids": ("1" * 32,)},
        {"generation_ids": ("0" * 32, "0" * 32)},
        {"metric": "contains"},
        {"version": "2"},
        {"config": {"by": "number"}},
        {"target": "5"},
        {"target": ["4"]},
        {"target": None},
        {"judge": {}},
    ],
)
def test_an_evaluations_id_takes_in_everything_that_scores(change):
    """Each thing that determines a score makes another id."""
    assert evaluation_id(**{**SCORED, **change}) != evaluation_id(**SCORED)


def compiled(text, name="f"):
    """The function that a source text defines."""
    namespace = {}
    exec(text, namespace)
    return namespace[name]


def test_functions_of_one_text_have_one_identity():
    """Where a function stands and what its file is called make no difference to its identity."""
    text = "def f(x, y=1):\n    return [z + y for z in x]"

    assert callable_identity(compiled(text)) == callable_identity(compiled("\n\n" + text))
    assert len(callable_identity(compiled(text))) == 32


@pytest.mark.parametrize(
    "other",
    [
        "def f(x, y=1):\n    return x - y",
        "def f(x, y=2):\n    return x + y",
        "def f(x, *, y=1):\n    return x + y",
        "def f(x, y=1):\n    return x + y + 1",
        "def f(x, y=1):\n    return len(x) + y",
        "async def f(x, y=1):\n    return x + y",
    ],
)
def test_other_code_or_other_defaults_are_another_function(other):
    """Code, constants, names that are called, defaults and being async are part of a function's identity."""
    assert callable_identity(compiled(other)) != callable_identity(compiled("def f(x, y=1):\n    return x + y"))


def test_the_closure_is_part_of_the_identity():
    """Two closures over other values, functions included, are other functions; over equal ones the same."""

    def around(value):
        return lambda x: (x, value)

    assert callable_identity(around(1)) == callable_identity(around(1))
    assert callable_identity(around(1)) != callable_identity(around(2))
    assert callable_identity(around(str.upper.__name__)) != callable_identity(around(lambda: 1))
    assert callable_identity(around(lambda: 1)) == callable_identity(around(lambda: 1))


def test_what_cannot_be_told_has_no_identity():
    """Objects, bound methods, partials, builtins, and closures over what is no JSON have none."""

    class Callable:
        def __call__(self, x):
            return x

        method = __call__

    def around(value):
        return lambda x: (x, value)

    def recursive(x):
        return late(x)

    unknown = [Callable(), Callable().method, functools.partial(pow, 2), len, around(object()), recursive]
    assert [callable_identity(func) for func in unknown] == [None] * len(unknown)
    late = str
    assert callable_identity(recursive) is None  # a class in its closure


def test_a_decorator_is_part_of_the_function():
    """A decorated function is another one than the function that it wraps, and than one decorated otherwise."""

    def shout(func):
        @functools.wraps(func)
        def wrapper(x):
            return func(x).upper()

        return wrapper

    def whisper(func):
        @functools.wraps(func)
        def wrapper(x):
            return func(x).lower()

        return wrapper

    def plain(x):
        return x

    assert len({callable_identity(func) for func in (plain, shout(plain), whisper(plain))}) == 3


def test_the_identity_is_the_same_in_another_process():
    """Another interpreter, with another seed of hashes, gives the same identity."""
    text = "def f(x):\n    return x in {'a', 'b', 'c', 'd'} and {'k': (1, 2.5)}"
    code = f"from themis.ids import callable_identity\n{text}\nprint(callable_identity(f))"

    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }

    assert found == {callable_identity(compiled(text))}
