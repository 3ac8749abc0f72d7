"""The number that an answer ends with, as exact decimal text."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

# Thousands are separated by a comma, LaTeX's {,} and ,\! or a narrow space; groups that are not of three
# digits are two numbers. Every repetition is over disjoint characters, so that a search is linear in the text.
_NUMBER = re.compile(
    r"(?:\d{1,3}(?:(?:,(?:\\!)?|\{,\}|[\u2009\u202f])\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\w))?"
)
_SEPARATORS = re.compile(r"[,{}\\!\u2009\u202f]")
_MINUS = "-\u2212\u2013"
# A minus belongs to the number unless it can be subtracted from what stands before it, as in "5-3" or "x-3".
_SIGN = re.compile(rf"(?<![\w)\]}}.%$€£¥₹])[{_MINUS}](?:\s?\\?[$€£¥₹]\s?)?\Z|(?<!\d)[$€£¥₹]\s?[{_MINUS}]\Z")
_SIGN_REACH = 7
"""Characters that can hold a sign: what stands before it, minus, space, backslash, currency, space, point."""
# Backwards from the end: what is no digit, then the run of characters that the last number can consist of.
_LAST_RUN = re.compile(r"\D*[\d,.{}\\!eE+\-\u2009\u202f]*")


def final_number(text: str) -> str | None:
    """The number after the last "####" where there is one, else the text's last number; None without any.

    Plain decimal text: "-$1,234.50" gives "-1234.50". Currency and percent signs, separators of thousands and
    a full stop after the number do not matter; "5-3" ends with 3. Linear in the text.
    """
    _, marker, after = text.rpartition("####")
    if marker and (match := _NUMBER.search(after)):
        return _plain(after, match)
    run = _LAST_RUN.match(text[::-1])
    start = len(text) - run.end() if run else 0
    last = None
    for last in _NUMBER.finditer(text, start):  # noqa: B007 - the last one is what is wanted
        pass
    return _plain(text, last) if last else None


def same_number(answer: str, target: str) -> bool:
    """Whether two decimal texts are the same number, exactly: 18.00 is 18, 129201 is not 129200.

    Raises:
        ValueError: There is no number in the target.
    """
    return Decimal(answer) == _target_number(target)


@lru_cache(maxsize=1024)
def _target_number(target: str) -> Decimal:
    number = final_number(target)
    if number is None:
        raise ValueError(f"the target {target!r} has no number in it; number matching needs one")
    return Decimal(number)


def _plain(text: str, match: re.Match[str]) -> str:
    start = match.start()
    before = text[max(0, start - _SIGN_REACH) : start]
    digits = _SEPARATORS.sub("", match.group())
    if before.endswith(".") and not (len(before) > 1 and (before[-2].isalnum() or before[-2] == ".")):
        before, digits = before[:-1], f"0.{digits}"  # ".5", but neither "3.5.2" nor "so...5"
    return f"-{digits}" if _SIGN.search(before) else digits
