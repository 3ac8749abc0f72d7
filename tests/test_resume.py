"""Made again, a call asks for exactly what is missing: after its end, a kill, an interruption, an extension."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest
from test_seed_page import ThreadSafeStorage

from themis import EvaluationRecord, GenerationRecord, evaluate, load_model
from themis.backends import (
    FsspecStorageBackend,
    LocalExecutionBackend,
    RayExecutionBackend,
    SequentialExecutionBackend,
)
from themis.errors import ModelUnavailableError, RunMismatchError
from themis.scoring import Metric, Score
from themis.testing import Fault, ModelServer

CHILD = """
import json, signal, sys
from themis import evaluate
from themis.backends import FsspecStorageBackend, LocalExecutionBackend, RayExecutionBackend

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
call = json.loads(sys.argv[1])
address = call.pop("ray")
with FsspecStorageBackend(call.pop("url"), flush_seconds=0.2) as storage:
    backend = RayExecutionBackend(address) if address else LocalExecutionBackend()
    evaluate(call.pop("rows"), "openai/m", **call, storage_backend=storage, execution_backend=backend)
"""


def rows(count):
    """So many questions, each with its number as the answer."""
    return [{"question": f"q{number}", "answer": str(number)} for number in range(count)]


def answer(prompt):
    """Right, but for every seventh question."""
    number = int(prompt.removeprefix("q"))
    return str(number + (number % 7 == 0))


def number_of(body):
    """The number of the question in a request."""
    return int(body["messages"][0]["content"].removeprefix("q"))


@pytest.fixture
def server():
    """Answers every question."""
    with ModelServer(answer) as model_server:
        yield model_server


@pytest.fixture
def ask(server, tmp_path):
    """evaluate() on so many questions, against the server, in a folder of the test's own."""

    def call(count=20, **options):
        given = {"base_url": server.base_url, "storage": tmp_path / "runs", **options}
        return evaluate(rows(count), "openai/m", **given)

    return call


def prompts(server):
    """What the server was asked, in order."""
    return [request.prompt for request in server.requests]


# -- the same call made again


def test_the_same_call_asks_nothing_and_says_so(ask, server):
    """A finished run made again puts no request, gives the same metrics, and says that no model was called."""
    first = ask()
    again = ask()

    assert len(server.requests) == 20
    assert (again.n_asked, again.n_stored, again.run_id) == (0, 20, first.run_id)
    assert again.report.metrics == first.report.metrics
    assert "no model was called, 20 answers were stored already" in str(again)


def test_a_larger_limit_asks_what_is_new(ask, server):
    """From 100 samples to 300 only 200 are asked; each report covers its own call, the old one made again too."""
    hundred = ask(400, limit=100)
    three_hundred = ask(400, limit=300)
    again = ask(400, limit=100)

    assert len(server.requests) == 300
    assert len(set(prompts(server))) == 300
    assert [r.report.n_rows for r in (hundred, three_hundred, again)] == [100, 300, 100]
    assert again.report.metrics == hundred.report.metrics != three_hundred.report.metrics
    assert three_hundred.report.metrics["exact_match"].n_attempted == 300


def test_more_repeats_ask_what_is_new(ask, server):
    """From one repeat to eight, seven answers to each sample are asked; errors then cluster by sample."""
    one = ask(10)
    eight = ask(10, num_samples=8)

    assert len(server.requests) == 80
    assert one.run_id == eight.run_id
    assert sorted({(r.sample_id, r.repeat) for r in eight.generations}) == sorted(
        (str(sample), repeat) for sample in range(10) for repeat in range(8)
    )
    assert (one.report.n_repeats, eight.report.n_repeats) == (1, 8)
    assert eight.report.metrics["exact_match"].stderr_method == "clustered by sample"


