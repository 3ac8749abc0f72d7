"""The command line as a user meets it: output, files and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from themis.cli import run
from themis.testing import ModelServer

ANSWERS = {"one plus one": "#### 2", "two plus two": "#### 4", "three plus three": "#### 7"}
ROWS = [
    {"question": "one plus one", "answer": "2"},
    {"question": "two plus two", "answer": "4"},
    {"question": "three plus three", "answer": "6"},
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and no settings of the caller's."""
    monkeypatch.chdir(tmp_path)
    for name in ("THEMIS_STORAGE", "OPENAI_BASE_URL", "OPENAI_API_KEY", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def questions(here):
    """A data file with three questions."""
    (here / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return "sums.jsonl"


@pytest.fixture
def server():
    """A model server that is wrong on one of the three."""
    with ModelServer(ANSWERS) as server:
        yield server


def asks(server):
    """The options that point the command at a server."""
    return ["--model", "openai/some/model", "--base-url", server.base_url, "--metric", "number_match"]


def test_eval_prints_the_table_and_exits_0(here, capsys):
    """A complete run prints mean, interval and denominator, and exits with 0."""
    code = run(["eval", "arithmetic", "--model", "demo"])

    out = capsys.readouterr().out
    assert code == 0
    assert "0.8133" in out
    assert "300/300" in out
    assert "complete: 300 asked now" in out


def test_the_same_command_again_asks_nothing(questions, server, capsys):
    """The second run calls no model and says so."""
    command = ["eval", questions, "--prompt", "{question}", *asks(server)]
    run(command)
    requests = len(server.requests)
    capsys.readouterr()

    code = run(command)

    assert code == 0
    assert len(server.requests) == requests == 3
    assert "no model was called, 3 answers were stored already" in capsys.readouterr().out


def test_json_is_the_report_by_its_field_names(questions, server, here):
    """--json writes the Report under the names of its fields."""
    run(["eval", questions, "--prompt", "{question}", *asks(server), "--json", "report.json", "--num-samples", "2"])

    report = json.loads((here / "report.json").read_text())
    assert report["metrics"]["number_match"]["mean"] == 4 / 6
    assert report["metrics"]["number_match"]["n_attempted"] == 6
    assert report["status"] == "complete"
    assert report["selection"] == {"limit": None, "num_samples": 2}
    assert report["model"] == "openai/some/model"


def test_several_benchmarks_make_one_table_and_a_run_each(questions, here, capsys):
    """Names with commas between them run one after the other, and --json is a list."""
    code = run(["eval", f"arithmetic,{questions}", "--model", "demo", "--limit", "2", "--json", "reports.json"])

    assert code == 0
    assert [report["benchmark"] for report in json.loads((here / "reports.json").read_text())] == ["arithmetic", "sums"]
    assert len(list((here / ".themis" / "runs").iterdir())) == 2


def test_parameters_are_sent_as_given(questions, server):
    """Only parameters that were set are sent, --param as JSON where it is JSON."""
    options = ["--temperature", "0.5", "--max-tokens", "9", "--seed", "1", "--param", "top_k=40", "--param", "user=me"]

    run(["eval", questions, "--prompt", "{question}", *asks(server), "--limit", "1", *options])

    body = server.requests[0].body
    assert {key: body[key] for key in body if key not in {"messages", "model"}} == {
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 1,
        "top_k": 40,
        "user": "me",
    }
    assert body["model"] == "some/model"


def test_a_failed_sample_makes_exit_code_3_and_the_word_partial(questions, here, capsys):
    """A sample without an answer stays in the denominator, and the exit code says so."""
    answers = {key: value for key, value in ANSWERS.items() if key != "two plus two"}
    with ModelServer(lambda prompt: next(answers[key] for key in ANSWERS if key in prompt)) as server:
        code = run(["eval", questions, "--prompt", "{question}", *asks(server), "--max-retries", "0"])

    out = capsys.readouterr().out
    assert code == 3
    assert "partial" in out
    assert "2/3" in out


def test_a_rejected_key_interrupts_with_exit_code_3(questions, here, capsys, monkeypatch):
    """A run that no further sample can survive stops, says why, and exits with 3."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with ModelServer(ANSWERS, api_key="sk-right") as server:
        code = run(["eval", questions, "--prompt", "{question}", *asks(server)])

    printed = capsys.readouterr()
    assert code == 3
    assert "interrupted" in printed.out
    assert "401" in printed.out
    assert "sk-wrong" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["eval", "arithmetik", "--model", "demo"], 2, ["'arithmetik'", "arithmetic", "gsm8k"]),
        (["eval", "arithmetic", "--model", "opanai/x"], 2, ["'opanai'", "openai"]),
        (["eval", "arithmetic", "--model", "demo", "--metric", "exact_mach"], 2, ["'exact_mach'", "exact_match"]),
        (["eval", "arithmetic", "--model", "demo", "--backend", "rey"], 2, ["'rey'", "'ray'", "threads"]),
        (["eval", "arithmetic", "--model", "demo", "--limmit", "3"], 2, ["--limmit", "--limit"]),
        (["eval", "arithmetic"], 2, ["--model"]),
        (["eval", "arithmetic", "--model", "demo", "--limit", "0"], 2, ["--limit", "0"]),
        (["eval", "arithmetic", "--model", "demo", "--param", "top_k"], 2, ["'top_k'", "NAME=VALUE"]),
        (["eval", "arithmetic", "--model", "demo", "--address", "h:1"], 2, ["h:1", "--backend ray"]),
        (["eval", "arithmetic", "--model", "demo", "--storage", "s4://x/y"], 2, ["s4://x/y", "s3://"]),
        (["eval", "arithmetic", "--model", "demo", "--storage", "/dev/null/x"], 1, ["/dev/null/x", "in the way"]),
        (["eval", "arithmetic", "--model", "demo", "--run-id", "a/b"], 2, ["'a/b'", "A-Z"]),
        (["eval", "arithmetic", "--model", "demo", "--json", "no/such/folder/r.json"], 2, ["no/such/folder"]),
        (["eval", "arithmetic", "--model", "demo", "--prompt", "{quesion}"], 2, ["{quesion}", "row 1", "question"]),
        (["eval", "arithmetic", "--model", "gpt-4"], 1, ["OPENAI_API_KEY"]),
        (["eval", "arithmetic", "--model", "x", "--base-url", "http://127.0.0.1:9/v1"], 1, ["127.0.0.1:9"]),
        (["eval", "no_such.jsonl", "--model", "demo"], 2, ["no_such.jsonl"]),
        (["eval", "arithmetic,gsm8q", "--model", "demo"], 2, ["'gsm8q'", "gsm8k"]),
        (["eval", "arithmetic,arithmetic", "--model", "demo"], 2, ["one name", "arithmetic"]),
        (["eval", ",", "--model", "demo"], 2, ["names no benchmark"]),
        (["eval", "arithmetic", "--model", "demo", "--json", "/dev/full"], 1, ["No space left"]),
        (["show", "nope"], 1, ["'nope'"]),
        (["lst"], 2, ["lst"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(command, code, says, here, capsys):
    """What a user can get wrong is said with the value, what is possible, and no traceback; nothing was asked."""
    assert run(command) == code

    err = capsys.readouterr().err
    for part in says:
        assert part in err
    assert "Traceback" not in err


def test_a_missing_bucket_is_found_before_the_first_request(questions, server, s3_environment, capsys):
    """A bucket that does not exist is an error of one sentence, and no model was called."""
    code = run(
        ["eval", questions, "--prompt", "{question}", *asks(server), "--storage", "s3://no-such-bucket-here/runs"]
    )

    assert code == 1
    assert "no-such-bucket-here" in capsys.readouterr().err
    assert server.requests == []


def test_lists_name_what_there_is(here, capsys):
    """`themis list` shows benchmarks, models, metrics and runs."""
    run(["eval", "arithmetic", "--model", "demo", "--limit", "5", "--run-id", "mine"])
    capsys.readouterr()

    shown = {}
    for kind in ("benchmarks", "models", "metrics", "runs"):
        assert run(["list", kind]) == 0
        shown[kind] = capsys.readouterr().out

    assert "gsm8k" in shown["benchmarks"]
    assert "openai/NAME" in shown["models"]
    assert "exact_match" in shown["metrics"]
    assert "mine" in shown["runs"]
    assert "complete" in shown["runs"]


def test_show_prints_a_stored_report(here, capsys):
    """`themis show RUN` prints the report that the run left."""
    run(["eval", "arithmetic", "--model", "demo", "--limit", "5", "--run-id", "mine"])
    capsys.readouterr()

    assert run(["show", "mine"]) == 0
    out = capsys.readouterr().out
    assert "5/5" in out
    assert '"limit": 5' in out


def test_the_installed_command_runs_on_ray(here):
    """`themis eval --backend ray` starts a Ray, prints the table alone on stdout, and leaves none behind."""
    command = [sys.executable, "-m", "themis", "eval", "arithmetic", "--model", "demo", "--backend", "ray"]

    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)

    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["benchmark", "arithmetic", "complete:"]
    assert "0.8133" in done.stdout


def test_progress_is_lines_where_there_is_no_terminal(questions, server, capsys, monkeypatch):
    """Without a terminal, progress is plain lines on stderr with rate, errors and running score."""
    monkeypatch.setattr("themis.progress.LINE_SECONDS", 0.0)

    run(["eval", questions, "--prompt", "{question}", *asks(server)])

    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("sums: 3/3 (")
    assert "0 errors" in lines[-1]
    assert "score 0.667 over 3" in lines[-1]


@pytest.mark.parametrize("backend", ["threads", "ray"])
def test_ctrl_c_exits_with_3(backend, server, ray_session, here):
    """An interrupted command says what to do and exits with 3, on Ray too; what was answered is stored."""
    rows = [{"question": "one plus one", "answer": "2", "id": number} for number in range(2000)]
    (here / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--prompt", "{question}", *asks(server), "--workers", "2", "--backend", backend]
    if backend == "ray":
        options += ["--address", ray_session.get_runtime_context().gcs_address]
    server.latency = 0.05
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell may ignore it
    program += "; from themis.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "eval", "many.jsonl", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while len(server.requests) < 20 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)

    assert process.returncode == 3, error
    assert "interrupted: what was answered is stored; run the same command again to go on" in error
    assert run(["list", "runs"]) == 0
