"""What a server's refusal means: status and body -> the error that it is.

The wordings come from the servers' own sources and error pages: OpenAI, Azure, vLLM, SGLang, llama.cpp,
Mistral, Anthropic, Gemini, Fireworks, xAI, OpenRouter, DeepSeek.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from themis.errors import (
    AuthenticationError,
    ModelError,
    ModelNotFoundError,
    ModelOutcomeError,
    QuotaExceededError,
    RequestError,
)
from themis.models.http import TransientError, retry_after

if TYPE_CHECKING:
    from themis.models.http import Reply

MAX_WORDS = 300
"""Characters of a server's own words that a message quotes."""

_RETRIED = frozenset({408, 409, 425, 429})
_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})

_CONTEXT = re.compile(
    r"maximum (context|model|prompt) length|exceeds? the available context size"
    r"|longer than the model'?s? (maximum )?context length|context (length|window|size) (is )?exceeded"
    r"|prompt is too long|input token count .{0,40}exceeds the maximum number of tokens",
    re.IGNORECASE,
)
# Not the prompt but the limit that the caller set is too large: it would be the same for every prompt.
_LIMIT = re.compile(r"max_(completion_)?tokens'?\"? is too large", re.IGNORECASE)
_FILTER = re.compile(
    r"content management policy|content exists risk|flagged as potentially violating|your input was flagged",
    re.IGNORECASE,
)
# "You exceeded your current quota" is not among them: Gemini says it of a limit per minute.
_QUOTA = re.compile(r"credit balance is too low|insufficient balance", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """A server's words, at most MAX_WORDS characters of them, and every code and type that it gave."""

    words: str
    codes: frozenset[str]


def parse_refusal(body: bytes, secret: str | None = None) -> Refusal:
    """What the body of an error says, in any of the shapes that servers use; `secret` is blotted out."""
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = text
    if isinstance(content, list) and content:  # Gemini wraps its error in a list
        content = content[0]
    error = content.get("error", content) if isinstance(content, dict) else content
    words = " ".join(str(_words(error)).split())
    if secret:
        words = words.replace(secret, "[key]")
    return Refusal(words[:MAX_WORDS] + ("..." if len(words) > MAX_WORDS else ""), frozenset(_codes(error)))


def _words(error: Any) -> Any:
    if not isinstance(error, dict):
        return error
    words = error.get("message") or error.get("detail") or error
    return words if isinstance(words, str) else json.dumps(words)


def _codes(error: Any) -> list[str]:
    if not isinstance(error, dict):
        return []
    codes = [str(error[name]) for name in ("code", "type", "status") if error.get(name) is not None]
    return codes + _codes(error.get("innererror"))


def refused(reply: Reply, where: str, key_env: str | None, secret: str | None = None) -> ModelError | TransientError:
    """The error that a reply means, to be raised.

    Args:
        reply: Any reply that is not an answer.
        where: The model and the URL without its query, as the message shall call them.
        key_env: The variable that the key is expected in.
        secret: The key, to be blotted out where the server echoes it.
    """
    status, refusal = reply.status, parse_refusal(reply.body, secret)
    said = f"{where} answered {status}" + (f": {refusal.words}" if refusal.words else "")
    outcome = _outcome(refusal) if status not in {401, 404, 429} else None
    if outcome:
        return ModelOutcomeError(f"{said} ({outcome})")
    if status == 402 or refusal.codes & _QUOTA_CODES or _QUOTA.search(refusal.words):
        return QuotaExceededError(f"{said}; check the account's plan and billing, then run again")
    if status in _RETRIED or status >= 500:
        return TransientError(said, retry_after(reply.headers))
    if status in {401, 403}:
        variable = f" in {key_env}" if key_env else ""
        return AuthenticationError(f"{said}; check the key{variable}, and that it may use this model")
    if status < 400 or status in {404, 405, 410}:
        return ModelNotFoundError(f"{said}; check base_url (most end in /v1) and the model's name")
    return RequestError(f"{said}; check the prompt and the parameters")


def _outcome(refusal: Refusal) -> str | None:
    if refusal.codes & _FILTER_CODES or _FILTER.search(refusal.words):
        return "refused by a content filter: counts as the model's own outcome"
    too_long = _CONTEXT.search(refusal.words) and not _LIMIT.search(refusal.words)
    if refusal.codes & _CONTEXT_CODES or too_long:
        return "the prompt is longer than the model takes: counts as the model's own outcome"
    return None
