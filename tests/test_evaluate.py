"""evaluate(): data, prompts, metrics, options, results, wrong input, and models and backends that misbehave."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import time

import pytest
from test_seed_page import ThreadSafeStorage

from themis import Response, evaluate
from themis.backends import (
    ExecutionBackend,
    FsspecStorageBackend,
    LocalExecutionBackend,
    LocalFileStorageBackend,
    RayExecutionBackend,
    SequentialExecutionBackend,
)
from themis.errors import AuthenticationError, DataError, ModelError, StorageError, UnknownNameError, UsageError
from themis.formats import to_json
from themis.models import Model
from themis.scoring import Metric, Score
from themis.testing import Fault, ModelServer

KEY = "sk-never-to-be-stored-4711"
ROWS = [{"question": f"q{number}", "answer": str(number)} for number in range(10)]


def answer(prompt):
    """Right for every question: the digits of the prompt."""
    return "".join(filter(str.isdigit, prompt))


@pytest.fixture
def server():
    """Answers every question rightly."""
    with ModelServer(answer) as model_server:
        yield model_server


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    """What is stored by default lies in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THEMIS_STORAGE", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def sent(server):
    """The prompts that the server received, sorted."""
    return sorted(request.prompt for request in server.requests)


# -- data and prompts


def test_own_rows_as_a_generator():
    """A generator is walked once, lazily, and gives the same as the list."""
    result = evaluate((row for row in ROWS), answer)

    assert result.metrics == {"exact_match": 1.0}
    assert result.run_id == evaluate(ROWS, answer).run_id


def test_an_endless_generator_with_a_limit():
    """With a limit no more rows are taken than it says."""
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield {"question": f"q{taken[-1]}", "answer": str(taken[-1])}

    assert evaluate(endless(), answer, limit=7).report.n_rows == 7
    assert len(taken) <= 8


def test_own_rows_as_a_file(tmp_path):
    """A file of jsonl is a benchmark of its name; its rows keep their own ids."""
    lines = [json.dumps({"id": f"row-{number}", **row}) for number, row in enumerate(ROWS)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))

    result = evaluate(str(tmp_path / "mine.jsonl"), answer)

    assert (result.report.benchmark, result.metrics) == ("mine", {"exact_match": 1.0})
    assert {record.sample_id for record in result.generations} == {f"row-{number}" for number in range(10)}


def test_data_takes_the_place_of_a_benchmarks_rows(server):
    """A shipped benchmark asks other rows in its own way when data= says so."""
    result = evaluate("gsm8k", "openai/m", base_url=server.base_url, data=ROWS[:2])

    assert result.metrics == {"exact_match": 1.0}
    assert all(prompt.startswith("Solve the following problem step by step.") for prompt in sent(server))


def test_a_template_asks_with_the_fields_of_the_row(server):
    """A text template takes the row's fields, and is part of what makes a run."""
    first = evaluate(ROWS[:2], "openai/m", base_url=server.base_url, prompt="Say {{now}}: {question} ({answer})")
    other = evaluate(ROWS[:2], "openai/m", base_url=server.base_url, prompt="{question}")

    assert sent(server) == ["Say {now}: q0 (0)", "Say {now}: q1 (1)", "q0", "q1"]
    assert first.run_id != other.run_id


def test_a_function_as_template_may_return_messages(server):
    """A function from sample to messages is a prompt; the messages are what is sent and stored."""

    def ask(sample):
        return [{"role": "system", "content": "Be short."}, {"role": "user", "content": sample.input}]

    result = evaluate(ROWS[:1], "openai/m", base_url=server.base_url, prompt=ask)

    assert server.requests[0].body["messages"] == ask(result.samples[0]) == result.generations[0].messages


def test_only_set_parameters_are_sent(server):
    """A request has the parameters that were set, and no others; repeat k gets seed + k."""
    call = {"temperature": 0.5, "max_tokens": 9, "stop": "END", "seed": 3, "params": {"min_p": 0.1}}
    evaluate(ROWS[:1], "openai/m", base_url=server.base_url, num_samples=2, **call)

    bodies = [request.body for request in server.requests]
    bodies.sort(key=lambda body: body["seed"])
    assert [body.pop("seed") for body in bodies] == [3, 4]
    for body in bodies:
        del body["messages"]
        assert body == {"model": "m", "temperature": 0.5, "max_tokens": 9, "stop": "END", "min_p": 0.1}


