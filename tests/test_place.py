"""What a storage says of a place that cannot be used, and which place a URL means."""

from __future__ import annotations

import socket
import time
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from themis.backends import _causes, _place
from themis.backends.fsspec import FsspecStorageBackend, LocalFileStorageBackend
from themis.cli import run
from themis.errors import StorageError, UsageError
from themis.records import GenerationRecord


def generation(record_id):
    """A small generation."""
    return GenerationRecord(id=record_id, prompt="p", response="r")


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    """A backend on a relative path goes on writing there after a change of directory."""
    monkeypatch.chdir(tmp_path)
    with LocalFileStorageBackend("runs") as storage:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        storage.save_generation_record("run", generation("1"))

    assert (tmp_path / "runs/run/run.json").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s33://bucket/runs", "did you mean s3://"),
        ("nonsense://bucket/runs", "no protocol 'nonsense'"),
        ("sftp://host/runs", "paramiko"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_to_do(url, said):
    """An unknown protocol names the nearest one, a known one the package to install, when the backend is made."""
    with pytest.raises(UsageError) as caught:
        FsspecStorageBackend(url)
    assert url in str(caught.value)
    assert said in str(caught.value)


def test_a_file_in_the_way_is_said(tmp_path):
    """A root that is a file, or lies below one, is a StorageError that says so at the first save."""
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(StorageError, match=r"cannot \w+ .*/file.* in the way"):
            FsspecStorageBackend(root).save_generation_record("run", generation("1"))


def test_a_missing_bucket_is_said(s3):
    """A bucket that does not exist is a StorageError for writing, listing and reading alike."""
    storage = FsspecStorageBackend("s3://no-such-bucket/runs", storage_options=s3.storage_options)

    for call in (
        lambda: storage.save_generation_record("run", generation("1")),
        storage.list_runs,
        lambda: storage.load_generation_records("run"),
    ):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/runs: .*bucket does not exist; make the bucket"):
            call()


def test_missing_credentials_are_said(s3, monkeypatch):
    """Without credentials the first save says which variables to set."""
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"endpoint_url": s3.endpoint}

    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        FsspecStorageBackend(s3.new_url(), storage_options=options).save_run_metadata("run", {})


def test_a_store_that_does_not_answer_fails_in_seconds(s3, monkeypatch):
    """An endpoint that takes connections and never answers is a StorageError within the first answer's deadline."""
    monkeypatch.setattr(_place, "FIRST_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {**s3.storage_options, "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        storage = FsspecStorageBackend("s3://themis-tests/runs", storage_options=options)
        began = time.monotonic()
        with pytest.raises(StorageError, match="does not answer"):
            storage.save_run_metadata("run", {})

    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("memory://user:hunter2@host/runs", "memory://***@host/runs"),
        ("memory://hunter2@host/runs", "memory://***@host/runs"),
        ("memory://user:hun/ter2@host/runs", "memory://***@host/runs"),
        ("memory://host/runs?sig=hunter2&v=1", "memory://host/runs?***"),
        ("memory://host:80/runs/a@b", "memory://host:80/runs/a@b"),
        ("memory://bucket/runs@2", "memory://bucket/runs@2"),
    ],
)
def test_a_secret_in_the_url_is_not_shown(url, seen):
    """Messages and repr show a URL without user, password and query, and everything else of it."""
    assert repr(FsspecStorageBackend(url)) == f"FsspecStorageBackend({seen!r})"


def test_an_export_shows_no_secret(tmp_path, capsys):
    """The command says where records were exported to without the password in the target's URL."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation("1"))
    target = "memory://user:hunter2@host/out.csv"
    assert run(["runs", "export", "run", target, "--storage", str(tmp_path)]) == 0
    assert run(["runs", "export", "run", f"{target}?v", "--storage", str(tmp_path)]) == 2

    said = "".join(capsys.readouterr())
    assert "memory://***@host/out.csv" in said
    assert "hunter2" not in said


class ConditionalFS:
    """A filesystem whose conditional writes fail with an error, after somebody else's object is there or not."""

    def __init__(self, error, objects):
        self.error, self.objects = error, objects

    def pipe_file(self, path, data, mode="overwrite"):
        """Write, unless there is a condition."""
        if mode == "create":
            raise self.error
        self.objects[path] = data

    def exists(self, path):
        """Whether the object is there."""
        return path in self.objects


def s3_error(code, status):
    """What s3fs raises for an answer of S3."""
    cause = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
    return translate_boto_error(cause)


REFUSALS = [
    s3_error("NotImplemented", 501),
    s3_error("PreconditionFailed", 412),
    s3_error("ConditionsNotSupported", 400),
    TypeError("unexpected keyword argument 'mode'"),
    NotImplementedError(),
]
PASSING = [
    s3_error("SlowDown", 503),
    s3_error("InternalError", 500),
    s3_error("ConditionalRequestConflict", 409),
    ConnectionError("reset"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_where_conditional_writes_are_refused(error):
    """Where a store refuses conditional writes an object is written when there is none, and never replaced."""
    fs = ConditionalFS(error, {})
    _place._create(fs, "run.json", b"mine")
    assert fs.objects == {"run.json": b"mine"}
    _place._create(fs, "run.json", b"{}")
    assert fs.objects == {"run.json": b"mine"}


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_conditional_write_that_fails_is_no_refusal(error):
    """A conditional write that failed for a reason that may pass is raised, and nothing is written."""
    fs = ConditionalFS(error, {})
    with pytest.raises(type(error)):
        _place._create(fs, "run.json", b"{}")
    assert fs.objects == {}


def test_permission_is_said():
    """A permission error names the credentials as what to check."""
    assert "check the credentials" in _causes.explain(PermissionError("Access Denied"))


@pytest.mark.usefixtures("no_new_threads")
def test_where_no_thread_can_be_started_a_store_is_asked_all_the_same(monkeypatch):
    """At the end of a program, when Python begins no more threads, records still reach a store."""
    url = f"memory://{uuid4().hex}"
    storage = FsspecStorageBackend(url, flush_seconds=60)
    storage.save_generation_record("run", GenerationRecord("1", "p", "r"))
    storage.flush()
    monkeypatch.undo()

    assert len(FsspecStorageBackend(url).load_generation_records("run")) == 1
    storage.close()
