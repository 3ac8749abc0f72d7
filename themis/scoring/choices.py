"""Which of a question's choices a response picks: rules by name, each a function (response, choices) -> letter.

Rules are never mixed: each is a metric of its own, because two rules on the same responses give two numbers. Those that
somebody published are kept as they were published, faults included; `chat` is themis's own. All are linear.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from themis.scoring.extract import whole
from themis.scoring.multilingual import multilingual_choice
from themis.scoring.text import contains_words, last_boxed, normal_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letters(choices: Sequence[str]) -> str:
    """The letters that name the choices: "ABCD" for four."""
    return LETTERS[: len(choices)]


_ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
_ANSWER_COLON = re.compile(r"(?=[aA]nswer:\s*([A-J]))")
_A_TO_J_ALONE = re.compile(r"\b[A-J]\b")
_A_TO_J = re.compile(r"[A-J]")


def answer_is(text: str, _choices: Sequence[str]) -> str | None:
    """The letter of the first "answer is (X)", A to J, case as written; nothing else counts.

    The first rule of MMLU-Pro (Wang et al. 2024, arXiv:2406.01574), and lm-evaluation-harness's for it.
    """
    match = _ANSWER_IS.search(text)
    return match.group(1) if match else None


def mmlu_pro_script(text: str, choices: Sequence[str]) -> str | None:
    """MMLU-Pro's three rules in turn: answer_is, then "Answer: X", then the last letter that stands alone.

    Of "Answer: X" the last one on the first line that has one; as its own evaluation script does, without the random
    choice that it makes where nothing is found.
    """
    return answer_is(text, choices) or _answer_colon(text) or _last(_A_TO_J_ALONE, text)


def mmlu_pro_script_v1(text: str, choices: Sequence[str]) -> str | None:
    """As mmlu_pro_script, but the last rule takes the last capital A to J, even within a word: the first version."""
    return answer_is(text, choices) or _answer_colon(text) or _last(_A_TO_J, text)


def _answer_colon(text: str) -> str | None:
    found, end_of_line = None, -1
    for match in _ANSWER_COLON.finditer(text):
        if found is None:
            end_of_line = text.find("\n", match.start())
        elif end_of_line >= 0 and match.start() > end_of_line:
            break
        found = match.group(1)
    return found


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - the last one is what is wanted
        pass
    return found.group() if found else None


@lru_cache(maxsize=64)
def _pattern(template: str, names: str) -> re.Pattern[str]:
    return re.compile(template.replace("LETTERS", f"[{names}]").replace("ADVERBS", _ADVERBS))


def answer_line(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the first "Answer: X", whatever the case of "answer", dollar signs around the letter allowed.

    The rule of simple-evals for GPQA; a small letter is found but not right, as there.
    """
    match = _pattern(r"(?i)Answer[ \t]*:[ \t]*\$?(LETTERS)\$?", letters(choices)).search(text)
    return match.group(1) if match else None


def first_letter(text: str, choices: Sequence[str]) -> str | None:
    """The first letter of a choice that stands alone, as in "(B) because ..."."""
    match = _pattern(r"\bLETTERS\b", letters(choices)).search(text)
    return match.group() if match else None


def last_letter(text: str, choices: Sequence[str]) -> str | None:
    """The last letter of a choice that stands alone."""
    return _last(_pattern(r"\bLETTERS\b", letters(choices)), text)


