"""What turns a request into a response."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.records import Kind, Request


@dataclass(frozen=True)
class Response:
    """One answer. The fields are those of GenerationRecord that a model fills; counts are tokens."""

    text: str | None
    reasoning: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_input_tokens: int | None = None
    choice_logprobs: list[float] | None = None
    choice_is_greedy: list[bool] | None = None
    token_logprobs: list[Any] | None = None
    model_served: str | None = None
    system_fingerprint: str | None = None
    attempts: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)


class Model(ABC):
    """Turns requests into responses, many at once on one event loop.

    A model must pickle: it travels to worker processes, and what it opens there (connections, caches) is left out of
    the pickle. Write `identity` and `generate`; the rest has a default.
    """

    name: str = ""
    """How the model is called in tables and records."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"chat", "completion"})
    """The kinds of request that `generate` takes."""

    blocking: bool = False
    """True where `generate` holds its thread (a plain function): such a model is called on threads, not on a loop."""

    bounds_time: bool = False
    """True where `generate` has time limits of its own; any other model is timed by the backend."""

    transport: str | None = None
    """Where the model is served (a base URL), None where it runs in process. Not part of the identity."""

    @abstractmethod
    def identity(self) -> dict[str, Any] | None:
        """What determines the answers: provider, name, revision, as JSON. None where it cannot be told."""

    @abstractmethod
    async def generate(self, request: Request) -> Response:
        """The answer to one request.

        Raises:
            ModelError: There is none; the error's kind says whose fault it was. Any other exception counts as one of
                kind "infrastructure".
        """

    async def generate_many(self, requests: Sequence[Request]) -> list[Response]:
        """The answers to several requests, in their order."""
        return list(await asyncio.gather(*(self.generate(request) for request in requests)))

    async def check(self) -> None:  # noqa: B027 - optional
        """Find out before the first paid request, in seconds, what would make every request fail.

        Raises:
            ModelError: With one sentence: what is missing, what to do.
        """

    async def close(self) -> None:  # noqa: B027 - optional
        """Give back what this process opened on the running event loop. Idempotent; a later `generate` opens again."""
