"""The same call gives the same ids, records and metrics on every execution backend with every storage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from uuid import uuid4

import pytest
from test_seed_page import RayExecutionBackend as SeedRay
from test_seed_page import ThreadPoolBackend, ThreadSafeStorage

from themis import evaluate
from themis.backends import (
    FsspecStorageBackend,
    LocalExecutionBackend,
    LocalFileStorageBackend,
    RayExecutionBackend,
    SequentialExecutionBackend,
)
from themis.models import OpenAIModel
from themis.testing import Fault, ModelServer

QUESTIONS = [f"{word}: what is {number} + {number}?" for number, word in enumerate("abcdefghijkl")]
ROWS = [{"question": text, "answer": str(2 * number)} for number, text in enumerate(QUESTIONS)]
REFUSED, FILTERED, BROKEN, WRONG = 3, 5, 7, 9
FILTER_BODY = '{"error": {"message": "no", "code": "content_filter"}}'

# Facts of one execution, not of what was asked and answered; the provider makes the fingerprint up.
OF_ONE_EXECUTION = {"started_at", "latency", "attempts", "worker", "system_fingerprint"}

EXECUTIONS = {
    "sequential": SequentialExecutionBackend,
    "threads": LocalExecutionBackend,
    "ray": RayExecutionBackend,
    "own threads": ThreadPoolBackend,
    "own ray": SeedRay,
}
STORAGES = ["parquet", "jsonl", "memory", "s3", "own"]


def answer(prompt):
    """What the server says: right but for one question."""
    number = QUESTIONS.index(prompt)
    return str(2 * number + (number == WRONG))


def fault(_, body):
    """What goes wrong, always with the same questions: a refused request, a model's outcome, a broken server."""
    number = QUESTIONS.index(body["messages"][0]["content"])
    faults = {REFUSED: Fault(status=400), FILTERED: Fault(status=400, body=FILTER_BODY), BROKEN: Fault(status=500)}
    return faults.get(number)


@pytest.fixture(scope="module")
def server():
    """Answers the twelve questions, with one fault of each kind among them."""
    with ModelServer(answer, faults=fault) as model_server:
        yield model_server


@pytest.fixture(scope="module")
def expected(server):
    """What all others have to equal: one run on the caller's thread, kept in a dict."""
    result = evaluate(
        ROWS,
        "openai/m",
        base_url=server.base_url,
        max_retries=0,
        execution_backend=SequentialExecutionBackend(),
        storage_backend=ThreadSafeStorage(),
    )
    return facts(result)


@pytest.fixture
def storage(request, tmp_path):
    """A fresh storage of the kind that the test is for."""
    if request.param == "own":
        yield ThreadSafeStorage()
        return
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        backend = FsspecStorageBackend(s3.new_url(), storage_options=s3.storage_options)
    elif request.param == "memory":
        backend = FsspecStorageBackend(f"memory://{uuid4().hex}")
    else:
        backend = LocalFileStorageBackend(tmp_path / "runs", format=request.param)
    with backend:
        yield backend


def facts(result):
    """Everything that must not depend on where a run was made: records by id, metrics, errors, selection."""
    report = result.report
    return {
        "generations": parity_fields(result.generations),
        "evaluations": parity_fields(result.evaluations),
        "metrics": report.metrics,
        "errors": report.errors,
        "status": report.status,
        "config": report.config,
        "rows": (report.n_rows, report.n_repeats, report.selection),
    }


def parity_fields(records):
    """Every field that is part of parity, by record id; each id stands once."""
    by_id = {
        record.id: {name: value for name, value in vars(record).items() if name not in OF_ONE_EXECUTION}
        for record in records
    }
    assert len(by_id) == len(records)
    return by_id


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("storage", STORAGES, indirect=True)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_every_backend_with_every_storage_gives_the_same(execution, storage, server, expected):
    """Ids, records and metrics equal those of the plainest run, the three kinds of failure included."""
    result = evaluate(
        ROWS,
        "openai/m",
        base_url=server.base_url,
        max_retries=0,
        max_workers=4,
        execution_backend=EXECUTIONS[execution](),
        storage_backend=storage,
    )

    assert facts(result) == expected


