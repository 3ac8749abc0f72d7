"""themis.models.openai over real HTTP: what is sent, what is read, what is tried again, and what each failure means."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from themis.errors import (
    AuthenticationError,
    ModelNotFoundError,
    ModelOutcomeError,
    ModelUnavailableError,
    QuotaExceededError,
    RequestError,
)
from themis.models import PROVIDERS, OpenAIModel, Provider, load_model
from themis.models import http as model_http
from themis.models.http import MAX_RETRY_AFTER, proxy_for, retry_after, retry_delay
from themis.records import Request
from themis.testing import Fault, ModelServer

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_keys_no_proxies_no_waiting(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith(("_proxy", "_api_key", "_base_url"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(model_http, "FIRST_DELAY", 0.01)


def request(prompt: str = "hi", **fields) -> Request:
    """A request of one sample."""
    return Request("r1", prompt, "s1", **fields)


def generate(model, *requests: Request):
    """The responses to the requests; the model is closed."""

    async def run():
        try:
            return await model.generate_many(requests or [request()])
        finally:
            await model.close()

    return asyncio.run(run())


def answer_to(body: dict, **fields):
    """What the model makes of a whole body."""
    with ModelServer(body) as server:
        return generate(load_model("m", base_url=server.base_url), request(**fields))[0]


def error_of(*faults: Fault, **options):
    """The error that a model raises when its first requests meet these faults, and how many it sent."""
    with ModelServer("ok", faults=faults) as server:
        model = load_model("openai/gpt-x", base_url=server.base_url, **options)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the tests look at it
            generate(model)
        assert raised.value.attempts == len(server.requests)
        return raised.value


def refusal(message: str, code: str | None = None, status: int = 400) -> Fault:
    """A reply of that status with an error in OpenAI's shape."""
    return Fault(status=status, body=json.dumps({"error": {"message": message, "code": code, "type": "x"}}))


# What is sent


def test_sends_the_prompt_as_one_user_message_and_only_what_was_set():
    """A chat request has model, messages and the parameters that were set, nothing else."""
    with ModelServer() as server:
        generate(load_model("openai/gpt-x", base_url=server.base_url), request("2+2?", params={"temperature": 0}))

    assert server.requests[0].body == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "2+2?"}],
        "temperature": 0,
    }


def test_sends_the_messages_of_a_request_as_they_are():
    """A request with messages is sent with these, not with its prompt."""
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    with ModelServer() as server:
        generate(load_model("m", base_url=server.base_url), request("text", messages=messages))

    assert server.requests[0].body["messages"] == messages


def test_completion_requests_go_to_the_completions_api():
    """A completion sends its prompt as text and reads the text of the choice."""
    with ModelServer("4") as server:
        response = generate(load_model("m", base_url=server.base_url), request("2+2=", kind="completion"))[0]

    assert (server.requests[0].path, server.requests[0].body) == ("/v1/completions", {"model": "m", "prompt": "2+2="})
    assert response.text == "4"


