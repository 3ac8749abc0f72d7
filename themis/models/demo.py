"""A model without a model: it answers the embedded word problems, and is wrong on a known share."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from themis.ids import content_hash, text_hash
from themis.models.base import Model, Response
from themis.models.lookup import TextIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from themis.records import Request

WRONG_SHARE = 0.2
"""The share of answers that are wrong by one, chosen by a hash of question and repeat."""

UNKNOWN = "I am a demonstration and only know the embedded arithmetic questions; I do not know this one."


class DemoModel(Model):
    """Answers arithmetic word problems offline, the same every time: to try themis, never to measure.

    Args:
        questions: What it knows: rows with "question" and "answer", a number as text. By default those of the
            embedded benchmark "arithmetic".
    """

    name = "demo"

    def __init__(self, questions: Iterable[Mapping[str, str]] | None = None) -> None:
        rows = _embedded_questions() if questions is None else questions
        self._answers = {row["question"].strip(): row["answer"] for row in rows}

    def __repr__(self) -> str:
        return f"DemoModel({len(self._answers)} questions)"

    def __getstate__(self) -> dict[str, Any]:
        return {"_answers": self._answers}

    @cached_property
    def _index(self) -> TextIndex:
        return TextIndex(self._answers)

    @cached_property
    def _revision(self) -> str:
        return content_hash([self._answers, WRONG_SHARE])

    def identity(self) -> dict[str, Any]:
        return {"provider": "demo", "name": "demo", "revision": self._revision}

    async def generate(self, request: Request) -> Response:
        question = self._index.last_in(last_user_text(request))
        if question is None:
            return Response(text=UNKNOWN, finish_reason="stop")
        answer = self._answers[question]
        if is_wrong(question, request.repeat):
            answer = str(Decimal(answer.replace(",", "")) + 1)
        return Response(
            text=f"Working it out step by step, the result is {answer}.\n#### {answer}", finish_reason="stop"
        )


def is_wrong(question: str, repeat: int = 0) -> bool:
    """Whether the demo answers this question wrongly, at this repeat."""
    return int(text_hash(f"{repeat}:{question}")[:8], 16) < WRONG_SHARE * 16**8


def last_user_text(request: Request) -> str:
    """The text of the last message of a user, or of the prompt where there are no messages."""
    users = [message for message in request.messages or () if message.get("role") == "user"]
    return message_text(users[-1]) if users else request.prompt


def message_text(message: Mapping[str, Any]) -> str:
    """The text of one message, whose content is text or a list of parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _embedded_questions() -> list[dict[str, str]]:
    from importlib.resources import files

    text = (files("themis") / "data" / "arithmetic.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