def test_what_the_reference_holds(expected):
    """The run that all equal has 8 of 10 right: a model's outcome counts as wrong, the other failures are unscored."""
    metric = expected["metrics"]["exact_match"]

    assert (metric.mean, metric.n_attempted, metric.n_scored) == (0.8, 12, 10)
    assert metric.errors == {"infrastructure": 1, "input": 1}
    assert expected["errors"] == {"infrastructure": 1, "input": 1, "model": 1}
    assert expected["status"] == "partial"


def killing_model(flag, base_url):
    """A model whose worker process dies while it asks one of the questions, once."""
    driver = os.getpid()

    class Killing(OpenAIModel):  # in a function, so that it travels by value
        async def generate(self, request):
            if request.prompt == QUESTIONS[6] and os.getpid() != driver and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return await super().generate(request)

    return Killing("m", base_url=base_url, max_retries=0)


@pytest.mark.parametrize("storage", STORAGES, indirect=True)
@pytest.mark.parametrize("execution", ["ray", "own ray"])
def test_a_killed_ray_worker_changes_nothing(execution, storage, server, expected, ray_session, tmp_path):
    """A worker killed in the middle leaves no trace in ids, records and metrics, and no record is there twice."""
    flag = tmp_path / "killed"
    # The loop of the page gives the function to Ray, which has a pickler of its own for what stands in this file.
    ray_session.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    result = evaluate(
        ROWS,
        killing_model(flag, server.base_url),
        max_workers=4,
        execution_backend=EXECUTIONS[execution](),
        storage_backend=storage,
    )

    assert flag.exists()
    assert facts(result) == expected


@pytest.fixture(scope="module")
def replay_server():
    """Starts servers, each a process of its own, that answer GSM8K with the graded responses of one model."""
    servers = []

    def start(path):
        command = [sys.executable, "-m", "themis.testing.server", "--answers", str(path), "--response", "solution"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        return server.stdout.readline().strip()

    yield start
    for server in servers:
        server.terminate()
        server.wait(10)
        server.stdout.close()


GRADED = [("6b_finetuning", 286), ("175b_verification", 742)]


@pytest.mark.parametrize(("name", "n_right"), GRADED)
def test_gsm8k_has_the_graders_count_on_threads_and_on_ray(
    name, n_right, benchmark_data, replay_server, ray_session, s3_environment, tmp_path
):
    """Real responses over HTTP: exactly the graders' number right, the same on threads and disk, on Ray and S3."""
    base_url = replay_server(benchmark_data / "gsm8k_graded" / f"{name}.jsonl.gz")
    call = {"benchmark": "gsm8k", "model": f"openai/{name}", "base_url": base_url}

    local = evaluate(**call, storage=tmp_path / "runs")
    ray = evaluate(**call, storage=s3_environment.new_url(), execution_backend=RayExecutionBackend())

    metric = local.report.metrics["exact_match"]
    assert (metric.mean, metric.n_scored, metric.n_attempted) == (n_right / 1319, 1319, 1319)
    assert facts(ray) == facts(local)


def test_gsm8k_has_the_graders_count_on_one_thread(benchmark_data, replay_server, tmp_path):
    """Real responses over HTTP, one after the other: exactly the graders' 286 of 1,319."""
    base_url = replay_server(benchmark_data / "gsm8k_graded" / "6b_finetuning.jsonl.gz")

    result = evaluate(
        "gsm8k",
        "openai/6b_finetuning",
        base_url=base_url,
        execution_backend=SequentialExecutionBackend(),
        storage=tmp_path,
    )

    assert result.metrics == {"exact_match": 286 / 1319}
    assert result.report.status == "complete"
