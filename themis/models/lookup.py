"""Which of many known texts a prompt contains."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ANCHOR = 24
"""Characters by which a text is looked up before it is compared as a whole."""


class TextIndex:
    """Finds known texts inside prompts, in time that grows with the prompt and not with the number of texts.

    Blank space around a text does not count; empty texts are left out.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_anchor: dict[str, list[str]] = {}
        for text in dict.fromkeys(text.strip() for text in texts):
            if text:
                self._by_anchor.setdefault(text[:_ANCHOR], []).append(text)
        self._lengths = sorted({len(anchor) for anchor in self._by_anchor})

    def last_in(self, prompt: str) -> str | None:
        """The known text that ends last in the prompt, the longest of those; None where the prompt has none.

        The last is the question that is asked: worked examples stand before it.
        """
        ends = [
            (start + len(text), len(text), text)
            for length in self._lengths
            for start in range(len(prompt) - length + 1)
            for text in self._by_anchor.get(prompt[start : start + length], ())
            if prompt.startswith(text, start)
        ]
        return max(ends)[2] if ends else None