def test_what_is_asked_again_and_what_is_not(tmp_path):
    """On resume an infrastructure error is asked again; a model's outcome and a refused request stand."""
    filtered = '{"error": {"message": "no", "code": "content_filter"}}'
    faults = {1: Fault(status=500), 2: Fault(status=400), 3: Fault(status=400, body=filtered)}
    with ModelServer(answer, faults=lambda _, body: faults.get(number_of(body))) as server:
        call = functools.partial(evaluate, rows(5), "openai/m", base_url=server.base_url, max_retries=0)
        first = call(storage=tmp_path)
        faults.pop(1)
        server.requests.clear()
        second = call(storage=tmp_path)

    assert first.report.errors == {"infrastructure": 1, "input": 1, "model": 1}
    assert prompts(server) == ["q1"]
    assert second.report.errors == {"input": 1, "model": 1}
    assert (second.report.metrics["exact_match"].n_scored, second.report.status) == (4, "partial")
    assert len(second.generations) == 5


def test_what_never_has_an_answer_is_given_up(tmp_path):
    """After max_calls calls that ended in an error of the infrastructure a question is not asked again, and said so."""
    with ModelServer(answer, faults=lambda _, body: Fault(status=500) if number_of(body) == 1 else None) as server:
        call = functools.partial(
            evaluate, rows(3), "openai/m", base_url=server.base_url, max_retries=0, storage=tmp_path, max_calls=2
        )
        results = [call() for _ in range(4)]
        asked = prompts(server).count("q1")
        further = call(max_calls=3, metrics=["exact_match", "contains"])
        for_ever = call(max_calls=None)

    assert asked == 2
    assert [(result.n_asked, result.report.n_given_up) for result in results] == [(3, 0), (1, 0), (0, 1), (0, 1)]
    assert all(result.report.errors == {"infrastructure": 1} for result in results)
    assert "given up: 1 question had no answer in 2 calls" in str(results[-1])
    assert "--max-calls" in str(results[-1])
    assert (further.n_asked, further.report.n_given_up, for_ever.n_asked) == (1, 0, 1)
    (error,) = [record for record in for_ever.generations if record.status == "error"]
    assert error.metadata == {"calls_without_answer": 4}
    assert storage_report(tmp_path, results[-1].run_id).n_given_up == 0


def test_an_answer_ends_the_count(tmp_path):
    """A question that is answered at last is an answer like any other, without a trace of the count."""
    faults = {1: Fault(status=500)}
    with ModelServer(answer, faults=lambda _, body: faults.get(number_of(body))) as server:
        call = functools.partial(evaluate, rows(3), "openai/m", base_url=server.base_url, max_retries=0)
        call(storage=tmp_path)
        faults.clear()
        result = call(storage=tmp_path)

    assert (result.report.status, result.report.n_given_up) == ("complete", 0)
    assert all(record.metadata == {} for record in result.generations)


@pytest.mark.parametrize("status", [401, 503])
def test_an_endpoint_that_is_gone_gives_no_question_up(status, tmp_path):
    """However often a run is interrupted by a revoked key or a dead server, everything is asked once that is over."""
    faults = [Fault(status=status)]
    with ModelServer(answer, faults=lambda *_: faults[0] if faults else None) as server:
        call = functools.partial(
            evaluate, rows(60), "openai/m", base_url=server.base_url, max_retries=0, max_workers=2, storage=tmp_path
        )
        broken = [call(max_calls=1).report.status for _ in range(3)]
        faults.clear()
        result = call(max_calls=1)

    assert broken == ["interrupted"] * 3
    assert (result.n_asked, result.report.n_given_up, result.report.status) == (60, 0, "complete")


def storage_report(url, run_id):
    """The report as another process finds it."""
    with FsspecStorageBackend(url) as storage:
        return storage.load_report(run_id)


def test_a_metric_added_later_scores_what_is_stored(ask, server):
    """Other metrics on the same call put no request; the report has exactly those that were asked for."""
    ask()
    both = ask(metrics=["exact_match", "contains"])
    one = ask(metrics="contains")

    assert len(server.requests) == 20
    assert list(both.metrics) == ["exact_match", "contains"]
    assert list(one.metrics) == ["contains"]
    assert both.report.status == one.report.status == "complete"


