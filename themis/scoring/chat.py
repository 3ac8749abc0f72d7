"""Which choice a chat model's answer means: themis's own rule, which would rather find nothing than guess.

An answer is read as a person would skim it: what is boxed, a last line that is a letter, the last sentence that states
an answer, a line that begins with a letter, a choice's own words. A letter counts only where what stands around it
leaves no doubt: "the answer is A or B", "A is the answer if ...", "hepatitis B" and "A city" name no choice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from themis.scoring.letters import LETTERS, letter_pattern, letters, only_letter
from themis.scoring.text import contains_words, last_boxed, normal_text

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARKS = re.compile(
    r"[*_`$]+|</?(?:b|i|u|em|strong|code)>|\\(?:boxed|fbox|text(?:bf|it|rm)?|mathrm|mathbf)\b|\\[()\[\]]|[{}]"
)
_REACH = 160
"""Characters around a letter that are looked at."""
_LONGEST_LINE = 2_000
"""A line that is longer is prose, in which the text of a choice proves nothing."""

_OPEN = r"[(\[\"'\u201c]{0,2}"
_CLOSE = r"[)\]\"'\u201d]{0,2}"
_SURELY = (
    r"(?: (?:definitely|clearly|certainly|obviously|most likely|likely|probably|therefore|thus|indeed|simply"
    r"|for sure|surely)){0,2}"
)
_KIND = r"(?:(?:[oO]ption|[cC]hoice|[lL]etter|[aA]nswer) {1,3})?"
_STATED = (
    r"(?:[aA]nswer|ANSWER|\b[oO]ption|\b[cC]hoice|\b[gG]uess|\b[cC]onclusion|[rR]espuesta|[rR]\u00e9ponse|[rR]isposta"
    r"|[rR]esposta|[aA]ntwort|\u7b54\u6848)"
    r"(?: {1,3}(?:is|was|should be|would be|must be|has to be|here is|es|est|ist|\u00e8|\u00e9)\b" + _SURELY + r"[:=]?"
    r"|[\"'\u201d]?[ \t]{0,3}[:=\n\uff1a]|>|[\u662f\u4e3a])"
    r"[ \t\n]{0,4}(?:is )?" + _KIND + _OPEN + "(LETTERS)"
)
_CHOSEN = (
    r"\b(?:[iI]t(?:['\u2019]s| is| must be| should be| has to be)|[cC]hoos(?:e|ing)|[pP]ick|[sS]elect"
    r"|[gG]o(?:ing)? with)" + _SURELY + " " + _KIND + _OPEN + "(LETTERS)"
)
_CONFIRMED = (
    r"(?:\A|[\n.,;:!?]\s?|\b(?:[sS]o|[tT]hus|[hH]ence|[tT]herefore|that|think|believe|say|and|but|only) )"
    + _KIND
    + r"[(\[]?"
    r"(LETTERS)[)\].:]{0,2} is (?:my |the |also the )?(?:most |single |only )?(?:correct|right|best|answer)"
    r"(?= (?:answer|choice|option|one|because|since)\b|[ \t]{0,3}(?:[.,;:!\n]|\Z))"
)
_ENDS = re.compile(
    r"[)\]\"'\u201d]{1,3}(?!\w)|[ \t]*(?:\n|\Z)|[.,;:!]{1,3}(?=[\s\"')\]<]|\Z)|</"
    r"|[\u3000-\u9fff\uac00-\ud7af\uff00-\uff1f]"
    r"|[ \t]+(?:because|since|as|for|due to|which|not|non|rather than|instead of)\b"
    r"|[ \t]+[(\[\u2013\u2014]|[ \t]+-[ \t]"
)
_NAME = re.compile(r"[ \t]+[A-Z][a-z]")
_LISTED = (
    _CLOSE
    + r"(?:[ \t]{0,3}(?:[,;/&|+-]|,? ?\(?(?:and|or|vs\.?|versus|to)\b)[ \t]{0,3}(?:and |or )?"
    + _KIND
    + _OPEN
    + "LETTERS"
    r"(?![\w'\u2019])(?!"
    + _CLOSE
    + r" (?:is|was|would|can|cannot|isn|seems)\b)|(?:\. ?LETTERS\b){1,26}\.?[ \t]{0,9}(?:\n|\Z))"
)
_DISCUSSED = re.compile(
    _CLOSE
    + r" (?:is|was|are|were|would|can|could|cannot|means|says|states|seems|looks|has|implies|isn|wasn)\b|"
    + _CLOSE
    + r"[,.]? {0,2}(?:but |and |though |although )?"
    r"(?:that|this|it|which)(?:['\u2019]s| is| was| would be| seems)(?: \w+)? (?:not|wrong|incorrect|false)\b"
)
_DOUBT = re.compile(
    r"\b(?:not|never|neither|nor|cannot|if|whether|unless|suppos(?:e|ing)|assum(?:e|ing)|might|unlikely|unsure|hardly|why|each|every"
    r"|doubt|except|(?:wrong|incorrect|false) (?:answer|option|choice))\b|n['\u2019]t\b"
    r"|\b(?:you|one|many|some|most|people|students?|others?|they) "
    r"(?:would|will|could|may|think|thought|choose|pick|say)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.!?;\n]|, |\b(?:so|therefore|thus|hence|but|then)\b", re.IGNORECASE)
_TAKEN_BACK = re.compile(r"\b(?:wait|hold on|on second thought|actually, no)\b", re.IGNORECASE)
_ITEM = r"\A" + _KIND + r"[(\[]{0,2}(LETTERS)"
_TEXT_AFTER = re.compile(
    r"(?:[aA]nswer(?: is:?|[ \t]{0,3}:)|\b[iI]t(?:['\u2019]s| is| must be)"
    r"|\b(?:[sS]o|[tT]hus|[hH]ence|[tT]herefore)[:,]?)[ \t\n]{1,4}"
)


def chat(text: str, choices: Sequence[str]) -> str | None:
    r"""The choice that a chat model's answer ends on: the first of these rules that finds one.

    1. The letter, or a choice's text, in the last \boxed{...}.
    2. A last line that is nothing but a letter.
    3. The last statement: "**Answer: (B)**", "the answer is clearly B", '{"answer": "B"}', "B is correct", "I pick B".
    4. The last line, then the first line, that is "B", "(B)", "B.", "B) with more behind it" or B and its own text; not
       where other letters begin as many lines.
    5. The text of a choice right after the last "answer is", "it is" or "so", or as the last or the first line.
    What precedes "</think>" does not count. A statement that is denied, doubted, taken back, or names several letters
    is none. A small letter counts where it stands alone; a letter that names no choice, and an "A" or "I" within a
    sentence, is none.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    plain, names = _plain(text), letters(choices)
    lines = [line for each in plain.split("\n") if (line := each.strip(" \t\r#>"))]
    items = [_item(line, names, choices) for line in lines]
    return (
        _boxed(text, choices)
        or (_most(items, -1) if lines and only_letter(lines[-1], names) else None)
        or _stated(plain, names, choices)
        or _most(items, -1)
        or _first(lines, items, names)
        or _by_text(plain, lines, choices)
    )


