"""A function as a model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias

from themis.errors import ModelError
from themis.ids import callable_identity
from themis.models.base import Model, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from themis.records import Message, Request

    Answer: TypeAlias = str | Response
    ModelFunction: TypeAlias = Callable[[Any], Answer | Awaitable[Answer]]


class CallableModel(Model):
    """Answers with what a function returns: text, or a Response where there is more to say.

    The function gets the prompt's text, or the list of messages where the request is a chat that has messages
    (one with a system prompt, or a template that returns messages). A plain function holds its thread; an
    `async def` does not, and is awaited on the event loop.

    Args:
        func: prompt -> text, plain or `async def`.
        name: What makes it the same model in another run. Without it, the function's code, defaults and
            closure do; where these cannot be told (a bound method, an object), runs do not resume by
            themselves.
    """

    def __init__(self, func: ModelFunction, *, name: str | None = None) -> None:
        self.func = func
        self.name = name or str(getattr(func, "__name__", type(func).__name__))
        self._given_name = name
        self.blocking = not _is_async(func)

    def __repr__(self) -> str:
        return f"CallableModel({self.name})"

    def identity(self) -> dict[str, Any] | None:
        if self._given_name:
            return {"provider": "function", "name": self._given_name}
        code = callable_identity(self.func)
        return None if code is None else {"provider": "function", "name": self.name, "code": code}

    async def generate(self, request: Request) -> Response:
        prompt: str | list[Message] = request.prompt
        if request.kind == "chat" and request.messages is not None:
            prompt = request.messages
        answer = self.func(prompt)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, str):
            return Response(text=answer)
        raise ModelError(
            f"the function {self.name} returned a {type(answer).__name__}; "
            "it has to return text or a themis.models.Response"
        )


def _is_async(func: Any) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)