@pytest.mark.parametrize(
    ("wanted", "params", "sent"),
    [
        ("max_tokens", {"max_tokens": 5}, {"max_tokens": 5}),
        ("max_completion_tokens", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("max_tokens", {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ("max_completion_tokens", {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        (
            "max_completion_tokens",
            {"max_tokens": 5, "max_completion_tokens": 6},
            {"max_tokens": 5, "max_completion_tokens": 6},
        ),
    ],
)
def test_max_tokens_is_sent_under_the_name_that_the_provider_takes(wanted, params, sent):
    """max_tokens becomes the provider's own parameter; what was given by another name is sent as it is."""
    with ModelServer() as server:
        provider = Provider("own", server.base_url, needs_key=False, max_tokens_param=wanted)
        generate(OpenAIModel("m", provider=provider), request(params=params))

    body = server.requests[0].body
    assert {name: body[name] for name in body if "tokens" in name} == sent


def test_only_openai_itself_gets_max_completion_tokens():
    """At another base_url the provider openai gets max_tokens, which every compatible server takes."""
    assert PROVIDERS["openai"].max_tokens_param == "max_completion_tokens"
    with ModelServer() as server:
        generate(load_model("openai/m", base_url=server.base_url), request(params={"max_tokens": 5}))

    assert server.requests[0].body["max_tokens"] == 5


@pytest.mark.parametrize("wrong", [{"kind": "loglikelihood"}, {"params": {"stream": True}}, {"params": {"n": 2}}])
def test_what_cannot_be_asked_is_an_input_error_and_is_not_sent(wrong):
    """Log-likelihoods, streams and several choices are refused before anything is sent."""
    with ModelServer() as server, pytest.raises(RequestError) as raised:
        generate(load_model("m", base_url=server.base_url), request(**wrong))

    assert (server.requests, raised.value.kind, raised.value.attempts) == ([], "input", 0)


# What is read


def test_reads_usage_and_what_was_served():
    """Token counts of 0 are 0 and not None; model and fingerprint are what the server says."""
    response = answer_to(
        {
            "choices": [{"message": {"content": "yes"}, "finish_reason": "length"}],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 0,
                "completion_tokens_details": {"reasoning_tokens": 0},
                "prompt_tokens_details": {"cached_tokens": 3},
            },
            "model": "gpt-x-2026",
            "system_fingerprint": "fp_1",
        }
    )

    assert (response.text, response.finish_reason, response.attempts) == ("yes", "length", 1)
    assert (response.input_tokens, response.output_tokens) == (7, 0)
    assert (response.reasoning_tokens, response.cached_input_tokens) == (0, 3)
    assert (response.model_served, response.system_fingerprint) == ("gpt-x-2026", "fp_1")


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "4", "reasoning_content": "2 and 2"}, "4", "2 and 2"),
        ({"content": "4", "reasoning": "2 and 2"}, "4", "2 and 2"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "4"},
                ]
            },
            "4",
            "hm",
        ),
        ({"content": None}, "", None),
        ({"role": "assistant"}, "", None),
    ],
)
def test_reads_text_and_reasoning_wherever_they_stand(message, text, reasoning):
    """Content may be text, parts or null (an empty answer); reasoning has three places."""
    response = answer_to({"choices": [{"message": message}]})

    assert (response.text, response.reasoning) == (text, reasoning)


def test_a_refusal_in_the_answer_is_kept():
    """A model's own refusal is an empty answer with the refusal beside it."""
    response = answer_to({"choices": [{"message": {"content": None, "refusal": "I will not"}}]})

    assert (response.text, response.metadata) == ("", {"refusal": "I will not"})


def test_reads_logprobs_of_both_apis():
    """Both shapes become a list with one dict for each token."""
    chat = {"content": [{"token": "4", "logprob": -0.1, "bytes": [52], "top_logprobs": []}]}
    text = {"tokens": ["4"], "token_logprobs": [-0.1], "top_logprobs": [{"4": -0.1}]}

    assert answer_to({"choices": [{"message": {"content": "4"}, "logprobs": chat}]}).token_logprobs == [
        {"token": "4", "logprob": -0.1, "top_logprobs": []}
    ]
    assert answer_to({"choices": [{"text": "4", "logprobs": text}]}, kind="completion").token_logprobs == [
        {"token": "4", "logprob": -0.1, "top_logprobs": {"4": -0.1}}
    ]