def only_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter where the response is nothing else but white space, brackets and punctuation, in either case."""
    bare = text.strip(" \t\r\n()[]{}*_.,:;'\"`").upper()
    return bare if len(bare) == 1 and bare in letters(choices) else None


def boxed_letter(text: str, choices: Sequence[str]) -> str | None:
    r"""The letter in the last \boxed{...}: "B", "(B)", "\text{B}" or "B. its text"."""
    content = last_boxed(text)
    return None if content is None else _leading(_plain(content), letters(choices))


_MARKS = re.compile(r"[*_`$]+|\\(?:boxed|fbox|text(?:bf|it|rm)?|mathrm|mathbf)\b|\\[()\[\]]|[{}]")
_STATED = (
    r"(?:(?:[aA]nswer|ANSWER)(?: {1,3}(?:is|was|should be|would be|must be|here is))?(?: (?:ADVERBS)){0,2}"
    r"|(?:[oO]ption|[cC]hoice|[cC]onclusion)(?: {1,3}(?:is|should be|would be|must be)|(?=[ \t]{0,3}[:=])))"
    r"[ \t]{0,3}[:=]?[ \t\n]{0,4}(?:is |(?:[oO]ption|[cC]hoice|[lL]etter) {1,3}){0,2}"
    r"[(\[\"'\u201c]{0,2}(LETTERS)(?![\w'\u2019+&-])(?! (?:think|believe|would|will|am|do|have|can)\b)"
    r"(?![)\]]? (?:is|was|seems) (?:not|incorrect|wrong|false)\b)"
)
_CHOSEN = (
    r"(?:[iI]t'?s|[iI]t is|[iI]t must be|[cC]hoose|[pP]ick|[sS]elect|[gG]o with|[gG]oing with)(?: (?:ADVERBS)){0,2} "
    r"(?:[oO]ption |[cC]hoice |[aA]nswer )?[(\[\"'\u201c]{0,2}(LETTERS)[)\]\"'\u201d]{0,2}"
    r"(?=[.,;:!]|\s*\Z|\s*\n| because)"
)
_CONFIRMED = (
    r"(?<![\w'])[(\[]?(LETTERS)[)\].:]{0,2} is (?:the |also the )?(?:most |single )?(?:correct|right|best|true)\b"
)
_ADVERBS = (
    "definitely|clearly|certainly|obviously|likely|most likely|probably|therefore|thus|indeed|simply|for sure|surely"
)
_LEADING = r"\A[(\[]?(LETTERS)(?:\Z|[)\].:,;\u3002\uff0c\uff1a](?!\w)|\s*[-\u2013\u2014\n])"
_TEXT_AFTER = re.compile(r"[aA]nswer(?: is)?[ \t]{0,3}:?[ \t\n]{1,4}")
_LONGEST_LINE = 2_000
"""A line that is longer is prose, in which the text of a choice proves nothing."""


def chat(text: str, choices: Sequence[str]) -> str | None:
    r"""The choice that a chat model's answer ends on: the first of these rules that finds one.

    1. The letter in the last \boxed{...}.
    2. The last statement: "**Answer: (B)**", "the answer is clearly B", "B is correct", "I choose B".
    3. The last line, then the first line, that is "B", "(B)", "B." or "B) with more behind it", or B and its own text.
    4. The text of a choice after the last "answer is" or "answer:"; as a line of its own, the last one first; or as
       the only choice whose text stands in the last line.
    A small letter counts where it stands alone; a letter that names no choice, and an "A" or "I" within a sentence,
    is none.
    """
    plain, names = _plain(text), letters(choices)
    lines = [line for line in (line.strip() for line in _edges(plain)) if line]
    return (
        boxed_letter(text, choices)
        or _stated(plain, names)
        or next(filter(None, (_leading(line, names) or _with_text(line, choices) for line in reversed(lines))), None)
        or _by_text(plain, lines, choices)
    )


def _plain(text: str) -> str:
    """The text without emphasis and LaTeX's wrappers."""
    return _MARKS.sub("", text)


def _edges(text: str) -> list[str]:
    """The first and the last line, or the only one."""
    text = text.strip()
    first, newline, rest = text.partition("\n")
    return [first, rest.rpartition("\n")[2]] if newline else [first]


def _stated(text: str, names: str) -> str | None:
    found = [match for template in (_STATED, _CONFIRMED, _CHOSEN) for match in _pattern(template, names).finditer(text)]
    return max(found, key=lambda match: match.start(1)).group(1) if found else None


def _leading(line: str, names: str) -> str | None:
    match = _pattern(_LEADING, names).match(line.strip())
    return match.group(1) if match else only_letter(line, names)


def _with_text(line: str, choices: Sequence[str]) -> str | None:
    """The letter that a line begins with, where that choice's own text follows."""
    named, _, rest = line.partition(" ")
    index = LETTERS.find(named) if len(named) == 1 else -1
    if not 0 <= index < len(choices) or len(line) > _LONGEST_LINE:
        return None
    text = normal_text(choices[index])
    return named if text and normal_text(rest).startswith(text) else None


def _by_text(text: str, lines: Sequence[str], choices: Sequence[str]) -> str | None:
    after = None
    for after in _TEXT_AFTER.finditer(text):  # noqa: B007 - the last one is what is wanted
        pass
    said = [text[after.end() :].partition("\n")[0]] if after else []
    normal = [normal_text(choice) for choice in choices]
    for line in [*said, *reversed(lines)]:
        if len(line) > _LONGEST_LINE:
            continue
        if found := only_letter(line, choices) or _unique(normal_text(line).__eq__, normal):
            return found
    if lines and len(lines[-1]) <= _LONGEST_LINE:
        line = normal_text(lines[-1])
        return _unique(lambda choice: contains_words(line, choice), normal)
    return None


def _unique(fits: Callable[[str], bool], normal: Sequence[str]) -> str | None:
    """The letter of the choice that fits, where it is the only one."""
    found = [letter for letter, choice in zip(LETTERS, normal, strict=False) if choice and fits(choice)]
    return found[0] if len(found) == 1 else None


def choice_index(answer: str, choices: Sequence[str]) -> int | None:
    """Which choice is meant by a letter, by its text, or by its number from 0, in this order; None for none."""
    named = whole(answer) or ""
    if len(named) == 1 and named in letters(choices):
        return LETTERS.index(named)
    if named in choices:
        return choices.index(named)
    return int(named) if named.isdecimal() and int(named) < len(choices) else None


RULES: dict[str, Callable[[str, Sequence[str]], str | None]] = {
    "answer_is": answer_is,
    "answer_line": answer_line,
    "boxed": boxed_letter,
    "chat": chat,
    "first_letter": first_letter,
    "last_letter": last_letter,
    "mmlu_pro_script": mmlu_pro_script,
    "mmlu_pro_script_v1": mmlu_pro_script_v1,
    "only_letter": only_letter,
    "simple_evals": multilingual_choice,
}