def test_stop_in_params_takes_the_place_of_the_benchmarks_own(server):
    """A benchmark's own stop texts give way to the caller's, whichever way these came."""
    from themis import load_benchmark

    benchmark = load_benchmark(ROWS[:1]).replace(stop=("Q:",))
    for options in ({}, {"stop": ("X",)}, {"params": {"stop": ["Y"]}}, {"stop": ["Z"], "params": {"stop": ["Z"]}}):
        evaluate(benchmark, "openai/m", base_url=server.base_url, **options)

    assert [request.body["stop"] for request in server.requests] == [["Q:"], ["X"], ["Y"], ["Z"]]


# -- metrics


def test_functions_as_metrics():
    """A function (sample, generation) -> number or Score is a metric of its name; the first one is the main one."""

    def length(sample, generation):
        return len(generation.response)

    def half(sample, generation):
        return Score(0.5, answer="x", explanation="always")

    result = evaluate(ROWS, answer, metrics=[half, length, "exact_match"])

    assert list(result.metrics.items()) == [("half", 0.5), ("length", 1.0), ("exact_match", 1.0)]
    assert {record.explanation for record in result.evaluations if record.metric == "half"} == {"always"}


def test_a_metric_that_raises_is_no_score_of_zero():
    """An exception, an exit or NaN of a metric is an error of kind "scorer", named; the other metric is unharmed."""

    def breaks(sample, generation):
        if generation.response == "3":
            raise ZeroDivisionError("three")
        if generation.response == "4":
            sys.exit("four")
        return math.nan if generation.response == "5" else 1.0

    for backend in (LocalExecutionBackend(), Minimal()):
        result = evaluate(ROWS, answer, metrics=[breaks, "exact_match"], execution_backend=backend, fresh=True)

        broken = result.report.metrics["breaks"]
        assert (broken.mean, broken.n_scored, broken.errors) == (1.0, 7, {"scorer": 3})
        assert (broken.bound_low, broken.bound_high) == (0.7, 1.0)
        assert (result.metrics["exact_match"], result.report.status) == (1.0, "partial")
        errors = {r.sample_id: r.error_type for r in result.evaluations if r.status == "error"}
        assert errors == {"3": "ZeroDivisionError", "4": "SystemExit", "5": "ValueError"}


class Slow(Metric):
    """Dear, and it hangs on one answer."""

    name = "slow"
    dear = True

    def score(self, sample, generation):
        if generation.response == "3":
            time.sleep(30)
        return Score(1.0, generation.response)


def test_a_dear_metric_that_hangs_is_an_error_of_its_answer():
    """What a backend gives up while scoring is an error of kind "scorer", and every other answer has its score."""
    result = evaluate(ROWS, answer, metrics=["exact_match", Slow()], timeout=0.5)

    assert result.report.metrics["slow"].errors == {"scorer": 1}
    assert result.report.metrics["slow"].n_scored == 9
    assert [r.error_type for r in result.evaluations if r.status == "error"] == ["TaskTimeoutError"]
    assert result.metrics["exact_match"] == 1.0


def test_repeats_cluster_by_sample():
    """With repeats the standard error is that of the samples' means, by the formula for clusters."""
    wrong = {("q1", 0), ("q1", 1), ("q2", 0)}

    class Repeats(Model):
        name = "repeats"

        def identity(self):
            return {"provider": "test", "name": "repeats"}

        async def generate(self, request):
            return Response("no" if (request.prompt, request.repeat) in wrong else answer(request.prompt))

    result = evaluate(ROWS, Repeats(), num_samples=2)

    metric = result.report.metrics["exact_match"]
    means = [0.0 if number == 1 else 0.5 if number == 2 else 1.0 for number in range(10)]
    center = sum(means) / 10
    expected = math.sqrt(sum((mean - center) ** 2 for mean in means) / (10 * 9))
    assert (metric.mean, metric.n_attempted, metric.stderr_method) == (17 / 20, 20, "clustered by sample")
    assert metric.stderr == pytest.approx(expected)


