"""themis.testing.ModelServer: what it answers, counts and breaks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from themis.errors import UsageError
from themis.models import load_model
from themis.records import Request
from themis.testing import Fault, ModelServer


def post(url: str, body: dict, **headers: str) -> dict:
    """The JSON that a POST of JSON gets."""
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def ask(server: ModelServer, prompt: str = "hi") -> dict:
    """The whole body that answers a chat."""
    return post(
        f"{server.base_url}/chat/completions", {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    )


def test_answers_a_chat_by_a_function_of_the_prompt():
    """A function answers each prompt, and the usage counts words."""
    with ModelServer(str.upper) as server:
        reply = ask(server, "two words")

    assert reply["choices"][0]["message"]["content"] == "TWO WORDS"
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}


def test_answers_completions_and_lists_models():
    """The completions endpoint answers with text, and the models endpoint lists the given names."""
    with ModelServer("fine", models=["a", "b"]) as server:
        reply = post(f"{server.base_url}/completions", {"model": "a", "prompt": "x"})
        with urllib.request.urlopen(f"{server.base_url}/models", timeout=10) as listed:
            names = [model["id"] for model in json.load(listed)["data"]]

    assert (reply["choices"][0]["text"], names) == ("fine", ["a", "b"])


def test_a_mapping_answers_the_last_question_that_the_prompt_contains():
    """Worked examples before the question do not get their answers again."""
    with ModelServer({"How many?": "3", "How much?": "$5"}) as server:
        reply = ask(server, "Q: How many?\nA: 3\n\nQ: How much?\nA:")

        assert reply["choices"][0]["message"]["content"] == "$5"


def test_a_mapping_refuses_what_it_does_not_know():
    """A prompt without a known question is answered with 422, not with something made up."""
    with ModelServer({"How many?": "3"}) as server, pytest.raises(urllib.error.HTTPError, match="422"):
        ask(server, "Who?")


def test_counts_what_it_received_and_how_much_at_once():
    """`requests` holds every prompt, `max_in_progress` the largest number answered at once."""
    with ModelServer("ok", latency=0.2) as server:
        model = load_model("m", base_url=server.base_url)

        async def ask_all() -> None:
            await asyncio.gather(*(model.generate(Request(str(n), f"prompt {n}", str(n))) for n in range(20)))
            await model.close()

        asyncio.run(ask_all())

    assert sorted(r.prompt for r in server.requests) == sorted(f"prompt {n}" for n in range(20))
    assert (server.max_in_progress, server.in_progress) == (20, 0)


def test_the_draw_of_faults_is_the_same_for_the_same_seed():
    """Shares of faults are met, and the same requests meet them again."""

    def statuses() -> list[int]:
        seen = []
        with ModelServer("ok", faults={Fault(status=503): 0.3}, seed=7) as server:
            for _ in range(60):
                try:
                    ask(server)
                    seen.append(200)
                except urllib.error.HTTPError as error:
                    seen.append(error.code)
        return seen

    first = statuses()

    assert 8 <= first.count(503) <= 28
    assert statuses() == first


def test_shares_above_one_are_refused():
    """Faults that add up to more than every request are an error when the server is made."""
    with pytest.raises(UsageError, match=r"sum to 1\.1"):
        ModelServer(faults={Fault("drop"): 0.6, Fault("hang"): 0.5})


def test_a_taken_port_is_an_error_of_the_one_who_enters():
    """A server that cannot listen raises where it is entered instead of hanging."""
    with ModelServer() as server, pytest.raises(OSError, match="address already in use"), ModelServer(port=server.port):
        pass


def test_it_ends_while_a_request_hangs():
    """Leaving the server does not wait for requests that never end."""
    with ModelServer(faults=[Fault("hang")]) as server:
        request = urllib.request.Request(f"{server.base_url}/completions", b'{"prompt": "x"}')
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=0.2)

        assert len(server.requests) == 1


def test_runs_as_a_process_of_its_own(tmp_path):
    """Its first line is the base URL; it answers from the file's fields and breaks on the share asked for."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"q": "How many?", "solution": "3"}) + "\n")
    command = [sys.executable, "-W", "error", "-m", "themis.testing.server", "--answers", str(rows), "--question", "q"]
    process = subprocess.Popen(
        [*command, "--response", "solution", "--fault", "418=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip()
        reply = post(f"{url}/completions", {"prompt": "Q: How many?"})
    finally:
        process.terminate()
        process.communicate(timeout=10)

    assert url.endswith("/v1")
    assert reply["choices"][0]["text"] == "3"
