"""Where sentences of English text end: Punkt, with the model and the rules that IFEval was published with.

Kiss & Strunk 2006, Unsupervised Multilingual Sentence Boundary Detection, Computational Linguistics 32(4). The model
(abbreviations, collocations, words that start sentences, how words are written) is NLTK's, out of a package that
carries it. The rules are those of NLTK 3.8, the release that the published scores were made with: later ones split
quotes and dashes otherwise, and a score must not depend on what is installed. Linear in the text.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_WORD = r"[)\";}\]*:@'({\[?!]"
_REPEATED = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_TOKEN = re.compile(
    rf"""{_REPEATED}
    | [^("`{{\[:;&\#*@)}}\]\-,\s] \S*? (?=\s | $ | {_NO_WORD} | {_REPEATED} | ,(?=$ | \s | {_NO_WORD} | {_REPEATED}))
    | \S""",
    re.VERBOSE,
)
_CANDIDATE = re.compile(rf"[.?!](?=(?P<after>{_NO_WORD}|\s+(?P<next>\S+)))")
_CLOSING = re.compile(r"""["')\]}]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\Z")
_INITIAL = re.compile(r"[^\W\d]\.\Z")
_SPACES = " \t\n\r\v\f"

# How the model says that a word was seen: in upper or lower case, at the start of a sentence, within, or unknown.
_UPPER_WITHIN, _LOWER_AT_START = 1 << 2, 1 << 4
_UPPER = 1 << 1 | _UPPER_WITHIN | 1 << 3
_LOWER = _LOWER_AT_START | 1 << 5 | 1 << 6


class _Token(NamedTuple):
    """A word with what its own form says: whether it ends a sentence, and whether it is an abbreviation."""

    text: str
    kind: str
    ends: bool = False
    abbreviates: bool = False

    @property
    def word(self) -> str:
        """What the model knows it by, without the full stop."""
        return self.kind[:-1] if len(self.kind) > 1 and self.kind.endswith(".") else self.kind

    @property
    def as_next(self) -> str:
        """What the model knows it by when it follows another word."""
        return self.word if self.ends else self.kind


def sentences(text: str) -> list[str]:
    """The sentences of English text, without the white space between them."""
    return [text[start:end] for start, end in _realigned(text, list(_spans(text)))]


@cache
def _model() -> Any:
    from punkt import load_model

    return load_model("english")


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match, context in _contexts(text):
        if _has_break(context):
            yield start, match.end()
            start = match.start("next") if match["next"] else match.end()
    yield start, len(text.rstrip())


def _contexts(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each mark that may end a sentence, the last one of several on one word, with that word and what follows."""
    previous: re.Match[str] | None = None
    start = end = 0  # of the word before the previous mark
    for match in _CANDIDATE.finditer(text):
        space = max(text.rfind(blank, end, match.start()) for blank in _SPACES)
        word = space + 1 if space > end else start
        if previous is not None and end <= word:
            yield previous, text[start:end] + previous.group() + previous["after"]
        previous, start, end = match, word, match.start()
    if previous is not None:
        yield previous, text[start:end] + previous.group() + previous["after"]


def _has_break(context: str) -> bool:
    """Whether a sentence ends before the last token, which is there for what it says of those before it."""
    tokens = [_seen_alone(match.group()) for line in context.split("\n") for match in _TOKEN.finditer(line)]
    return any(_breaks(token, following) for token, following in pairwise(tokens))


def _seen_alone(text: str) -> _Token:
    kind = "##number##" if _NUMBER.match(text) else text.lower()
    if text in {".", "?", "!"}:
        return _Token(text, kind, ends=True)
    if not text.endswith("."):
        return _Token(text, kind)
    if text.endswith(".."):
        return _Token(text, kind, abbreviates=not text.strip("."))  # an ellipsis is judged as an abbreviation is
    stem = text[:-1].lower()
    known = not _model().abbrev_types.isdisjoint({stem, stem.rpartition("-")[2]})
    return _Token(text, kind, ends=not known, abbreviates=known)


def _breaks(token: _Token, following: _Token) -> bool:
    """Whether a sentence ends with a token, seen with the one that follows."""
    if not token.text.endswith("."):
        return token.ends
    model, word, upper = _model(), following.as_next, following.text[:1].isupper()
    if (token.word, word) in model.collocations:
        return False
    initial = bool(_INITIAL.match(token.text))
    starts = _starts_sentence(following)
    if token.abbreviates and not initial:
        return token.ends or starts is True or (upper and word in model.sent_starters)
    if initial or token.word == "##number##":
        if starts is False:
            return False
        if starts is None and initial and upper and not _seen(word) & _LOWER:
            return False
    return token.ends


def _starts_sentence(token: _Token) -> bool | None:
    """Whether the way it is written says that a token starts a sentence; None where it does not say."""
    if token.text in {";", ":", ",", ".", "!", "?"}:
        return False
    seen = _seen(token.as_next)
    if token.text[:1].isupper() and seen & _LOWER and not seen & _UPPER_WITHIN:
        return True
    if token.text[:1].islower() and (seen & _UPPER or not seen & _LOWER_AT_START):
        return False
    return None


def _seen(word: str) -> int:
    return int(_model().ortho_context.get(word, 0))


def _realigned(text: str, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans that are not empty, with the quotes and brackets that close a sentence moved to it from the next."""
    moved = 0
    for (start, end), following in zip(spans, [*spans[1:], None], strict=True):
        begin, moved = start + moved, 0
        closing = _CLOSING.match(text, *following) if following else None
        if closing is not None:
            yield begin, closing.start() + len(closing.group().rstrip())
            moved = len(closing.group())
        elif begin < end:
            yield begin, end