# -- results


def test_on_result_hears_of_each_new_answer():
    """The callback runs on the calling thread, once for each new answer, with the counts so far."""
    import threading

    updates, threads = [], set()

    def hear(update):
        updates.append(update)
        threads.add(threading.current_thread())

    evaluate(ROWS, answer, on_result=hear, limit=4)
    evaluate(ROWS, answer, on_result=hear)

    assert threads == {threading.current_thread()}
    assert [update.n_done for update in updates] == [1, 2, 3, 4, *range(5, 11)]
    assert updates[-1].n_total == 10
    assert updates[-1].evaluations[0].score == 1.0


def test_an_error_of_the_callback_is_the_callers():
    """What on_result raises reaches the caller as it is, and the answers until then are stored."""

    def fail(update):
        raise LookupError("mine")

    storage = ThreadSafeStorage()
    with pytest.raises(LookupError, match="mine"):
        evaluate(ROWS, answer, on_result=fail, storage_backend=storage)

    assert len(storage.load_generation_records(storage.list_runs()[0])) == 1


def test_the_result_as_tables():
    """Arrow, pandas and Polars have one row for each score, beside the answer it is for."""
    result = evaluate(ROWS, answer)

    table = result.to_arrow()
    assert table.num_rows == 10
    assert {"sample_id", "prompt", "response", "answer", "target", "score"} <= set(table.column_names)
    assert result.to_pandas()["score"].mean() == 1.0
    assert result.to_polars()["response"].to_list() == [str(number) for number in range(10)]


def test_the_result_shows_itself():
    """A terminal and a notebook show the table, its denominators, and what happened."""
    result = evaluate([*ROWS, {"question": "q", "answer": "<b>"}], answer)

    for text in (str(result), result._repr_html_()):
        assert "0.9091" in text
        assert "11/11" in text
        assert "complete: 11 asked now" in text
    assert "<table>" in result._repr_html_()


def test_the_report_is_json():
    """The report is JSON as it stands, under the names of its fields, and is stored."""
    result = evaluate(ROWS, answer)

    report = json.loads(json.dumps(to_json(result.report), allow_nan=False))
    assert report["metrics"]["exact_match"]["mean"] == 1.0
    assert report["usage"]["requests"] == 10
    assert report["selection"] == {"limit": None, "num_samples": 1}
    assert result.storage.load_report(result.run_id) == result.report


def test_storage_by_environment(tmp_path, monkeypatch):
    """Without an argument $THEMIS_STORAGE says where the records go, else ./.themis/runs."""
    by_default = evaluate(ROWS[:1], answer)
    monkeypatch.setenv("THEMIS_STORAGE", str(tmp_path / "elsewhere"))
    by_environment = evaluate(ROWS[:1], answer)

    assert (tmp_path / ".themis" / "runs" / by_default.run_id / "report.json").is_file()
    assert (tmp_path / "elsewhere" / by_environment.run_id / "report.json").is_file()


