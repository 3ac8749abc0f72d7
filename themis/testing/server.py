"""An OpenAI-compatible model server on loopback, with latency and faults: for tests, trials and benchmarks.

    with ModelServer(lambda prompt: "#### 42", latency=0.1) as server:
        evaluate("gsm8k", "openai/any-name", base_url=server.base_url)

As a process of its own, so that it shares no interpreter with what is measured; its first line is its base
URL:

    python -m themis.testing.server --answers rows.jsonl --question question --response solution --latency 0.1
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from themis.errors import UsageError
from themis.models.lookup import TextIndex

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import web

Body: TypeAlias = dict[str, Any]
Answer: TypeAlias = "str | Body"
Answers: TypeAlias = "Answer | Mapping[str, Answer] | Callable[[str], Answer]"

STALL = 24 * 3600.0
"""Seconds that a hanging request hangs, unless the client or the server ends first."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        kind: "status" answers with an error; "drop" closes the connection without an answer; "hang" never
            answers; "malformed" answers 200 with what is not JSON; "truncated" closes in the middle of the answer.
        status: The HTTP status of kind "status".
        retry_after: Its Retry-After header: seconds or an HTTP date.
        body: Its body, by default an error in OpenAI's shape.
    """

    kind: Literal["status", "drop", "hang", "malformed", "truncated"] = "status"
    status: int = 500
    retry_after: float | str | None = None
    body: str | None = None


Faults: TypeAlias = "Mapping[Fault, float] | Sequence[Fault | None] | Callable[[int, Body], Fault | None]"


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it arrived. `prompt` joins the texts of its messages by blank lines."""

    path: str
    prompt: str
    body: Body = field(repr=False)
    authorization: str | None = field(default=None, repr=False)