def boxed_letter(text: str, choices: Sequence[str]) -> str | None:
    r"""The letter in the last \boxed{...}: "B", "(B)", "\text{B}" or "B. its text"."""
    content = last_boxed(text)
    return None if content is None else _item(_plain(content).strip(), letters(choices), choices)


def _boxed(text: str, choices: Sequence[str]) -> str | None:
    content = last_boxed(text)
    return None if content is None else boxed_letter(text, choices) or _same_text(_plain(content), choices)


def _plain(text: str) -> str:
    """The text without emphasis and LaTeX's wrappers."""
    return _MARKS.sub("", text)


def _stated(text: str, names: str, choices: Sequence[str]) -> str | None:
    """The letter of the last statement that stands."""
    found = [
        (match.start(1), is_whole)
        for template, is_whole in ((_STATED, False), (_CHOSEN, False), (_CONFIRMED, True))
        for match in letter_pattern(template, names).finditer(text)
    ]
    for at, is_whole in sorted(found, reverse=True):
        if not is_whole and not _stands(text, at, names, choices):
            if letter_pattern(_LISTED, names).match(text, at + 1):
                return None  # the last word is that it is one of several
        elif not _doubted(text, at):
            return None if _TAKEN_BACK.search(text, at) else text[at]
    return None


def _doubted(text: str, at: int) -> bool:
    """Whether the clause in front of a position denies, supposes or attributes to others what follows."""
    start = max(0, at - _REACH)
    before = text[start:at].rstrip(" \t\n([\"'\u201c")
    if not _DOUBT.search(before):
        return False
    clauses = [match.end() for match in _CLAUSE.finditer(before)]
    return bool(_DOUBT.search(before, clauses[-1] if clauses else 0))


