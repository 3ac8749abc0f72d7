"""The rule by which simple-evals finds a choice's letter in answers of many languages."""

from __future__ import annotations

import re
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# How "Answer" is written in front of a colon, in the order in which simple-evals tries them. "*" stands for white space
# that may precede the colon.
_WORDS = [
    "Answer*:",
    "Answer*:" + 6 * "\u200b",  # spaces without width, as some models write them in Korean
    "উত্তর*:",
    "उत्तर*:",
    "উত্তরঃ",
    "Antwort*:",
    "답변*:",
    "정답*:",
    "답*:",
    "答案*\uff1a",
    "答案*:",
    "答*\uff1a",
    "答*:",
    "答复*\uff1a",
    "答曰*\uff1a",
    "الإجابة:",
    "الجواب:",
    "إجابة:",
    "الإجابة النهائية:",
    "الإجابة الصحيحة:",
    "الإجابة الصحيحة هي:",
    "الإجابة هي:",
    "الجواب النهائي:",
    "Respuesta*:",
    "Risposta*:",
    "答え*:",
    "答え*\uff1a",
    "回答*:",
    "回答*\uff1a",
    "解答*:",
    "Jawaban*:",
    "Réponse*:",
    "Resposta*:",
    "Jibu*:",
    "Idahun*:",
    "Ìdáhùn*:",
    "Idáhùn*:",
    "Àmọ̀nà*:",
    "Àdáhùn*:",
    "Ànúgọ*:",
    "Àṣàyàn*:",
]
_NAMES = dict(zip("أبجدঅবডঢＡＢＣＤ", "ABCD" * 3, strict=True))
_MARKUP = (
    "**",
    "$\\boxed{",
    "}$",
    "\\$",
    "$\\text{",
    "$",
    "\\mathrm{",
    "\\{",
    "\\text",
    "\\(",
    "\\mathbf{",
    "{",
    "\\boxed",
)
"""What is deleted before the search, one after the other."""


@lru_cache(maxsize=64)
def _pattern(word: str) -> re.Pattern[str]:
    written = re.escape(word).replace(r"\*", r"\s*")
    return re.compile(rf"(?i){written}[ \t]*([A-D]|[أ-د]|[অবডঢＡＢＣＤ])")


def multilingual_choice(text: str, _choices: Sequence[str]) -> str | None:
    """The letter A to D after the first "Answer:" in one of some thirty languages, markup left out.

    The rule of simple-evals for MMLU and MMMLU (github.com/openai/simple-evals); letters of Arabic, Bengali and
    full-width script count as those that they stand for. A small letter is found, but it is not right, as there.
    """
    plain = reduce(lambda kept, mark: kept.replace(mark, ""), _MARKUP, text)
    lowered = plain.lower()
    for word in _WORDS:
        if word.partition("*")[0].rstrip(":").lower() not in lowered:
            continue  # searching for a word that is not there is what would cost
        if match := _pattern(word).search(plain):
            return _NAMES.get(match.group(1), match.group(1))
    return None