def test_a_changed_target_is_scored_anew(ask, server, tmp_path):
    """The same questions with another gold answer put no request and get another score."""
    before = ask(7)
    corrected = rows(7)
    corrected[0]["answer"] = "1"
    after = evaluate(corrected, "openai/m", base_url=server.base_url, storage=tmp_path / "runs")
    back = ask(7)

    assert len(server.requests) == 7
    assert (before.metrics["exact_match"], after.metrics["exact_match"]) == (6 / 7, 1.0)
    assert back.report.metrics == before.report.metrics
    assert {s.target for s in after.samples if s.id == "0"} == {"0"}  # what this last call asked


def test_an_answer_without_its_score_is_scored(server):
    """A run that lost its evaluations scores the stored answers and puts no request."""
    storage = ThreadSafeStorage()
    first = evaluate(rows(10), "openai/m", base_url=server.base_url, storage_backend=storage)
    records = storage.runs[first.run_id]
    for key in [key for key in records if key[0] is EvaluationRecord]:
        del records[key]
    again = evaluate(rows(10), "openai/m", base_url=server.base_url, storage_backend=storage)

    assert len(server.requests) == 10
    assert again.report.metrics == first.report.metrics


class Dear(Metric):
    """Notes each of its calls; too dear to run where model calls wait."""

    name = "dear"
    dear = True
    calls: list = []  # noqa: RUF012 - shared with the copies that backends make

    def score(self, sample, generation):
        self.calls.append(sample.id)
        return Score(1.0, generation.response)


def test_a_dear_metric_scores_each_answer_once(ask):
    """A dear metric runs after the model calls, and on a larger call only for what is new."""
    Dear.calls.clear()
    ask(30, metrics=Dear(), limit=10)
    assert sorted(map(int, Dear.calls)) == list(range(10))
    result = ask(30, metrics=Dear(), limit=15)

    assert sorted(map(int, Dear.calls)) == list(range(15))
    assert result.metrics == {"dear": 1.0}


def test_a_dear_score_of_a_lost_answer_is_made_anew():
    """Where a stored answer was lost and the new one differs, a dear metric scores the new one."""

    class Length(Metric):
        name, dear = "length", True

        def score(self, sample, generation):
            return Score(float(len(generation.response)))

    storage, says = ThreadSafeStorage(), "first"
    model = load_model(lambda prompt: says, name="m")
    first = evaluate(rows(1), model, metrics=Length(), storage_backend=storage)
    records, says = storage.runs[first.run_id], "another"
    for key in [key for key in records if key[0] is GenerationRecord]:
        del records[key]

    result = evaluate(rows(1), model, metrics=Length(), storage_backend=storage)

    assert result.metrics == {"length": 7.0}


# -- what must not resume


def test_a_run_id_of_another_configuration_is_refused(ask, server):
    """The same run_id with other parameters is an error that names the difference, before any request."""
    ask(run_id="mine", temperature=0.0)

    with pytest.raises(RunMismatchError, match=r"'mine'.*params: stored \{\"temperature\":0\}, now .*0\.5"):
        ask(run_id="mine", temperature=0.5)
    assert len(server.requests) == 20
    assert ask(run_id="mine", temperature=0).n_asked == 0


def test_other_parameters_make_another_run(ask, server):
    """Without a run_id another temperature is another run beside the first one."""
    assert ask(temperature=0.0).run_id != ask(temperature=0.5).run_id
    assert len(server.requests) == 40


def test_fresh_begins_a_new_run(ask, server):
    """fresh=True asks everything again under a new id that begins with the old one."""
    first, fresh = ask(), ask(fresh=True)
    named = ask(run_id="mine", fresh=True)

    assert len(server.requests) == 60
    assert fresh.run_id.startswith(f"{first.run_id}-")
    assert named.run_id.startswith("mine-")