def _stands(text: str, at: int, names: str, choices: Sequence[str]) -> bool:
    """Whether the letter at a position stands for a choice, as told by what follows it."""
    end = at + 1
    if letter_pattern(_LISTED, names).match(text, end) or _DISCUSSED.match(text, end):
        return False
    if any(choice[:1] == text[at] and len(choice) > 1 and _begins_with(text[at:], choice) for choice in choices):
        return False  # "E. coli" is a choice's own text
    if _ENDS.match(text, end) or (text[at] not in "AI" and _NAME.match(text, end)):
        return True
    own = normal_text(choices[LETTERS.index(text[at])])
    rest = text[end : end + len(own) + _REACH]
    said = normal_text(rest.partition("\n")[0])
    article = text[at] == "A" and said != own  # "A stratified sample is" is a sentence
    return bool(own) and rest[:1].isspace() and said.startswith(own) and not article


def _item(line: str, names: str, choices: Sequence[str]) -> str | None:
    """The letter that a line begins with, or is."""
    match = letter_pattern(_ITEM, names).match(line)
    if match is None or not _stands(line, match.start(1), names, choices):
        return only_letter(line, names)
    rest = line[match.end() :]
    if line[0] == "A" and rest.startswith(":") and not _begins_with(rest, choices[0]):
        return None  # "A:" may stand for "answer:"
    dashed = rest.lstrip()[:1] in {"-", "\u2013", "\u2014"}
    own = choices[LETTERS.index(match.group(1))]
    return None if (dashed or line.startswith("I,")) and not _begins_with(rest, own) else match.group(1)


def _begins_with(rest: str, choice: str) -> bool:
    own = normal_text(choice)
    return bool(own) and normal_text(rest[: len(own) + _REACH].lstrip(" :.,)]-\u2013\u2014")).startswith(own)


def _first(lines: Sequence[str], items: Sequence[str | None], names: str) -> str | None:
    """The letter of the first line; where it is all of the line, what follows may be about the others."""
    bare = bool(lines) and only_letter(lines[0], names) is not None
    return _most([only_letter(line, names) for line in lines] if bare else items, 0)


def _most(items: Sequence[str | None], at: int) -> str | None:
    """The letter of a line, where no other letter is that of as many lines."""
    found = items[at] if items else None
    if found is None:
        return None
    others = max((items.count(letter) for letter in set(items) - {found, None}), default=0)
    return found if items.count(found) > others else None


def _by_text(text: str, lines: Sequence[str], choices: Sequence[str]) -> str | None:
    after = None
    for after in _TEXT_AFTER.finditer(text):  # noqa: B007 - the last one is what is wanted
        pass
    if after and not _doubted(text, after.end()):
        said = text[after.end() : after.end() + _LONGEST_LINE].partition("\n")[0]
        if found := only_letter(said, choices) or _same_text(said, choices) or _told_text(said, choices):
            return found
    ends = [lines[-1], lines[0]] if lines else []
    return next((found for line in ends if (found := _same_text(line, choices))), None)


def _same_text(line: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice whose text a line is."""
    if len(line) > _LONGEST_LINE:
        return None
    said = normal_text(line)
    found = [letter for letter, choice in zip(LETTERS, choices, strict=False) if said and normal_text(choice) == said]
    return found[0] if len(found) == 1 else None


_AFTER_TEXT = re.compile(r"\A(?:[.;:!,](?!\w)| because\b| since\b)")


def _told_text(line: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice whose text a line begins with, where no other choice's text stands in it."""
    said = normal_text(line)
    normal = [normal_text(choice) for choice in choices]
    named = [at for at, choice in enumerate(normal) if choice and contains_words(said, choice)]
    if len(named) != 1 or not said.startswith(normal[named[0]]):
        return None
    return LETTERS[named[0]] if _AFTER_TEXT.match(said[len(normal[named[0]]) :]) else None
