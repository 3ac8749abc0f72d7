"""Which of a question's choices a response picks: rules by name, each a function (response, choices) -> letter.

Rules are never mixed: each is a metric of its own, because two rules on the same responses give two numbers. Those that
somebody published are kept as they were published, faults included; `chat` is themis's own. All are linear.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from themis.scoring.chat import boxed_letter, chat
from themis.scoring.extract import whole
from themis.scoring.letters import LETTERS, letter_pattern, letters, only_letter
from themis.scoring.multilingual import multilingual_choice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


def answer_line(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the first "Answer: X", whatever the case of "answer", dollar signs around the letter allowed.

    The rule of simple-evals for GPQA; a small letter is found but not right, as there.
    """
    match = letter_pattern(r"(?i)Answer[ \t]*:[ \t]*\$?(LETTERS)\$?", letters(choices)).search(text)
    return match.group(1) if match else None


def first_letter(text: str, choices: Sequence[str]) -> str | None:
    """The first letter of a choice that stands alone, as in "(B) because ..."."""
    match = letter_pattern(r"\bLETTERS\b", letters(choices)).search(text)
    return match.group() if match else None


def last_letter(text: str, choices: Sequence[str]) -> str | None:
    """The last letter of a choice that stands alone."""
    return _last(letter_pattern(r"\bLETTERS\b", letters(choices)), text)


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
