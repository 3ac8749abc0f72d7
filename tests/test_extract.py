"""What an answer says, found in a response: patterns, markers, JSON, and the time that it takes."""

from __future__ import annotations

import time

import pytest

from themis.errors import UsageError
from themis.records import GenerationRecord, Sample
from themis.scoring import evaluate_generation, load_metric
from themis.scoring.extract import (
    after_marker,
    json_field,
    json_text,
    last_json,
    last_line,
    search_pattern,
    stated_answer,
)


@pytest.mark.parametrize(
    ("text", "line"), [("one\n two \n\n", "two"), ("one", "one"), ("", None), (" \n ", None), ("a\r\nb\r\n", "b")]
)
def test_last_line(text, line):
    """The last line that is not blank is found, without white space around it."""
    assert line == last_line(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The ANSWER:  42.\nmore", "42"),
        ("answer: 1\nAnswer: 2", "2"),
        ("Answer:", None),
        ("ANSWER:\n\nA line of its own\nmore", "A line of its own"),
        ("no marker", None),
        ("answer: 3.5", "3.5"),
        ("İ answer: 7", "7"),
    ],
)
def test_after_marker(text, found):
    """What follows the marker's last occurrence on its line is found, whatever its case, without a final full stop."""
    assert found == after_marker(text, "answer:")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is so. So the answer is (B).", "(B)"),
        ("The answer is 1. No:\nthe answer is no.", "no"),
        (" (A)", "(A)"),
        ("True.", "True"),
        ("I think\nso", None),
        ("", None),
    ],
)
def test_stated_answer(text, found):
    """What follows the last "answer is" is the answer, else the response where it is one line."""
    assert found == stated_answer(text)


@pytest.mark.parametrize(
    ("pattern", "last", "found"),
    [
        (r"#(\d+)", False, "1"),
        (r"#(\d+)", True, "22"),
        (r"#\d+", False, "#1"),
        (r"(x)?#(?P<answer>\d)", True, "2"),
        (r"(?<=is )(.*)(?=\.)", False, "#1 and #22"),
        (r"nothing", False, None),
        (r"(z)|#(\d)", False, "1"),
    ],
)
def test_search_pattern(pattern, last, found):
    """The group named answer, else the first group that matched, else the whole match is what a pattern finds."""
    assert found == search_pattern("it is #1 and #22.", pattern, last=last)


def test_a_wrong_pattern_is_refused():
    """A text that is no regular expression is refused with the place of the mistake."""
    with pytest.raises(UsageError, match=r"'\(a' is no regular expression: .* at position"):
        search_pattern("a", "(a")


def test_a_pattern_that_backtracks_is_stopped():
    """A pattern that would search for years ends after a second, with a sentence that says why."""
    start = time.process_time()

    with pytest.raises(TimeoutError, match="took more than 1 s on a response of 41 characters: it backtracks"):
        search_pattern("a" * 40 + "!", r"^(a|a|b?a)+$")

    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        ('{"answer": {"value": 7}}', "answer.value", 7),
        ('Sure:\n```json\n{"a": [1, {"b": "x"}]}\n```\nDone {ok}.', "a.1.b", "x"),
        ('{"a": 1} and {"a": 2}', "a", 2),
        ('{"a": {"a": 3}}', "a.a", 3),
        ('{"a": 1} then {"a": broken', "a", 1),
        ('{"text": "a } in a \\"string\\" {", "a": null}', "a", None),
        ('{"a": [1, 2]}', "a.-1", 2),
        ('{"a": [1, 2]}', "a.5", None),
        ('{"a": 1}', "a.b", None),
        ("{}", "a", None),
        ("none", "a", None),
        ('{"a": "two\nlines"}', "a", "two\nlines"),
    ],
)
def test_json_field(text, path, found):
    """The value at a path of the last JSON object is found, in a block or between words, nested or not."""
    assert found == json_field(text, path)


def test_json_text():
    """A JSON value becomes the text of an answer: text as it stands, the rest as canonical JSON."""
    assert [json_text(value) for value in ("x ", 18.0, True, [1], None, "")] == ["x", "18", "true", "[1]", None, None]


@pytest.mark.parametrize(
    ("number", "target", "right"),
    [
        ("1.00000000000000000001", "1", 0.0),
        ("0.30000000000000000001", "0.30000000000000000001", 1.0),
        ("18.00", "18", 1.0),
        ("NaN", "5", 0.0),
        ("-Infinity", "5", 0.0),
        ("1e400", "5", 0.0),
        ("1" * 5000, "5", 0.0),
        ("1" * 5000, "1" * 5000, 1.0),
    ],
    ids=lambda value: str(value)[:9],
)
def test_numbers_in_json(number, target, right):
    """Numbers in JSON are compared as exact decimals; one that no float or int of Python's holds is no error."""
    metric = load_metric("json:a")

    record = evaluate_generation(metric, Sample("s", "?", target), GenerationRecord("g", "?", f'{{"a": {number}}}'))

    assert (record.score, record.error_kind) == (right, None)
    assert metric.answer_key("5.0") == metric.answer_key("5")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ' + "1" * 10**6,
        '{"a": [' + "1.5, " * 200_000,
        "{" * 10**6,
        '{"a":' * 200_000,
        '{"' * 500_000,
        ('{"a":"' + "x" * 50) * 20_000,
        '{"a":' + "[" * 10**6,
        "{ " * 10**6,
    ],
    ids=lambda text: text[:8],
)
def test_json_is_searched_in_linear_time(text):
    """A megabyte of objects that never close costs less than a second and a half of CPU."""
    start = time.process_time()

    assert last_json(text) is None
    assert time.process_time() - start < 1.5


def test_json_of_a_long_answer():
    """The last of 100,000 objects is found."""
    assert last_json('{"a": 1}, ' * 100_000 + '{"a": 2}') == {"a": 2}
