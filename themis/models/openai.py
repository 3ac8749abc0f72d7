"""Models behind the OpenAI-compatible chat and completions API."""

from __future__ import annotations

import dataclasses
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from themis.errors import AuthenticationError, ModelError, ModelOutcomeError, RequestError, UsageError
from themis.models.base import Model, Response
from themis.models.http import HttpClient, Reply, TransientError
from themis.models.providers import OPENAI, Provider
from themis.models.refusals import parse_refusal, refused

if TYPE_CHECKING:
    from themis.records import Kind, Request

_PATHS: dict[str, str] = {"chat": "/chat/completions", "completion": "/completions"}


class OpenAIModel(Model):
    """A model that a server offers under the OpenAI-compatible API.

    The key is `api_key` if given, else the provider's environment variable in the process that sends, else
    that variable as it was where the model was made; the last travels inside the pickled model. It never
    shows in repr, identity, errors or logs.

    Args:
        model: The model's name, as the server calls it.
        provider: Who serves it; `themis.models.PROVIDERS` has those that are known.
        base_url: Where, if not at the provider's own address.
        api_key: The key, where no environment variable is to be read.
        timeout: Seconds for one attempt.
        max_retries: How many times a request is sent again at most.

    Raises:
        UsageError: The name is empty, or the base_url is none.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"chat", "completion"})
    bounds_time = True

    def __init__(
        self,
        model: str,
        *,
        provider: Provider = OPENAI,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
    ) -> None:
        if not model.strip():
            raise UsageError(f"the model's name is empty; write {provider.name}/NAME")
        self.provider = provider
        self.model = model
        self.name = f"{provider.name}/{model}"
        self.transport = provider.address(base_url)
        self._http = HttpClient(self.transport, timeout=timeout, max_retries=max_retries)
        self._given_key = api_key
        self._key_at_home = self._environment_key()

    def __repr__(self) -> str:
        return f"OpenAIModel({self.model!r}, provider={self.provider.name!r}, base_url={self.transport!r})"

    def identity(self) -> dict[str, Any]:
        return {"provider": self.provider.name, "name": self.model}

    async def check(self) -> None:
        if self.provider.needs_key and self.transport == self.provider.base_url and not self._key():
            raise AuthenticationError(
                f"no key for {self.name}: set {self.provider.key_env}, or base_url= for another server. "
                "`themis list models` shows every provider, and the model demo, which needs none",
                attempts=0,
            )
        await self._http.check()

    async def generate(self, request: Request) -> Response:
        body = json.dumps(self._body(request)).encode()
        key = self._key()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        path = _PATHS[request.kind]
        response, attempts = await self._http.post(path, headers, body, partial(self._read, request.kind, key))
        return response if attempts == 1 else dataclasses.replace(response, attempts=attempts)

    async def close(self) -> None:
        await self._http.close()

    def _key(self) -> str | None:
        return self._given_key or self._environment_key() or self._key_at_home

    def _environment_key(self) -> str | None:
        variable = self.provider.key_env
        return os.environ.get(variable, "").strip() or None if variable else None

    def _body(self, request: Request) -> dict[str, Any]:
        if request.kind not in self.kinds:
            raise RequestError(f"{self.name} takes chat and completion requests, not {request.kind}", attempts=0)
        params = self._params(request)
        if request.kind == "completion":
            return {**params, "model": self.model, "prompt": request.prompt}
        messages = request.messages
        if messages is None:
            messages = [{"role": "user", "content": request.prompt}]
        return {**params, "model": self.model, "messages": messages}

    def _params(self, request: Request) -> dict[str, Any]:
        """The parameters that were set, max_tokens under the name that the provider's own chat API takes."""
        params = request.params
        if params.get("stream") or params.get("n", 1) != 1:
            raise RequestError(
                "the parameters 'stream' and 'n' are not possible: a request gets one whole answer; "
                "num_samples= asks for several",
                attempts=0,
            )
        wanted = self.provider.max_tokens_param if self.transport == self.provider.base_url else "max_tokens"
        if request.kind == "completion" or "max_tokens" not in params or wanted in params:
            return params
        return {wanted if name == "max_tokens" else name: value for name, value in params.items()}

    def _read(self, kind: Kind, key: str | None, reply: Reply) -> Response:
        if reply.status != 200:
            raise self._refused(reply, kind, key)
        try:
            body = json.loads(reply.body)
            if body.get("choices"):
                return _response(kind, body)
            error = body.get("error")
        except (ValueError, AttributeError, KeyError, IndexError, TypeError) as malformed:
            start = parse_refusal(reply.body, key).words[:80]
            raise TransientError(f"{self._where(kind)} answered 200 with a malformed body: {start!r}") from malformed
        if not error:
            raise TransientError(f"{self._where(kind)} answered 200 without choices")
        # Gateways forward the error of the server behind them in a reply of status 200.
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
        raise self._refused(dataclasses.replace(reply, status=status), kind, key)

    def _refused(self, reply: Reply, kind: Kind, key: str | None) -> ModelError | TransientError:
        return refused(reply, self._where(kind), self.provider.key_env, key)

    def _where(self, kind: Kind) -> str:
        return f"{self.name} at {self.transport}{_PATHS[kind]}"


def _response(kind: Kind, body: dict[str, Any]) -> Response:
    choice = body["choices"][0]
    message = choice["message"] if kind == "chat" else choice
    text, thinking = _text(message.get("content") if kind == "chat" else message["text"])
    finish_reason = choice.get("finish_reason")
    if finish_reason == "content_filter" and not text:
        raise ModelOutcomeError("the content filter withheld the answer: counts as the model's own outcome")
    refusal = message.get("refusal")
    return Response(
        text=text,
        reasoning=message.get("reasoning_content") or message.get("reasoning") or thinking,
        finish_reason=finish_reason,
        token_logprobs=_token_logprobs(choice.get("logprobs")),
        model_served=body.get("model"),
        system_fingerprint=body.get("system_fingerprint"),
        metadata={"refusal": refusal} if refusal else {},
        **_usage(body.get("usage") or {}),
    )


def _text(content: Any) -> tuple[str, str | None]:
    """Text and reasoning of a message's content: text, parts, or null or nothing at all, which is an empty answer."""
    if content is None or isinstance(content, str):
        return content or "", None
    text = "".join(part["text"] for part in content if part["type"] in {"text", "output_text"})
    thinking = "".join(_thought(part["thinking"]) for part in content if part["type"] == "thinking")
    return text, thinking or None


def _thought(thinking: Any) -> str:
    return thinking if isinstance(thinking, str) else _text(thinking)[0]  # Mistral: a list of parts in the part


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "reasoning_tokens": completion.get("reasoning_tokens"),
        "cached_input_tokens": prompt.get("cached_tokens", usage.get("prompt_cache_hit_tokens")),
    }


def _token_logprobs(logprobs: dict[str, Any] | None) -> list[Any] | None:
    """One dict for each token: token, logprob, and top_logprobs where they were asked for."""
    if not logprobs:
        return None
    if "content" in logprobs:
        entries = logprobs["content"] or []
        return [{name: value for name, value in entry.items() if name != "bytes"} for entry in entries]
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return [
        {"token": token, "logprob": logprob, **({"top_logprobs": top} if top else {})}
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]
