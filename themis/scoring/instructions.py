"""The 25 verifiable instructions of IFEval: what each one needs to know, and whether a response follows it.

Zhou et al. 2023, Instruction-Following Evaluation for Large Language Models, arXiv:2311.07911. What counts as following
is what the authors' own program counts, its oddities included: bold italics are highlighted twice, and a text whose
language cannot be told is in every language. Every check is linear in the response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from themis.errors import DataError
from themis.registry import unknown
from themis.scoring.language import count_capital_words, count_sentences, count_words, detect_language

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Arguments: TypeAlias = dict[str, Any]


class Argument(NamedTuple):
    """What a value may be, in words, and the test of it."""

    what: str
    fits: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_RELATIONS: dict[str, Callable[[int, int], bool]] = {"at least": int.__ge__, "less than": int.__lt__}

_COUNT = Argument("a whole number from 0", _is_count)
_PLACE = Argument("a whole number from 1", lambda value: _is_count(value) and value > 0)
_TEXT = Argument("text", _is_text)
_LETTER = Argument("one character", lambda value: _is_text(value) and len(value) == 1)
_WORDS = Argument(
    "a list of words", lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value))
)
_RELATION = Argument(" or ".join(map(repr, _RELATIONS)), lambda value: isinstance(value, str) and value in _RELATIONS)


class Check(NamedTuple):
    """Whether a response follows an instruction, called with its arguments by name."""

    follows: Callable[..., bool]
    arguments: Mapping[str, Argument] = {}


def checked(instruction: str, arguments: Mapping[str, Any]) -> Arguments:
    """The arguments that an instruction has, without those left empty: one layout of the data fills up all of them.

    Raises:
        DataError: No such instruction, or an argument is missing, unknown or of another kind.
    """
    if instruction not in CHECKS:
        raise DataError(unknown("instruction", instruction, CHECKS))
    if not isinstance(arguments, Mapping):
        raise DataError(f"{instruction}: its arguments are {arguments!r:.100}; they have to be an object")
    wanted = CHECKS[instruction].arguments
    given = {name: _whole(value) for name, value in arguments.items() if value not in (None, "", [])}
    if foreign := [name for name in given if name not in wanted]:
        raise DataError(f"{instruction} has no argument {foreign[0]!r}; it has {', '.join(wanted) or 'none'}")
    for name, argument in wanted.items():
        if name not in given:
            raise DataError(f"{instruction} needs {name}: {argument.what}")
        if not argument.fits(given[name]):
            raise DataError(f"{instruction}: {name} is {given[name]!r:.100}; it has to be {argument.what}")
    return given


def _whole(value: Any) -> Any:
    """A count that a table with gaps made a float is a count again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def follows(instruction: str, arguments: Arguments, responses: Iterable[str]) -> bool:
    """Whether any of the responses follows an instruction; a blank one follows none."""
    check = CHECKS[instruction].follows
    return any(check(response, **arguments) for response in responses if response.strip())


def loosened(response: str) -> list[str]:
    """The response, and what is left of it without asterisks, without its first line, its last line, and both."""
    lines = response.split("\n")
    shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    kept = [response, *shorter]
    return list(dict.fromkeys([*kept, *(text.replace("*", "") for text in kept)]))


def _capital_words(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return _RELATIONS[capital_relation](count_capital_words(response), capital_frequency)


def _english_capitals(response: str) -> bool:
    return response.isupper() and _is_in(response, language="en")


def _english_lowercase(response: str) -> bool:
    return response.islower() and _is_in(response, language="en")


def _is_in(response: str, *, language: str) -> bool:
    return detect_language(response) in {language, None}


def _repeats_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _two_responses(response: str) -> bool:
    parts = response.split("******")
    texts = [part.strip() for part in parts]
    if not all(texts[1:-1]):
        return False
    texts = list(filter(None, texts))
    return len(texts) == 2 and texts[0] != texts[1]


def _placeholders(response: str, *, num_placeholders: int) -> bool:
    return sum(map(_bracketed, response.split("\n"))) >= num_placeholders


def _bracketed(line: str) -> int:
    """How many "[...]" follow each other on a line; str.find, since a pattern would look for every "]" again."""
    count, end = 0, -1
    while (start := line.find("[", end + 1)) >= 0 and (end := line.find("]", start)) >= 0:
        count += 1
    return count


_POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}


def _postscript(response: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = _POSTSCRIPTS.get(marker) or re.compile(re.escape(marker.lower()))
    return pattern.search(response.lower()) is not None


def _constrained(response: str) -> bool:
    return any(f"My answer is {word}." in response for word in ("yes", "no", "maybe"))


_FENCES = ("```json", "```Json", "```JSON", "```")


def _json(response: str) -> bool:
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    heading = re.compile(rf"{re.escape(section_spliter.strip())}\s?\d+")
    return _count(heading, response) >= num_sections


# White space of the line only: across lines the search would run through blank lines once for each of them.
_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)