def test_where_a_run_comes_from_is_stored(server, ray_session):
    """run.json has the configuration; launches and the report have versions, git, data and the cluster's shape."""
    storage = LocalFileStorageBackend("runs")
    result = evaluate(
        ROWS,
        "openai/m",
        base_url=server.base_url,
        seed=7,
        storage_backend=storage,
        execution_backend=RayExecutionBackend(),
    )

    config = storage.load_run_metadata(result.run_id)["config"]
    (launch,) = storage.load_launches(result.run_id)
    assert (config["params"], config["benchmark"]) == ({"seed": 7}, "custom")
    for origin in (launch, result.report.provenance):
        assert origin["transport"] == server.base_url
        assert {"themis-ray", "ray", "pyarrow"} <= origin["packages"].keys()
        assert "git" in origin
        assert len(origin["data"]["fingerprint"]) == 32
        assert origin["execution"]["resources"]["CPU"] == 2.0
    assert launch["status"] == "complete"
    storage.close()


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_a_key_is_stored_nowhere(file_format, monkeypatch, caplog, ray_session, tmp_path):
    """A key reaches the server from Ray's workers and is in no file, no record and no log, also where it is echoed."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    faults = [None, Fault(status=400, body=json.dumps({"error": {"message": f"bad key {KEY}"}}))]
    storage = LocalFileStorageBackend(tmp_path / "runs", format=file_format)
    with ModelServer(answer, faults=faults, api_key=KEY) as server:
        result = evaluate(
            ROWS,
            "openai/m",
            base_url=server.base_url,
            storage_backend=storage,
            execution_backend=RayExecutionBackend(),
        )
    storage.close()

    assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
    assert result.report.metrics["exact_match"].n_scored == 9
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    records = [*result.generations, *result.evaluations, *result.samples]
    assert KEY not in repr([vars(record) for record in records])  # Parquet's bytes are compressed
    assert KEY not in caplog.text
    assert KEY not in str(result) + repr(result.report)


# -- wrong input, found before any request


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"benchmark": "gsm8"}, UnknownNameError, "Did you mean 'gsm8k'"),
        ({"model": "opnai/m", "base_url": None}, UnknownNameError, "Did you mean 'openai'"),
        ({"metrics": "exact_mach"}, UnknownNameError, "Did you mean 'exact_match'"),
        ({"metrics": []}, UsageError, "at least one"),
        ({"metrics": ["exact_match", "exact_match"]}, UsageError, "each name once"),
        ({"limit": 0}, UsageError, "limit=0: give a whole number from 1"),
        ({"limit": True}, UsageError, "limit=True"),
        ({"num_samples": 0}, UsageError, "num_samples=0"),
        ({"max_workers": 0}, UsageError, "max_workers=0"),
        ({"max_retries": -1}, UsageError, "max_retries=-1"),
        ({"max_errors": -1}, UsageError, "max_errors=-1"),
        ({"timeout": 0}, UsageError, "timeout=0: give seconds above 0"),
        ({"temperature": 0.5, "params": {"temperature": 1}}, UsageError, "contradict each other"),
        ({"params": {"bias": float("nan")}}, UsageError, "nan has no place in JSON"),
        ({"storage": "x", "storage_backend": ThreadSafeStorage()}, UsageError, "give one"),
        ({"storage": "nosuch://place"}, UsageError, "nosuch"),
        ({"run_id": "a/b"}, UsageError, "run id 'a/b'"),
        ({"prompt": "{qestion}"}, DataError, "row 1.*{qestion}.*question"),
        ({"prompt": 7}, UsageError, "prompt=7"),
        ({"benchmark": []}, DataError, "no rows"),
        ({"benchmark": [*ROWS, {"question": "x"}]}, DataError, "row 11 has no target"),
        ({"benchmark": [*ROWS, {"id": "3", **ROWS[0]}]}, DataError, "rows 4 and 11 have one id, '3'"),
    ],
)
def test_wrong_input_is_found_before_any_request(options, error, says, server):
    """What was given, what is possible and the nearest name are said, and the server hears nothing."""
    call = {"benchmark": ROWS, "model": "openai/m", "base_url": server.base_url, **options}

    with pytest.raises(error, match=says):
        evaluate(**call)
    assert server.requests == []


def test_an_unknown_option_is_refused():
    """A misspelt argument is a TypeError."""
    with pytest.raises(TypeError, match="temprature"):
        evaluate(ROWS, answer, temprature=1)


@pytest.mark.parametrize("place", ["file in the way", "missing bucket"])
def test_a_storage_that_cannot_be_written_is_found_first(place, server, s3_environment, tmp_path):
    """A file in the way or a bucket that does not exist is a StorageError before the first request."""
    (tmp_path / "file").write_text("in the way")
    storage = str(tmp_path / "file" / "runs") if place == "file in the way" else "s3://no-such-bucket-here/runs"

    with pytest.raises(StorageError):
        evaluate(ROWS, "openai/m", base_url=server.base_url, storage=storage)
    assert server.requests == []


def test_a_storage_that_fails_in_the_middle_ends_the_run(server):
    """An error of the storage while records are saved is raised as it is, soon, and not swallowed."""

    class Full(ThreadSafeStorage):
        def save_generation_record(self, run_id, record):
            if len(self._run(run_id)) > 5:
                raise StorageError("the disk is full")
            super().save_generation_record(run_id, record)

    rows = [{"question": f"q{number}", "answer": str(number)} for number in range(5000)]
    with pytest.raises(StorageError, match="the disk is full"):
        evaluate(rows, "openai/m", base_url=server.base_url, storage_backend=Full())
    assert len(server.requests) < 4000


def test_a_missing_key_or_server_is_found_first():
    """No key for a provider, and no server at an address, are one sentence each, with what to do."""
    with pytest.raises(ModelError, match=r"no key for openai/gpt-4o: set OPENAI_API_KEY.*themis list models"):
        evaluate(ROWS, "openai/gpt-4o")
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9/v1 cannot be reached.*check base_url"):
        evaluate(ROWS, "openai/m", base_url="http://127.0.0.1:9/v1")


# -- backends and models of a user's own


class Minimal(ExecutionBackend):
    """As small as a backend can be: it takes nothing but a function and items, and returns a list."""

    def map(self, func, items):
        return [func(item) for item in items]


def test_a_minimal_backend_is_enough(server):
    """A backend whose map() takes only func and items, and returns a list, runs an evaluation."""
    result = evaluate(ROWS, "openai/m", base_url=server.base_url, execution_backend=Minimal(), max_workers=2)

    assert result.metrics == {"exact_match": 1.0}
    assert result.report.provenance["execution"] == {"type": "Minimal", "max_workers": 2}


def test_a_backend_that_loses_an_item_shows_in_the_denominator(server):
    """A question that a backend never answers is counted as missing, not left out."""

    class Loses(Minimal):
        def map(self, func, items):
            return super().map(func, items)[:-1]

    result = evaluate(ROWS, "openai/m", base_url=server.base_url, execution_backend=Loses())

    metric = result.report.metrics["exact_match"]
    assert (result.report.status, metric.n_attempted, metric.n_scored) == ("partial", 10, 9)
    assert metric.errors == {"missing": 1}


def test_it_works_inside_a_running_event_loop(server):
    """In a notebook, whose loop is running, evaluate() is an ordinary call, over HTTP and with an async function."""

    async def async_answer(prompt):
        await asyncio.sleep(0)
        return answer(prompt)

    async def cell():
        over_http = evaluate(ROWS, "openai/m", base_url=server.base_url)
        function = evaluate(ROWS, async_answer, execution_backend=SequentialExecutionBackend())
        return over_http.metrics, function.metrics

    assert asyncio.run(cell()) == ({"exact_match": 1.0}, {"exact_match": 1.0})


def test_a_models_backends_stay_open():
    """evaluate() shuts no backend down and closes no storage that it was given."""
    done = []

    class Told(LocalExecutionBackend):
        def shutdown(self):
            done.append("shutdown")

    class Kept(FsspecStorageBackend):
        def close(self):
            done.append("close")
            super().close()

    with Kept("runs") as storage:
        evaluate(ROWS, answer, execution_backend=Told(), storage_backend=storage)
        assert done == []


def returns(value):
    """A model that answers one question with the value, the others rightly."""

    class Odd(Model):
        name = "odd"

        def identity(self):
            return {"provider": "test", "name": f"{value!r}"}

        async def generate(self, request):
            return value if request.prompt == "q3" else Response(answer(request.prompt))

    return Odd()


@pytest.mark.parametrize("backend", [LocalExecutionBackend(), Minimal()])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "returned a NoneType"),
        ("text", "returned a str"),
        (Response(None), "without text"),
        (Response(7), "text is 7"),
    ],
)
def test_a_model_that_returns_nonsense_costs_one_answer(value, says, backend):
    """What no storage could keep is an error of its sample, named, and the run goes on."""
    result = evaluate(ROWS, returns(value), execution_backend=backend)

    (error,) = [record for record in result.generations if record.status == "error"]
    assert (error.sample_id, error.error_kind, error.error_type) == ("3", "infrastructure", "ModelError")
    assert says in error.error_message
    assert result.report.metrics["exact_match"].n_scored == 9


def test_half_a_surrogate_pair_is_an_answer():
    """Half of a surrogate pair, which JSON can carry and UTF-8 cannot, is an answer like any other."""
    result = evaluate(ROWS[:2], lambda prompt: "\ud800" if prompt == "q0" else "1")

    assert result.metrics == {"exact_match": 0.5}
    assert result.report.status == "complete"


@pytest.mark.parametrize("backend", [LocalExecutionBackend(), SequentialExecutionBackend(), Minimal()])
def test_a_model_that_exits_costs_one_answer(backend):
    """SystemExit in a model, plain or async, is an error of its sample, on any backend."""

    def plain(prompt):
        return sys.exit(3) if prompt == "q3" else answer(prompt)

    async def waiting(prompt):
        return plain(prompt)

    for model in (plain, waiting):
        result = evaluate(ROWS, model, execution_backend=backend)

        (error,) = [record for record in result.generations if record.status == "error"]
        assert (error.sample_id, error.error_type) == ("3", "SystemExit")
        assert result.report.errors == {"infrastructure": 1}
        assert result.metrics == {"exact_match": 1.0}


@pytest.mark.parametrize("make", [LocalExecutionBackend, SequentialExecutionBackend, RayExecutionBackend])
def test_a_model_that_hangs_costs_one_answer(make, ray_session):
    """A function that does not come back is given up after `timeout`, and the other answers are there."""

    def hangs(prompt):
        if prompt == "q3":
            time.sleep(20)
        return prompt[1:]

    began = time.monotonic()
    result = evaluate(ROWS, hangs, execution_backend=make(), timeout=0.5)

    assert time.monotonic() - began < 10
    (error,) = [record for record in result.generations if record.status == "error"]
    assert (error.sample_id, error.error_kind, error.error_type) == ("3", "infrastructure", "TaskTimeoutError")
    assert result.report.metrics["exact_match"].n_scored == 9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_tokens", "many"),
        ("input_tokens", 2**70),
        ("attempts", None),
        ("metadata", {"set": {1}}),
        ("token_logprobs", [math.nan]),
        ("finish_reason", 1),
    ],
)
def test_an_odd_side_field_does_not_cost_the_answer(field, value):
    """What no storage could keep is left out and noted; the answer is stored and scored."""
    result = evaluate(ROWS, returns(Response("x", **{field: value})))

    assert result.report.status == "complete"
    noted = [record.metadata["not_stored"] for record in result.generations if "not_stored" in record.metadata]
    assert noted
    assert all(list(odd) == [field] for odd in noted)


class RevokedLater(Model):
    """Answers all questions at the same moment; at the fourth the key is revoked."""

    name = "revoked"

    def identity(self):
        return {"name": self.name}

    async def generate(self, request):
        await asyncio.sleep(0.3)
        if request.sample_id == "3":
            raise AuthenticationError("revoked")
        return Response("4")


def test_answers_that_came_with_the_fatal_error_are_kept():
    """What had arrived when a run was interrupted is stored, though nobody had taken it yet."""
    questions = [{"question": f"q{number}", "answer": "4"} for number in range(200)]

    result = evaluate(questions, RevokedLater(), max_workers=50)

    assert result.report.status == "interrupted"
    assert sum(record.status == "ok" for record in result.generations) >= 40
    assert result.report.metrics["exact_match"].n_attempted == 200


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("execution_backend", "ray", "RayExecutionBackend"),
        ("execution_backend", LocalExecutionBackend, "instance"),
        ("storage_backend", "/tmp/runs", "storage= takes a URL"),
        ("temperature", math.nan, "None for a missing number"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_named(option, value, says):
    """A name or a class where an instance belongs, or NaN, is a UsageError that says what to give."""
    with pytest.raises(UsageError, match=says):
        evaluate(ROWS, "demo", **{option: value})