def test_another_address_stops_the_resume(ask, server):
    """Another base_url is an error before any request, unless it is allowed; then it counts as known."""
    ask(limit=5)
    with ModelServer(answer) as other:
        with pytest.raises(RunMismatchError, match=f"{server.base_url}.*{other.base_url}.*allow_changed_model"):
            ask(base_url=other.base_url)
        assert other.requests == []
        assert ask(limit=10, base_url=other.base_url, allow_changed_model=True).n_asked == 5
        assert ask(base_url=other.base_url).n_asked == 10
        assert ask(25).n_asked == 5


def test_a_finished_run_needs_no_server(ask, server):
    """Where nothing is to be asked, the address does not matter, and no server has to be there."""
    ask()

    assert ask(base_url="http://127.0.0.1:9/v1").n_asked == 0


def test_an_address_that_never_answered_is_forgotten(ask):
    """A first call to a wrong address leaves no trace: the right one, and extending it, are no change of model."""
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        ask(limit=5, base_url="http://127.0.0.1:9/v1")

    assert ask(limit=5).n_asked == 5
    assert ask(limit=10).n_asked == 5


def test_another_served_model_stops_the_resume(tmp_path):
    """A new checkpoint under the old name and address is noticed by what the server says it is."""
    served = ["v1"]

    def reply(prompt):
        return {"model": served[0], "choices": [{"message": {"content": answer(prompt)}}]}

    with ModelServer(reply) as server:
        call = functools.partial(evaluate, rows(10), "openai/m", base_url=server.base_url, storage=tmp_path)
        call(limit=5)
        served[0] = "v2"
        with pytest.raises(RunMismatchError, match=r"given by v1.*answers as v2"):
            call()
        kept = {record.model_served for record in call(limit=5).generations}
        allowed = call(allow_changed_model=True)

    assert kept == {"v1"}
    assert allowed.report.status == "complete"
    assert {record.model_served for record in allowed.generations} == {"v1", "v2"}


# -- functions as models


def test_a_function_resumes_by_its_code(tmp_path):
    """A function with the same code resumes; one with other code, or another default, is another run."""

    def make(text, suffix=""):
        namespace = {}
        exec(f"def model(prompt, suffix={suffix!r}):\n    return {text} + suffix", namespace)
        return namespace["model"]

    def call(func):
        return evaluate(rows(5), func, storage=tmp_path).n_asked

    assert call(make("prompt")) == 5
    assert call(make("prompt")) == 0
    assert call(make("prompt[1:]")) == 5
    assert call(make("prompt", suffix="!")) == 5


class Unknown:
    """A callable whose code cannot be told."""

    def __call__(self, prompt):
        return answer(prompt)


def test_a_callable_of_unknown_code_does_not_resume(tmp_path):
    """An object as a model asks everything again, also under a run_id, and each report covers its own answers."""
    first = evaluate(rows(5), Unknown(), storage=tmp_path)
    second = evaluate(rows(5), Unknown(), storage=tmp_path)
    assert first.run_id != second.run_id
    for _ in range(2):
        result = evaluate(rows(5), Unknown(), storage=tmp_path, run_id="mine")
        assert (result.n_asked, result.report.n_rows) == (5, 5)
    assert evaluate(rows(5), load_model(Unknown(), name="n"), storage=tmp_path).n_asked == 5
    assert evaluate(rows(5), load_model(Unknown(), name="n"), storage=tmp_path).n_asked == 0


def test_unknown_code_does_not_enter_another_run(tmp_path):
    """Code that cannot be told may not go on under the run_id of another model or benchmark."""
    evaluate(rows(5), answer, storage=tmp_path, run_id="known")
    evaluate(rows(5), Unknown(), storage=tmp_path, run_id="unknown")

    with pytest.raises(RunMismatchError, match="model: stored"):
        evaluate(rows(5), Unknown(), storage=tmp_path, run_id="known")
    with pytest.raises(RunMismatchError, match="benchmark: stored"):
        evaluate("arithmetic", Unknown(), storage=tmp_path, run_id="unknown", limit=1)


# -- killed