def _bullets(response: str, *, num_bullets: int) -> bool:
    return _count(_STAR_BULLET, response) + _count(_DASH_BULLET, response) == num_bullets


_ITALIC = re.compile(r"\*[^\n*]*\*")
_BOLD = re.compile(r"\*\*[^\n*]*\*\*")


def _highlights(response: str, *, num_highlights: int) -> bool:
    found = [text for pattern in (_ITALIC, _BOLD) for text in pattern.findall(response)]
    return sum(1 for text in found if text.strip("*").strip()) >= num_highlights


def _title(response: str) -> bool:
    return any(map(_titled, response.split("\n")))


def _titled(line: str) -> bool:
    """Whether there is more than brackets from the first "<<" of a line to its last ">>"."""
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end - 2 and bool(line[start:end].lstrip("<").rstrip(">").strip())


def _keywords(response: str, *, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), response, re.IGNORECASE) for word in keywords)


def _keyword_frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    count = _count(re.compile(re.escape(keyword.strip()), re.IGNORECASE), response)
    return _RELATIONS[relation](count, frequency)


def _no_forbidden_words(response: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _RELATIONS[let_relation](response.lower().count(letter.lower()), let_frequency)


_PUNCTUATION = re.compile(r"[.,?!'\"]")


def _first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = response.split("\n\n")
    count = sum(1 for paragraph in paragraphs if paragraph.strip())
    if count != num_paragraphs or nth_paragraph > count:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    word = words[0].lstrip("'").lstrip('"') if words else ""
    return _PUNCTUATION.split(word, maxsplit=1)[0].lower() == first_word.lower()


_DIVIDER = re.compile(r"\s?\*\*\*\s?")


def _paragraphs(response: str, *, num_paragraphs: int) -> bool:
    texts = [text.strip() for text in _DIVIDER.split(response)]
    return all(texts[1:-1]) and len(list(filter(None, texts))) == num_paragraphs


def _sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    return _RELATIONS[relation](count_sentences(response), num_sentences)


def _words(response: str, *, num_words: int, relation: str) -> bool:
    return _RELATIONS[relation](count_words(response), num_words)


def _no_comma(response: str) -> bool:
    return "," not in response


def _ends_with(response: str, *, end_phrase: str) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": Check(
        _capital_words, {"capital_frequency": _COUNT, "capital_relation": _RELATION}
    ),
    "change_case:english_capital": Check(_english_capitals),
    "change_case:english_lowercase": Check(_english_lowercase),
    "combination:repeat_prompt": Check(_repeats_prompt, {"prompt_to_repeat": _TEXT}),
    "combination:two_responses": Check(_two_responses),
    "detectable_content:number_placeholders": Check(_placeholders, {"num_placeholders": _COUNT}),
    "detectable_content:postscript": Check(_postscript, {"postscript_marker": _TEXT}),
    "detectable_format:constrained_response": Check(_constrained),
    "detectable_format:json_format": Check(_json),
    "detectable_format:multiple_sections": Check(_sections, {"section_spliter": _TEXT, "num_sections": _COUNT}),
    "detectable_format:number_bullet_lists": Check(_bullets, {"num_bullets": _COUNT}),
    "detectable_format:number_highlighted_sections": Check(_highlights, {"num_highlights": _COUNT}),
    "detectable_format:title": Check(_title),
    "keywords:existence": Check(_keywords, {"keywords": _WORDS}),
    "keywords:forbidden_words": Check(_no_forbidden_words, {"forbidden_words": _WORDS}),
    "keywords:frequency": Check(_keyword_frequency, {"keyword": _TEXT, "frequency": _COUNT, "relation": _RELATION}),
    "keywords:letter_frequency": Check(
        _letter_frequency, {"letter": _LETTER, "let_frequency": _COUNT, "let_relation": _RELATION}
    ),
    "language:response_language": Check(_is_in, {"language": _TEXT}),
    "length_constraints:nth_paragraph_first_word": Check(
        _first_word, {"num_paragraphs": _COUNT, "nth_paragraph": _PLACE, "first_word": _TEXT}
    ),
    "length_constraints:number_paragraphs": Check(_paragraphs, {"num_paragraphs": _COUNT}),
    "length_constraints:number_sentences": Check(_sentences, {"num_sentences": _COUNT, "relation": _RELATION}),
    "length_constraints:number_words": Check(_words, {"num_words": _COUNT, "relation": _RELATION}),
    "punctuation:no_comma": Check(_no_comma),
    "startend:end_checker": Check(_ends_with, {"end_phrase": _TEXT}),
    "startend:quotation": Check(_quoted),
}
"""Every instruction by the name that the data gives it, with the names that the data gives its arguments."""
