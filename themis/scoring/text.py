"""Normal forms of texts: two answers are the same exactly when their normal forms are."""

from __future__ import annotations

import re
import unicodedata

_AROUND = " \t\n\"'`*_\u201c\u201d\u2018\u2019"


def normal_text(text: str) -> str:
    """The text in NFC and lower case, single-spaced, without quotes or emphasis around it and without a final dot."""
    text = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return text.strip(_AROUND).removesuffix(".").strip(_AROUND) or text  # "*" may be the whole answer


def contains_words(text: str, words: str) -> bool:
    """Whether the words stand in the text as whole words; both in normal form. "1985" does not contain "19"."""
    start = text.find(words)
    while start >= 0:
        end = start + len(words)
        if not (_joined(text, start) or _joined(text, end)):
            return True
        start = text.find(words, start + 1)
    return False


def _joined(text: str, at: int) -> bool:
    """Whether the characters on both sides of a position belong to one word."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


# Each pattern below is linear: what repeats is bounded by a character that it does not contain.
_SPACING = re.compile(r"(\\\\)|\\[!,;: ]|\\q?quad(?![a-zA-Z])|[\s~]+")
_SIZING = re.compile(r"\\(?:left|right)(?![a-zA-Z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_UNIT = re.compile(r"(?<=[\d}])\\(?:text|mbox|mathrm)\{[A-Za-z.]+\}(?:\^\{?\d\}?)?\Z")
_WORDS = re.compile(r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|mathbf)\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree(?![a-zA-Z])|°")
_SIGNS = re.compile(r"\\?[$%]|\\[()\[\]]")
_VARIABLE = re.compile(r"\A[a-zA-Z](?:=|\\in(?![a-zA-Z]))(?=[^=]*\Z)")
_ONE_CHARACTER = re.compile(r"([\^_])\{(\w)\}")
_NUMERATOR = re.compile(r"\\frac([0-9a-z])")
_DENOMINATOR = re.compile(r"(\\frac\{[^{}]*\})([0-9a-z])")
_ROOT = re.compile(r"\\sqrt([0-9a-z])")
_NEGATIVE_FRACTION = re.compile(r"\A\\frac\{-([^{}]*)\}(\{[^{}]*\})\Z")
_SLASH = re.compile(r"\A(-?)(\d+)/(\d+)\Z")
_THOUSANDS = re.compile(r"\A-?\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_DECIMAL = re.compile(r"\A-?\d*\.\d+\Z")


def normal_latex(text: str) -> str:
    r"""The mathematics in one of the ways of writing it.

    What only calculation shows to be equal stays different. What does not matter: spacing, \left and \right, \dfrac
    for \frac, \text{} around words, a unit after a number, degree, dollar and percent signs, a final dot, "x =" or
    "x \in" in front, separators of thousands and final zeros of a number that is the whole answer, braces around one
    character, 3/4 for \frac{3}{4}, the place of a fraction's minus.
    """
    text = _SPACING.sub(r"\1", text).replace("{,}", ",")
    text = _FRACTION.sub(r"\\frac", _SIZING.sub("", text))
    text = _DEGREES.sub("", _SIGNS.sub("", text)).rstrip(".")
    text = _WORDS.sub(r"\1", _UNIT.sub("", text)).replace("\u2212", "-")
    text = _ONE_CHARACTER.sub(r"\1\2", _VARIABLE.sub("", text).removeprefix("+"))
    text = _DENOMINATOR.sub(r"\1{\2}", _NUMERATOR.sub(r"\\frac{\1}", text))
    return _normal_value(_ROOT.sub(r"\\sqrt{\1}", text))


def _normal_value(text: str) -> str:
    text = _SLASH.sub(r"\1\\frac{\2}{\3}", _NEGATIVE_FRACTION.sub(r"-\\frac{\1}\2", text))
    if _THOUSANDS.match(text):
        text = text.replace(",", "")
    if not _DECIMAL.match(text):
        return text
    whole, _, fraction = text.partition(".")
    whole = f"{whole}0" if whole in {"", "-"} else whole
    return f"{whole}.{fraction}".rstrip("0").rstrip(".")


_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,9}(?:\{|([^\s{}$\\]+))|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...} whose braces close.

    None without one, or with an empty one. Braces nest, \{ and \} do not count; "\boxed 5" holds 5. One pass over the
    text from the first box on.
    """
    first = _BOX.search(text)
    best, content = -1, None
    opened: list[tuple[int, int] | None] = []
    for match in _BOX_OR_BRACE.finditer(text, first.start()) if first else ():
        mark = match.group()
        if mark == "{":
            opened.append(None)
        elif mark == "}":
            box = opened.pop() if opened else None
            if box and box[0] > best:
                best, content = box[0], text[box[1] : match.start()]
        elif mark.startswith(("\\boxed", "\\fbox")):
            if match.group(1):
                best, content = match.start(), match.group(1)
            else:
                opened.append((match.start(), match.end()))
    return (content or "").strip() or None
