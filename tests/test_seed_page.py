"""Every example of the page that first described backends, as its reader would complete it, inside evaluate()."""

from __future__ import annotations

import gzip
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from themis import GenerationRecord, evaluate
from themis.backends import (
    ExecutionBackend,
    LocalExecutionBackend,
    LocalFileStorageBackend,
    SequentialExecutionBackend,
    StorageBackend,
)
from themis.backends import RayExecutionBackend as ShippedRay
from themis.errors import ReportNotFoundError, RunNotFoundError
from themis.records import EvaluationRecord, MetricResult, Report
from themis.testing import ModelServer

N_ROWS = 20


@pytest.fixture
def small_data(benchmark_data, tmp_path, monkeypatch):
    """The first questions of gsm8k and math500 as the whole benchmarks, in a working folder of the test's own."""
    for name in ("gsm8k", "math500"):
        lines = (benchmark_data / name / "test.jsonl").read_text("utf-8").splitlines(keepends=True)
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("".join(lines[:N_ROWS]), "utf-8")
    monkeypatch.setenv("THEMIS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("THEMIS_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return benchmark_data


@pytest.fixture
def server(small_data, monkeypatch):
    """Serves "gpt-4": real answers of a real model to gsm8k, and the data's own solutions to math500."""
    with gzip.open(small_data / "gsm8k_graded" / "6b_finetuning.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = {row["question"]: row["solution"] for row in map(json.loads, file)}
    with (small_data / "math500" / "test.jsonl").open(encoding="utf-8") as file:
        answers |= {row["problem"]: row["solution"] for row in map(json.loads, file)}
    with ModelServer(answers) as model_server:
        monkeypatch.setenv("OPENAI_BASE_URL", model_server.base_url)
        yield model_server


@pytest.fixture
def n_right(small_data):
    """How many of the gsm8k answers their graders found right."""
    with gzip.open(small_data / "gsm8k_graded" / "6b_finetuning.jsonl.gz", "rt", encoding="utf-8") as file:
        return sum(json.loads(line)["is_correct"] for line, _ in zip(file, range(N_ROWS), strict=False))


def execute(func, items):
    """The execution logic that the page leaves to its reader."""
    for item in items:
        yield func(item)


class MyBackend(ExecutionBackend):
    """The page's first class."""

    def map(self, func, items, max_workers=None, timeout=None, **kwargs):
        for result in execute(func, items):  # noqa: UP028 - as the page has it
            yield result

    def shutdown(self):
        pass


class RayExecutionBackend(ExecutionBackend):
    """The page's loop over Ray."""

    def __init__(self, num_cpus=None):
        import ray

        if not ray.is_initialized():
            ray.init(num_cpus=num_cpus)

    def map(self, func, items, **kwargs):
        import ray

        @ray.remote
        def remote_func(item):
            return func(item)

        futures = [remote_func.remote(item) for item in items]
        for future in futures:
            yield ray.get(future)

    def shutdown(self):
        pass


class ThreadPoolBackend(ExecutionBackend):
    """The page's thread pool, which yields as results complete."""

    def map(self, func, items, max_workers=None, **kwargs):
        with ThreadPoolExecutor(max_workers=max_workers) as executor:
            futures = [executor.submit(func, item) for item in items]
            for future in as_completed(futures):
                yield future.result()


class S3StorageBackend(StorageBackend):
    """The page's class; its one method as it stands, the others in its spirit."""

    def __init__(self, bucket: str):
        import boto3

        self.bucket = bucket
        self.s3 = boto3.client("s3")

    def save_run_metadata(self, run_id, metadata):
        self._put(f"runs/{run_id}/run.json", metadata)

    def load_run_metadata(self, run_id):
        self._require(run_id)
        keys = self._keys(f"runs/{run_id}/run.json")
        return self._get(keys[0]) if keys else {}

    def save_generation_record(self, run_id, record):
        key = f"runs/{run_id}/generations/{record.id}.json"
        self.s3.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=json.dumps(record.__dict__),
        )

    def load_generation_records(self, run_id):
        self._require(run_id)
        return [GenerationRecord(**self._get(key)) for key in self._keys(f"runs/{run_id}/generations/")]

    def save_evaluation_record(self, run_id, record):
        self._put(f"runs/{run_id}/evaluations/{record.id}.json", record.__dict__)

    def load_evaluation_records(self, run_id):
        self._require(run_id)
        return [EvaluationRecord(**self._get(key)) for key in self._keys(f"runs/{run_id}/evaluations/")]

    def save_report(self, run_id, report):
        self._put(f"runs/{run_id}/report.json", report.__dict__)

    def load_report(self, run_id):
        self._require(run_id)
        keys = self._keys(f"runs/{run_id}/report.json")
        if not keys:
            raise ReportNotFoundError(f"run {run_id} has no report")
        fields = self._get(keys[0])
        metrics = {name: MetricResult(**metric) for name, metric in fields.pop("metrics").items()}
        return Report(**fields, metrics=metrics)

    def list_runs(self):
        return sorted({key.split("/")[1] for key in self._keys("runs/")})

    def run_exists(self, run_id):
        return bool(self._keys(f"runs/{run_id}/"))

    def delete_run(self, run_id):
        self._require(run_id)
        for key in self._keys(f"runs/{run_id}/"):
            self.s3.delete_object(Bucket=self.bucket, Key=key)

    def _put(self, key, value):
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(value))

    def _get(self, key):
        return json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def _keys(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def _require(self, run_id):
        if not self.run_exists(run_id):
            raise RunNotFoundError(f"no run {run_id}")


class ThreadSafeStorage(StorageBackend):
    """The page's locked storage, over a dict: just the abstract methods, and no `super().__init__()`."""

    def __init__(self):
        self.lock = threading.Lock()
        self.runs = {}

    def save_generation_record(self, run_id, record):
        with self.lock:
            # Thread-safe write
            self._write(run_id, record)

    def _write(self, run_id, record):
        self._run(run_id)[type(record), record.id] = record

    def _run(self, run_id):
        return self.runs.setdefault(run_id, {})

    def _of(self, run_id, kind):
        if run_id not in self.runs:
            raise RunNotFoundError(f"no run {run_id}")
        with self.lock:
            return [value for (name, _), value in self.runs[run_id].items() if name == kind]

    def save_run_metadata(self, run_id, metadata):
        with self.lock:
            self._run(run_id)[dict, ""] = metadata

    def load_run_metadata(self, run_id):
        return next(iter(self._of(run_id, dict)), {})

    def load_generation_records(self, run_id):
        return self._of(run_id, GenerationRecord)

    def save_evaluation_record(self, run_id, record):
        self.save_generation_record(run_id, record)

    def load_evaluation_records(self, run_id):
        return self._of(run_id, EvaluationRecord)

    def save_report(self, run_id, report):
        with self.lock:
            self._run(run_id)[Report, ""] = report

    def load_report(self, run_id):
        found = self._of(run_id, Report)
        if not found:
            raise ReportNotFoundError(f"run {run_id} has no report")
        return found[0]

    def list_runs(self):
        return sorted(self.runs)

    def run_exists(self, run_id):
        return run_id in self.runs

    def delete_run(self, run_id):
        del self.runs[run_id]


MyStorageBackend = ThreadSafeStorage
MyExecutionBackend = MyBackend


def check(result, n_right):
    """The result is the graders' verdict over all rows, and everything is stored."""
    assert result.metrics == {"exact_match": n_right / N_ROWS}
    assert result.report.status == "complete"
    assert len(result.generations) == len(result.evaluations) == N_ROWS


def test_overview_a_class_with_map_and_shutdown_is_a_backend(server, n_right):
    """`MyBackend` runs an evaluation and gives the graders' number."""
    result = evaluate(benchmark="gsm8k", model="gpt-4", execution_backend=MyBackend())

    check(result, n_right)


def test_local_execution_backend_is_used_directly_and_in_evaluate(server, n_right):
    """The block on LocalExecutionBackend runs as it stands."""
    backend = LocalExecutionBackend(max_workers=8)

    # Use directly
    results = list(backend.map(lambda x: x * 2, [1, 2, 3]))

    # Or in an evaluation
    result = evaluate(
        benchmark="gsm8k",
        model="gpt-4",
        execution_backend=backend,
    )

    assert results == [2, 4, 6]
    check(result, n_right)
    assert server.max_in_progress <= 8


def test_sequential_execution_backend_yields_in_order(server, n_right):
    """The block on SequentialExecutionBackend runs as it stands, and in evaluate() with one request at a time."""
    backend = SequentialExecutionBackend()

    # Results are yielded in order
    results = list(backend.map(str, range(100)))

    assert results == [str(number) for number in range(100)]
    check(evaluate(benchmark="gsm8k", model="gpt-4", execution_backend=backend), n_right)
    assert server.max_in_progress == 1


def test_storage_backend_must_have_every_required_method():
    """A class with a part of the page's list of methods cannot be made, and the error names what is missing."""

    class S3Storage(StorageBackend):
        def save_run_metadata(self, run_id, metadata):
            pass

        def load_run_metadata(self, run_id):
            pass

        def save_generation_record(self, run_id, record):
            pass

    with pytest.raises(TypeError, match=r"delete_run.*list_runs.*load_evaluation_records"):
        S3Storage()


def test_the_required_methods_are_the_pages_list():
    """What a storage must have is what the page lists as required, and close() is optional."""
    required = {
        *("save_run_metadata", "load_run_metadata", "save_generation_record", "load_generation_records"),
        *("save_evaluation_record", "load_evaluation_records", "save_report", "load_report"),
        *("list_runs", "run_exists", "delete_run"),
    }

    assert StorageBackend.__abstractmethods__ == required
    assert ThreadSafeStorage().close() is None


def test_local_file_storage_backend_keeps_the_run(server, n_right, tmp_path):
    """The block on LocalFileStorageBackend runs as it stands, and another object reads the run back."""
    backend = LocalFileStorageBackend(storage_path=".cache")

    # Use it
    result = evaluate(
        benchmark="gsm8k",
        model="gpt-4",
        storage_backend=backend,
    )

    check(result, n_right)
    again = LocalFileStorageBackend(tmp_path / ".cache")
    assert again.list_runs() == [result.run_id]
    assert again.load_report(result.run_id) == result.report


def test_s3_storage_written_from_the_page_keeps_the_run(server, n_right, s3_environment):
    """The page's boto3 class works in evaluate(), resumes, and keeps every record as a JSON object."""
    storage = S3StorageBackend(bucket=s3_environment.bucket)

    # Use it
    result = evaluate(
        benchmark="gsm8k",
        model="gpt-4",
        storage_backend=storage,
    )
    again = evaluate(benchmark="gsm8k", model="gpt-4", storage_backend=S3StorageBackend(s3_environment.bucket))

    check(result, n_right)
    assert (again.n_asked, again.n_stored, again.metrics) == (0, N_ROWS, result.metrics)
    assert storage.load_report(result.run_id).metrics == result.report.metrics
    storage.delete_run(result.run_id)
    assert not storage.run_exists(result.run_id)


def test_ray_execution_written_from_the_page_gives_the_shipped_numbers(server, ray_session):
    """The page's Ray loop, and the shipped backend under the same call, give the same report on math500."""
    own, shipped = ThreadSafeStorage(), ThreadSafeStorage()

    # Use it
    result = evaluate(
        benchmark="math500",
        model="gpt-4",
        execution_backend=RayExecutionBackend(num_cpus=32),
        storage_backend=own,
    )
    expected = evaluate("math500", "gpt-4", execution_backend=ShippedRay(num_cpus=32), storage_backend=shipped)

    assert result.metrics == expected.metrics == {"math_equivalence": 1.0, "boxed_match": 1.0}
    assert result.report.metrics == expected.report.metrics
    assert {r.id for r in result.generations} == {r.id for r in expected.generations}
    assert not any(record.worker.endswith(f":{os.getpid()}") for record in result.generations)


def test_backends_are_context_managers():
    """Leaving `with` calls shutdown()."""
    left = []

    class Told(MyBackend):
        def shutdown(self):
            left.append(True)

    with LocalExecutionBackend(max_workers=8) as backend:
        results = list(backend.map(str.upper, ["a", "b"]))
    # Automatically calls shutdown()
    with Told():
        assert left == []

    assert (results, left) == (["A", "B"], [True])


def test_thread_safe_storage_works_in_evaluate(server, n_right):
    """The page's locked storage, completed, keeps a run and resumes it."""
    storage = ThreadSafeStorage()

    check(evaluate(benchmark="gsm8k", model="gpt-4", storage_backend=storage), n_right)
    check(evaluate(benchmark="gsm8k", model="gpt-4", storage_backend=storage), n_right)

    assert len(server.requests) == N_ROWS


def test_the_thread_pool_of_the_page_works_in_evaluate(server, n_right):
    """The page's ThreadPoolExecutor with as_completed gives the graders' number, several requests at once."""
    server.latency = 0.05

    result = evaluate(benchmark="gsm8k", model="gpt-4", execution_backend=ThreadPoolBackend(), max_workers=4)

    check(result, n_right)
    assert server.max_in_progress == 4


def test_storage_backend():
    """The page's test of a storage passes."""
    backend = MyStorageBackend()

    # Test save/load
    record = GenerationRecord(id="test", prompt="...", response="...")
    backend.save_generation_record("test-run", record)

    loaded = backend.load_generation_records("test-run")
    assert len(loaded) == 1
    assert loaded[0].id == "test"


@pytest.mark.parametrize("make", [MyExecutionBackend, ThreadPoolBackend, LocalExecutionBackend])
def test_execution_backend(make):
    """The page's test of an execution backend passes."""
    backend = make()

    # Test parallel execution
    results = list(backend.map(lambda x: x * 2, [1, 2, 3]))
    assert set(results) == {2, 4, 6}

    backend.shutdown()