class ModelServer:
    """Serves the chat, completions and models endpoints from a thread of its own while it is entered.

    Token counts are counts of words. What it has received may be read from any thread, at any time.

    Args:
        answer: What it answers. A function gets the prompt's text and returns the answer's text, a message (a
            dict with "content"), or a whole body (a dict with "choices"); it runs on the server's thread. A
            mapping from questions answers the last question that the prompt contains, and refuses other
            prompts with 422. A text or a dict is the answer to everything.
        latency: Seconds from a request to its answer.
        faults: Fault -> share of the requests that meet it, drawn with `seed`; or the faults of the first
            requests, one each in order (None for none); or a function of the number of the request (from 0)
            and its body.
        seed: Makes the draw of faults the same every time.
        api_key: The key without which it answers 401; None to take any.
        models: The names that /v1/models lists. Requests may name any other.
        port: 0 for a free one.
    """

    def __init__(
        self,
        answer: Answers = "ok",
        *,
        latency: float = 0.0,
        faults: Faults = (),
        seed: int = 0,
        api_key: str | None = None,
        models: Sequence[str] = ("test-model",),
        port: int = 0,
    ) -> None:
        self.latency = latency
        self.api_key = api_key
        self.models = tuple(models)
        self.port = port
        self.requests: list[ReceivedRequest] = []
        self.in_progress = 0
        self.max_in_progress = 0
        self._answer = _answer_function(answer)
        self._fault = _fault_function(faults, seed)
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    @property
    def base_url(self) -> str:
        """The address to give to a client; it ends in /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="themis-model-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that enters
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from aiohttp import web

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        if self._is_locked(request):
            return _error(401, "Incorrect API key provided", code="invalid_api_key")
        return _reply({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    def _is_locked(self, request: web.Request) -> bool:
        return self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}"

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body: Body = json.loads(await request.read())
        received = ReceivedRequest(request.path, _prompt(body), body, request.headers.get("Authorization"))
        number = len(self.requests)
        self.requests.append(received)
        self.in_progress += 1
        self.max_in_progress = max(self.max_in_progress, self.in_progress)
        try:
            if self._is_locked(request):
                return _error(401, "Incorrect API key provided", code="invalid_api_key")
            fault = self._fault(number, body)
            await asyncio.sleep(STALL if fault and fault.kind == "hang" else self.latency)
            return await self._respond(request, received, number, fault)
        finally:
            self.in_progress -= 1

    async def _respond(
        self, request: web.Request, received: ReceivedRequest, number: int, fault: Fault | None
    ) -> web.StreamResponse:
        from aiohttp import web

        if fault is None or fault.kind == "truncated":
            answer = self._answer(received.prompt)
            if answer is None:
                return _error(422, f"no answer is known to {received.prompt[:80]!r}")
            reply = _reply(_completion(answer, received, number))
            return await _truncated(request, reply) if fault else reply
        if fault.kind == "malformed":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if fault.kind == "status":
            return _error(fault.status, "a fault of the test", text=fault.body, retry_after=fault.retry_after)
        _drop(request)
        return web.Response()


def _answer_function(answer: Answers) -> Callable[[str], Answer | None]:
    if callable(answer):
        return answer
    if isinstance(answer, str):
        return lambda _: answer
    if "choices" in answer or "content" in answer:
        fixed = dict(answer)
        return lambda _: fixed
    known = {question.strip(): reply for question, reply in answer.items()}
    index = TextIndex(known)

    def find(prompt: str) -> Answer | None:
        question = index.last_in(prompt)
        return None if question is None else known[question]

    return find


def _fault_function(faults: Faults, seed: int) -> Callable[[int, Body], Fault | None]:
    if callable(faults):
        return faults
    if not isinstance(faults, Mapping):
        return lambda number, _: faults[number] if number < len(faults) else None
    if sum(faults.values()) > 1:
        raise UsageError(f"the shares of the faults sum to {sum(faults.values()):g}; they can be 1 at most")
    draw = random.Random(seed).random
    bounds = list(zip(faults, itertools.accumulate(faults.values()), strict=True))

    def drawn(number: int, body: Body) -> Fault | None:
        point = draw()
        return next((fault for fault, bound in bounds if point < bound), None)

    return drawn


def _prompt(body: Body) -> str:
    if "messages" not in body:
        return str(body.get("prompt", ""))
    return "\n\n".join(_content(message.get("content")) for message in body["messages"])


def _content(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def _completion(answer: Answer, received: ReceivedRequest, number: int) -> Body:
    if isinstance(answer, dict) and "choices" in answer:
        return answer
    message = {"content": answer} if isinstance(answer, str) else answer
    is_chat = received.path.endswith("/chat/completions")
    choice = {"message": {"role": "assistant", **message}} if is_chat else {"text": message["content"]}
    words = len(received.prompt.split()), len(str(message["content"]).split())
    return {
        "id": f"cmpl-{number}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 0,
        "model": received.body.get("model"),
        "choices": [{"index": 0, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": words[0], "completion_tokens": words[1], "total_tokens": sum(words)},
    }


def _reply(body: Body) -> web.Response:
    from aiohttp import web

    return web.Response(body=json.dumps(body).encode(), content_type="application/json")


def _error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    text: str | None = None,
    retry_after: float | str | None = None,
) -> web.Response:
    from aiohttp import web

    error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = json.dumps(error) if text is None else text
    return web.Response(status=status, text=body, content_type="application/json", headers=headers)


async def _truncated(request: web.Request, reply: web.Response) -> web.StreamResponse:
    from aiohttp import web

    body = reply.body
    assert isinstance(body, bytes), "_reply() makes bytes"
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    _drop(request)
    return response


def _drop(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _main() -> None:
    """Serve until the process is ended; the first line on stdout is the base URL."""
    import argparse
    import sys

    from themis.models.recording import read_rows

    parser = argparse.ArgumentParser(prog="python -m themis.testing.server", description=_main.__doc__)
    parser.add_argument("--answers", required=True, help="a .jsonl, .json or .parquet file (.gz, .zst too)")
    parser.add_argument("--question", default="question", help="its field whose text stands in the prompt")
    parser.add_argument("--response", default="response", help="its field with the answer")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--api-key", help="the key without which it answers 401")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of faults")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT=SHARE",
        help="429=0.05 for a status; drop, hang, malformed or truncated for what its name says; repeatable",
    )
    given = parser.parse_args()
    answers = {row[given.question]: row[given.response] for row in read_rows(given.answers)}
    faults = dict(map(_parse_fault, given.fault))
    options = {"latency": given.latency, "port": given.port, "api_key": given.api_key, "seed": given.seed}
    with ModelServer(answers, faults=faults, **options) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        threading.Event().wait()


def _parse_fault(text: str) -> tuple[Fault, float]:
    name, _, share = text.partition("=")
    fault = Fault(status=int(name)) if name.isdigit() else Fault(name)  # type: ignore[arg-type] # checked by the next line
    if fault.kind not in {"status", "drop", "hang", "malformed", "truncated"}:
        raise UsageError(f"--fault {text}: give a status, drop, hang, malformed or truncated, as in 429=0.05")
    return fault, float(share)


if __name__ == "__main__":
    _main()
