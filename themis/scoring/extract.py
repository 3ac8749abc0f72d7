"""What an answer says, found in a response: small functions from text to text, None where nothing is found.

Each takes time linear in the response, whatever stands in it: what repeats in a pattern is bounded, or ends at a
character that it does not contain. A user's own pattern cannot be trusted to, so it runs under a time limit.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError
from themis.ids import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    import regex

PATTERN_SECONDS = 1.0
"""How long a user's pattern may search one response: patterns that backtrack would take years."""


def whole(text: str) -> str | None:
    """The response without the white space around it."""
    return text.strip() or None


def last_line(text: str) -> str | None:
    """The last line that is not blank, without the white space around it."""
    return whole(text.rstrip().rpartition("\n")[2])


def after_marker(text: str, marker: str) -> str | None:
    """What stands behind the last occurrence of a marker, up to the end of the line; case does not matter.

    A colon, white space and line ends right behind the marker, and a full stop at the end, are left out.
    """
    start = _rfind(text, marker)
    if start < 0:
        return None
    line = text[start + len(marker) :].lstrip(": \t\r\n").partition("\n")[0]
    return whole(line.rstrip().removesuffix("."))


def _rfind(text: str, marker: str) -> int:
    """Where the marker begins last; lower() may change the length of a text, in which case its case counts."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered.rfind(marker.lower())
    return text.rfind(marker)


def stated_answer(text: str) -> str | None:
    """What follows the last "answer is", else the whole response where it is a single line.

    The rule for answers in free text, as those of BIG-Bench Hard: a model that reasons ends with "So the answer is
    X.", one that does not says X alone.
    """
    if _rfind(text, "answer is") >= 0:
        return after_marker(text, "answer is")
    line = whole(text)
    return line.removesuffix(".") if line and "\n" not in line else None


@lru_cache(maxsize=64)
def compiled(pattern: str) -> regex.Pattern[str]:
    """A user's pattern, ready for search_pattern.

    Raises:
        UsageError: It is no regular expression; it says where.
    """
    import regex

    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise UsageError(f"the pattern {pattern!r} is no regular expression: {error}") from error


def search_pattern(text: str, pattern: str, *, last: bool = False) -> str | None:
    """What a user's pattern finds first (or last): its group "answer", else its first group that matched, else all.

    Raises:
        TimeoutError: The search took longer than PATTERN_SECONDS: the pattern backtracks without end on this text.
    """
    try:
        matches = compiled(pattern).finditer(text, timeout=PATTERN_SECONDS)
        found = _last_of(matches) if last else next(matches, None)
    except TimeoutError:
        raise TimeoutError(
            f"the pattern {pattern!r} took more than {PATTERN_SECONDS:g} s on a response of {len(text)} characters: "
            "it backtracks; let no repetition contain another that matches the same text"
        ) from None
    return whole(_captured(found)) if found else None


def _last_of(matches: Iterable[Any]) -> Any:
    found = None
    for found in matches:  # noqa: B007 - the last one is what is wanted
        pass
    return found


def _captured(match: regex.Match[str]) -> str:
    named = match.groupdict()
    groups = [named["answer"]] if "answer" in named else match.groups()
    return str(next((group for group in groups if group is not None), match.group()))


_LONG_NUMBER = 300
"""Digits from which on a number is kept as text; Python takes its time over a long one, and refuses a longer one."""

_OBJECT = re.compile(r'\{(?=\s*["}])')


def last_json(text: str) -> dict[str, Any] | None:
    """The last JSON object of the response, be it in a fenced block, in a sentence, or all there is.

    An object inside another one is not an object of its own. Texts made to be costly (a million objects that never
    close) are given up after work in proportion to their length, with what was found by then. A number that a float
    does not hold exactly, NaN and Infinity are the text that stands there.
    """
    decode = json.JSONDecoder(strict=False, parse_float=_exact, parse_int=_exact, parse_constant=str).raw_decode
    budget = 64 * len(text) + 1_000_000
    found, match = None, _OBJECT.search(text)
    while match and budget > 0:
        start = match.start()
        try:
            found, end = decode(text, start)
        except json.JSONDecodeError as error:
            budget -= 1_000 + error.pos // 16 + error.pos - start  # the error counts the lines before it
            end = start + 1
        except RecursionError:
            budget -= 100_000  # as deep as the interpreter goes: 1,000 levels, from Python 3.12 on ten times that
            end = start + 1
        match = _OBJECT.search(text, end)
    return found


def _exact(digits: str) -> float | int | str:
    """The number that is written; its text where Python's has another value, or none."""
    if len(digits) < _LONG_NUMBER:
        value = float(digits) if set(digits) & set(".eE") else int(digits)
        if math.isfinite(value) and Decimal(str(value)) == Decimal(digits):
            return value
    return digits


def json_field(text: str, path: str) -> Any:
    """The value at a dotted path ("answer.value", "steps.0") of the last JSON object; None where there is none."""
    value: Any = last_json(text)
    for name in path.split(".") if path else ():
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.lstrip("-").isdecimal() and -len(value) <= int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def json_text(value: Any) -> str | None:
    """A JSON value as the text of an answer: text as it stands, anything else as canonical JSON; None for null."""
    if value is None:
        return None
    return whole(value) if isinstance(value, str) else canonical_json(value)