def test_an_answer_withheld_by_the_content_filter_is_the_models_outcome():
    """finish_reason content_filter without text is an outcome of the model; with text it is an answer."""
    withheld = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    with pytest.raises(ModelOutcomeError) as raised:
        answer_to(withheld)

    assert (raised.value.kind, raised.value.attempts) == ("model", 1)
    assert answer_to({"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}).text == "x"


# What is tried again


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(status=status) for status in (408, 409, 425, 429, 500, 502, 503, 529)),
        Fault("drop"),
        Fault("malformed"),
        Fault("truncated"),
        Fault(status=200, body="[]"),
        Fault(status=200, body='{"choices": []}'),
        Fault(status=200, body='{"error": {"message": "upstream", "code": 502}}'),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_what_may_pass_is_tried_again_and_counted(fault):
    """Two failures and then an answer are an answer after three attempts."""
    with ModelServer("ok", faults=[fault, fault]) as server:
        response = generate(load_model("m", base_url=server.base_url))[0]

    assert (response.text, response.attempts, len(server.requests)) == ("ok", 3, 3)


def test_a_request_that_hangs_is_tried_again_after_the_timeout():
    """The timeout counts for one attempt, and the next one gets the answer."""
    with ModelServer("ok", faults=[Fault("hang")]) as server:
        response = generate(load_model("m", base_url=server.base_url, timeout=0.3))[0]

    assert (response.text, response.attempts) == ("ok", 2)


def test_gives_up_after_max_retries():
    """After max_retries more attempts the error says how many there were, where, and what the last one met."""
    error = error_of(*[Fault(status=503, body="overloaded")] * 9, max_retries=2)

    assert isinstance(error, ModelUnavailableError)
    assert error.attempts == 3
    assert "after 3 attempts" in str(error)
    assert "503: overloaded" in str(error)
    assert "/v1/chat/completions" in str(error)


def test_timeouts_to_the_end_are_unavailability():
    """A server that never answers ends as an infrastructure error that names the deadline."""
    error = error_of(*[Fault("hang")] * 3, timeout=0.2, max_retries=1)

    assert (type(error), error.kind, error.attempts) == (ModelUnavailableError, "infrastructure", 2)
    assert "no answer within 0.2 s" in str(error)


def test_retry_after_is_honoured():
    """The next attempt comes no sooner than the server asked."""
    with ModelServer("ok", faults=[Fault(status=429, retry_after=0.5)]) as server:
        start = time.monotonic()
        response = generate(load_model("m", base_url=server.base_url))[0]

    assert response.attempts == 2
    assert 0.5 <= time.monotonic() - start < 3


def test_retry_after_in_every_form():
    """Milliseconds come before seconds, which come before nothing; a date is a distance from now."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)

    assert retry_after({"retry-after-ms": "250", "Retry-After": "9"}) == 0.25
    assert retry_after({"Retry-After": "9"}) == 9
    assert 27 < retry_after({"Retry-After": date}) <= 30
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None


def test_delays_grow_and_are_bounded(monkeypatch):
    """Without Retry-After the delay doubles up to a bound; a Retry-After of an hour waits a minute."""
    monkeypatch.setattr(model_http, "FIRST_DELAY", 0.5)

    assert 0.25 <= retry_delay(1) <= 0.5
    assert 2 <= retry_delay(4) <= 4
    assert 15 <= retry_delay(50) <= 30
    assert MAX_RETRY_AFTER <= retry_delay(1, 3600) <= MAX_RETRY_AFTER + 1
    assert retry_delay(1, 0) > 0
    assert retry_delay(1, -5) > 0


# What each failure means


@pytest.mark.parametrize(
    ("status", "error", "advice"),
    [
        (400, RequestError, "parameters"),
        (413, RequestError, "parameters"),
        (422, RequestError, "parameters"),
        (401, AuthenticationError, "OPENAI_API_KEY"),
        (403, AuthenticationError, "OPENAI_API_KEY"),
        (402, QuotaExceededError, "billing"),
        (404, ModelNotFoundError, "/v1"),
        (405, ModelNotFoundError, "/v1"),
        (302, ModelNotFoundError, "/v1"),
    ],
)
def test_what_cannot_pass_is_not_tried_again_and_says_what_to_check(status, error, advice):
    """One attempt; the message has the model, the status, the server's words, the URL and what to check."""
    raised = error_of(Fault(status=status, body='{"error": {"message": "server  words"}}'))

    assert (type(raised), raised.attempts) == (error, 1)
    for part in ("openai/gpt-x", str(status), "server words", "/v1/chat/completions", advice):
        assert part in str(raised)


@pytest.mark.parametrize(
    "fault",
    [
        refusal("too long", "context_length_exceeded"),
        refusal("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4800 in ..."),
        refusal("The decoder prompt (length 17772) is longer than the maximum model length of 16384."),
        refusal("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        refusal("request (4476 tokens) exceeds the available context size (4096 tokens), try increasing it"),
        Fault(
            status=400,
            body='{"object":"error","message":"Prompt contains 65673 tokens and 0 draft tokens, too large for model '
            'with 32768 maximum context length","type":"invalid_request_prompt","code":"3051"}',
        ),
        refusal("prompt is too long: 208310 tokens > 199999 maximum"),
        refusal("This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        Fault(
            status=400,
            body='[{"error": {"message": "The input token count (9) exceeds the maximum number of tokens allowed."}}]',
        ),
        refusal("flagged", "content_filter"),
        refusal("no", "content_policy_violation"),
        refusal("The response was filtered due to the prompt triggering Azure OpenAI's content management policy."),
        refusal("Your chosen model requires moderation and your input was flagged", status=403),
        refusal("too long", "context_length_exceeded", status=500),
    ],
)
def test_over_long_prompts_and_content_filters_are_the_models_outcome(fault):
    """Wherever a server refuses the prompt itself, it counts as the model's answer, after one attempt."""
    error = error_of(fault)

    assert (type(error), error.kind, error.attempts) == (ModelOutcomeError, "model", 1)


def test_a_limit_set_too_high_is_not_the_models_outcome():
    """max_tokens beyond the context is the caller's mistake: scoring it as wrong would make every answer wrong."""
    error = error_of(
        refusal(
            "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is "
            "4096 tokens and your request has 2104 input tokens (8000 > 4096 - 2104)."
        )
    )

    assert type(error) is RequestError


@pytest.mark.parametrize(
    "fault",
    [
        refusal("You exceeded your current quota", "insufficient_quota", status=429),
        refusal("Your credit balance is too low to access the API", status=400),
    ],
)
def test_a_spent_quota_ends_at_once(fault):
    """A spent quota is told from a rate limit and not tried again."""
    error = error_of(fault)

    assert (type(error), error.attempts) == (QuotaExceededError, 1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": "model not loaded"}', "model not loaded"),
        ('{"detail": [{"loc": ["body"], "msg": "bad"}]}', '"msg": "bad"'),
        ("<html>\n  nginx\n</html>", "<html> nginx </html>"),
        ("x" * 5000, "x" * 300 + "..."),
        ("", "answered 400;"),
    ],
)
def test_errors_quote_the_server_in_whatever_shape_it_speaks(body, words):
    """Errors as text, lists, HTML or nothing are quoted on one line, at most 300 characters."""
    message = str(error_of(Fault(status=400, body=body)))

    assert words in message
    assert "\n" not in message
    assert len(message) < 600


# Keys


def test_the_key_is_sent_and_shows_nowhere(monkeypatch, caplog):
    """The key goes into the header; repr, identity, error and log do not have it, even when a server echoes it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    echo = Fault(status=401, body=f"no such key: {KEY}")
    with ModelServer(
        "ok", api_key=KEY, faults=[Fault(status=500, body=f"key {KEY} broke it"), Fault(status=200, body=KEY), echo]
    ) as server:
        model = load_model("m", base_url=server.base_url)
        with pytest.raises(AuthenticationError) as raised:
            generate(model)

    assert server.requests[0].authorization == f"Bearer {KEY}"
    assert "no such key: [key]" in str(raised.value)
    for text in (repr(model), str(model), json.dumps(model.identity()), str(raised.value), caplog.text):
        assert KEY not in text


def test_the_workers_key_comes_before_the_one_that_travelled(monkeypatch):
    """A pickled model carries its key, and a process that has one of its own uses that."""
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-driver")
    with ModelServer() as server:
        travelled = pickle.dumps(load_model("m", base_url=server.base_url))
        monkeypatch.delenv("OPENAI_API_KEY")
        generate(pickle.loads(travelled))
        monkeypatch.setenv("OPENAI_API_KEY", "of-the-worker")
        generate(pickle.loads(travelled))

    assert [r.authorization for r in server.requests] == ["Bearer of-the-driver", "Bearer of-the-worker"]


def test_a_server_without_keys_gets_none():
    """Without a key no Authorization header is sent."""
    with ModelServer() as server:
        generate(load_model("m", base_url=server.base_url))

    assert server.requests[0].authorization is None


# Before the first request


def test_check_asks_for_the_key_of_a_public_address():
    """A public provider without a key is found out before the first request; the message names the variable."""
    with pytest.raises(AuthenticationError, match="GROQ_API_KEY"):
        asyncio.run(load_model("groq/llama").check())


def test_check_connects_without_asking_anything():
    """A server of one's own needs no key, and check() sends it no request."""
    with ModelServer() as server:
        asyncio.run(load_model("m", base_url=server.base_url).check())

    assert server.requests == []


def test_check_says_that_a_server_cannot_be_reached():
    """A closed port is named with the address and what to do, in seconds."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ModelUnavailableError, match=rf"127\.0\.0\.1:{port}/v1 cannot be reached.*check base_url"):
        asyncio.run(load_model("m", base_url=f"http://127.0.0.1:{port}/v1").check())


def test_check_does_not_connect_past_a_proxy(monkeypatch):
    """Where a proxy stands between, only the proxy can tell: there is nothing to connect to."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert proxy_for("http://models.example/v1") == "http://127.0.0.1:9"
    asyncio.run(load_model("m", base_url="http://models.example/v1").check())


def test_requests_go_through_the_proxy_that_the_environment_names(monkeypatch):
    """http_proxy is used, and no_proxy keeps hosts from it."""
    with ModelServer("by proxy") as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        response = generate(load_model("m", base_url="http://models.invalid/v1"))[0]
        monkeypatch.setenv("no_proxy", "models.invalid")

        assert response.text == "by proxy"
        assert proxy_for("http://models.invalid/v1") is None


# Sessions


def test_two_hundred_requests_are_in_progress_at_once():
    """No limit on connections stands in the way."""
    with ModelServer(latency=0.5) as server:
        responses = generate(load_model("m", base_url=server.base_url), *[request()] * 200)

    assert (len(responses), server.max_in_progress) == (200, 200)


def test_one_model_works_on_several_event_loops_and_after_close():
    """Each loop has its own session; close() ends only the running loop's, and a later call opens another."""
    with ModelServer() as server:
        model = load_model("m", base_url=server.base_url)
        assert [generate(model)[0].text for _ in range(3)] == ["ok"] * 3

        async def twice() -> list[str | None]:
            texts = [(await model.generate(request())).text]
            await model.close()
            await model.close()
            texts.append((await model.generate(request())).text)
            await model.close()
            return texts

        assert asyncio.run(twice()) == ["ok", "ok"]


def test_a_model_that_has_connections_pickles_without_them():
    """A copy of a model in use works, and so does the original."""

    async def run(url: str) -> None:
        model = load_model("m", base_url=url)
        await model.generate(request())
        copy = pickle.loads(pickle.dumps(model))
        assert (await copy.generate(request())).text == "ok"
        assert copy.identity() == model.identity() == {"provider": "openai", "name": "m"}
        await asyncio.gather(model.close(), copy.close())

    with ModelServer() as server:
        asyncio.run(run(server.base_url))


def test_a_model_dropped_on_a_running_loop_says_nothing(caplog):
    """A session that nobody closed is closed when its model is collected."""

    async def run(url: str) -> None:
        await load_model("m", base_url=url).generate(request())
        gc.collect()
        await asyncio.sleep(0.05)
        gc.collect()

    with ModelServer() as server:
        asyncio.run(run(server.base_url))

    assert "Unclosed" not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_opens_its_own_connections():
    """A child answers over connections of its own, ends quietly, and the parent's still work after it."""
    script = """
import asyncio, os, sys
from themis.models import load_model
from themis.records import Request
model = load_model("m", base_url=sys.argv[1])
async def ask():
    return (await model.generate(Request("1", "hi", "1"))).attempts
loop = asyncio.new_event_loop()
attempts = [loop.run_until_complete(ask())]
child = os.fork()
if child == 0:
    sys.exit(0 if asyncio.run(ask()) == 1 else 1)
attempts.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
attempts.append(loop.run_until_complete(ask()))
print(attempts)
"""
    with ModelServer() as server:
        command = [sys.executable, "-c", script, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    assert (done.stdout, done.stderr) == ("[1, 0, 1]\n", "")


@pytest.mark.parametrize("ending", ["asyncio.run(ask())", "on_a_daemon_thread()", "on_a_loop_left_open()"])
def test_a_process_that_never_closes_a_model_ends_quietly(ending):
    """No "Unclosed client session" at exit: neither from a closed loop, nor a running one, nor one left open."""
    script = f"""
import asyncio, sys, threading
from themis.models import load_model
from themis.records import Request
model = load_model("m", base_url=sys.argv[1])
async def ask():
    print((await model.generate(Request("1", "hi", "1"))).text)
def on_a_daemon_thread():
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(ask(), loop).result()
def on_a_loop_left_open():
    asyncio.new_event_loop().run_until_complete(ask())
{ending}
"""
    with ModelServer() as server:
        command = [sys.executable, "-c", script, server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    assert (done.stdout, done.stderr) == ("ok\n", "")
