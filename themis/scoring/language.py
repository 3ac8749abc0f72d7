"""Sentences and words of English text, and the language of any text. Nothing is downloaded; the first call loads."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from themis.scoring.punkt import sentences

_WORD = re.compile(r"\w+")


def count_words(text: str) -> int:
    """The number of runs of letters, digits and underscores."""
    return sum(1 for _ in _WORD.finditer(text))


def count_sentences(text: str) -> int:
    """The number of sentences of English text."""
    return len(sentences(text))


# Where one token ends and another begins, in NLTK 3.8's word_tokenize: applied in this order to each sentence.
_FUSED = r"can(?=not\b)|d(?='ye\b)|(?:gim|lem)(?=me\b)|gon(?=na\b)|wan(?=na\s)|got(?=ta\b)|more(?='n\b)"
_SPLITS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[\u00ab\u201c\u2018\u201e]|`+"), r" \g<0> "),
    (re.compile(r"^\""), " `` "),
    (re.compile(r"(?<=[ (\[{<])(?:\"|'')"), " `` "),
    (re.compile(r"'(?!(?:re|ve|ll|[mtsdn]))(?=\w\b)", re.IGNORECASE), "' "),
    (re.compile(r"(?<=[^.])\.([\])}>\"'\u00bb\u201d\u2019 ]*+)\s*$"), r" . \1 "),
    (re.compile(r"([:,])(\D)"), r" \1 \2"),
    (re.compile(r"[:,]$|\.{2,}|[;@#$%&?!]"), r" \g<0> "),
    (re.compile(r"(?<=[^'])' "), " ' "),
    (re.compile(r"[*()\[\]{}<>]|--"), r" \g<0> "),
    (re.compile(r"''|[\"\u00bb\u201d\u2019]"), r" \g<0> "),
    (re.compile(r"^|$"), " "),
    (re.compile(r"(?<=[^' ])('(?:[sS]|[mM]|[dD])?) "), r" \1 "),
    (re.compile(r"(?<=[^' ])('(?:ll|LL|re|RE|ve|VE)|n't|N'T) "), r" \1 "),
    (re.compile(rf"\b({_FUSED})(not|'ye|me|na|ta|'n)", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"(?<= )('t)(is)\b", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"(?<= )('t)(was)\b", re.IGNORECASE), r" \1 \2 "),
)


def count_capital_words(text: str) -> int:
    """The number of tokens of English text whose letters are all capital; clitics are tokens, hyphens divide none."""
    return sum(token.isupper() for sentence in sentences(text) for token in _tokens(sentence))


def _tokens(sentence: str) -> list[str]:
    for pattern, apart in _SPLITS:
        sentence = pattern.sub(apart, sentence)
    return sentence.split()


def detect_language(text: str) -> str | None:
    """The ISO 639-1 code of the language, by langdetect; None for a text without letters that it knows.

    langdetect draws at random, and its verdict on short or capital texts is another one every few calls. Here the draws
    are always the same, and more of them where they disagree, so that the verdict is the one it gives most often. Only
    the first 10,000 characters count.
    """
    from langdetect.lang_detect_exception import LangDetectException

    found: list[Any] = []
    for draws in (7, 35):  # langdetect's own number, and what settles the rest
        detector = _languages().create()
        detector.n_trial = draws
        detector.append(text)
        try:
            found = detector.get_probabilities()
        except LangDetectException:
            return None
        if found and found[0].prob > 0.99:
            break
    return str(found[0].lang) if found else detector.UNKNOWN_LANG


@cache
def _languages() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    profiles = sorted(Path(PROFILES_DIRECTORY).iterdir())  # in one order on every machine
    factory.load_json_profile([path.read_text("utf-8") for path in profiles if path.is_file()])
    factory.set_seed(0)
    return factory