@contextmanager
def child(server, url, count, *, ray=None, **options):
    """A driver in a process of its own that evaluates; it is gone at the end."""
    call = {"rows": rows(count), "url": str(url), "base_url": server.base_url, "ray": ray, **options}
    process = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(call)], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_for_requests(server, count, process, seconds=60.0):
    """Return when the server has had so many requests."""
    deadline = time.monotonic() + seconds
    while len(server.requests) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{len(server.requests)} requests within {seconds} s"
        time.sleep(0.005)


def wait_for_records(storage, count, seconds=60.0):
    """Return when a reader finds so many answers in the only run."""
    deadline = time.monotonic() + seconds
    found = 0
    while found < count:
        assert time.monotonic() < deadline, f"{found} answers within {seconds} s"
        found = sum(len(storage.load_generation_records(run_id)) for run_id in storage.list_runs())


def quiet(server):
    """Return when the server has nothing in progress: what a dead client had asked is over."""
    while server.in_progress:
        time.sleep(0.01)


KILLS = {
    "threads on disk, then Ray": ("disk", False, RayExecutionBackend, 16),
    "threads on S3, then one thread": ("s3", False, SequentialExecutionBackend, None),
    "Ray on S3, then threads": ("s3", True, LocalExecutionBackend, 32),
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_driver_loses_nothing_accepted(kill, server, s3_environment, ray_session, tmp_path):
    """After kill -9 half way another backend asks only the rest; metrics equal those of a run that went through."""
    place, on_ray, backend, max_workers = KILLS[kill]
    url = s3_environment.new_url() if place == "s3" else tmp_path / "killed"
    address = ray_session.get_runtime_context().gcs_address if on_ray else None
    server.latency = 0.04
    with child(server, url, 600, ray=address, max_workers=4) as process:
        wait_for_requests(server, 120, process)
        if place == "s3":  # what was answered by now is durable soon; what comes after has a flush interval
            wait_for_records(FsspecStorageBackend(url), 116)
        process.kill()
        process.wait()
    quiet(server)
    server.latency = 0.0
    asked = len(server.requests)
    storage = FsspecStorageBackend(url)
    (run_id,) = storage.list_runs()
    n_stored = len(storage.load_generation_records(run_id))
    assert n_stored < 600
    if place == "disk":  # in flight are four; as many may be on their way to the journal
        assert asked - n_stored <= 8

    resumed = evaluate(
        rows(600),
        "openai/m",
        base_url=server.base_url,
        storage_backend=storage,
        execution_backend=backend(),
        max_workers=max_workers,
    )
    whole = evaluate(rows(600), "openai/m", base_url=server.base_url, storage=tmp_path / "whole")

    assert (resumed.run_id, resumed.n_stored, resumed.n_asked) == (run_id, n_stored, 600 - n_stored)
    assert resumed.report.metrics == whole.report.metrics
    assert resumed.report.status == "complete"
    ids = [record.id for record in resumed.generations]
    assert len(ids) == 600
    assert set(ids) == {record.id for record in whole.generations}
    storage.close()


# -- interrupted


QUOTA = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'


@pytest.mark.parametrize("backend", [LocalExecutionBackend, SequentialExecutionBackend, RayExecutionBackend])
@pytest.mark.parametrize(
    ("fault", "says"),
    [(Fault(status=401), "AuthenticationError"), (Fault(status=429, body=QUOTA), "QuotaExceededError")],
)
def test_what_no_request_can_survive_interrupts_the_run(fault, says, backend, ray_session, tmp_path, monkeypatch):
    """After a revoked key or a spent quota the run stops; the rest stays in the denominator and is asked next time."""
    monkeypatch.setattr("themis.run.LOOK_AHEAD_ITEMS", 10)  # so that most questions are not read yet when it stops
    broken = [True]
    with ModelServer(answer, faults=lambda number, _: fault if broken[0] and number >= 30 else None) as server:
        call = functools.partial(evaluate, rows(400), "openai/m", base_url=server.base_url, storage=tmp_path)
        first = call(execution_backend=backend(), max_workers=4)
        quiet(server)
        asked, broken[0] = len(server.requests), False
        answered = [record for record in first.generations if record.status == "ok"]
        second = call(execution_backend=backend(), max_workers=4)

    assert (first.report.status, first.stopped_by.partition(":")[0]) == ("interrupted", says)
    assert says in first.summary()
    assert asked < 200
    assert 30 - 4 <= len(answered) <= 30
    metric = first.report.metrics["exact_match"]
    assert (metric.n_attempted, metric.n_scored) == (400, len(answered))
    assert second.n_asked == 400 - len(answered)
    assert second.report.status == "complete"


def test_a_dead_endpoint_interrupts_the_run(tmp_path):
    """A server that goes away in the middle stops the run after ten failures in a row, not after the last question."""
    with ExitStack() as servers:
        server = servers.enter_context(ModelServer(answer))

        def stop(update):
            if update.n_done == 20:
                servers.close()

        call = functools.partial(
            evaluate, rows(500), "openai/m", base_url=server.base_url, storage=tmp_path, max_retries=0, max_workers=2
        )
        first = call(on_result=stop)
    outcomes = [record.status for record in first.generations]
    with ModelServer(answer, port=server.port):
        second = call()

    assert first.report.status == "interrupted"
    assert "requests in a row had no answer" in first.stopped_by
    assert outcomes.count("ok") >= 20
    assert len(outcomes) < 20 + 10 + 2 * 32  # a window of 16 x 2 when it went away, and one when that was seen
    assert second.n_asked == 500 - outcomes.count("ok")
    assert second.report.status == "complete"


def test_max_errors_interrupts_the_run(tmp_path):
    """The error after max_errors stops the run; with a higher bound the same call goes on."""
    with ModelServer(answer, faults=lambda _, body: Fault(status=400) if number_of(body) % 10 == 0 else None) as server:
        call = functools.partial(evaluate, rows(500), "openai/m", base_url=server.base_url, storage=tmp_path)
        first = call(max_errors=3, max_workers=2)
        second = call(max_errors=50, max_workers=2)

    assert "4 errors are more than max_errors=3" in first.stopped_by
    assert (first.report.status, first.report.errors["input"]) == ("interrupted", 4)
    assert (second.report.status, second.report.errors) == ("partial", {"input": 50})


@pytest.mark.parametrize("on_ray", [False, True])
def test_ctrl_c_stores_what_is_answered(on_ray, server, ray_session, tmp_path):
    """SIGINT ends the driver by KeyboardInterrupt, with a report over all questions; the rest is asked next time."""
    address = ray_session.get_runtime_context().gcs_address if on_ray else None
    server.latency = 0.03
    with child(server, tmp_path, 3000, ray=address, max_workers=4) as process:
        wait_for_requests(server, 60, process)
        process.send_signal(signal.SIGINT)
        process.wait(20)
        error = process.stderr.read()
    quiet(server)
    server.latency = 0.0
    asked = len(server.requests)
    storage = FsspecStorageBackend(tmp_path)
    (run_id,) = storage.list_runs()
    report = storage.load_report(run_id)
    n_stored = len(storage.load_generation_records(run_id))
    resumed = evaluate(rows(3000), "openai/m", base_url=server.base_url, storage_backend=storage, limit=200)

    assert error.rstrip().endswith("KeyboardInterrupt"), error
    # Python forgets what ended it when text is executed on its way out, as where Ray leaves by itself: then it is 1.
    assert process.returncode in ({1, -signal.SIGINT} if on_ray else {-signal.SIGINT})
    assert (report.status, report.n_rows) == ("interrupted", 3000)
    assert report.metrics["exact_match"].n_scored == n_stored
    # On Ray a lease holds more than what is in progress, and its results travel together.
    assert asked - n_stored <= (40 if on_ray else 8)
    assert resumed.n_asked == 200 - n_stored
    assert resumed.report.status == "complete"
    storage.close()
