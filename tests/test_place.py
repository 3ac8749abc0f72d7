"""What a storage says of a place that cannot be used, and which place a URL means."""

from __future__ import annotations

import socket
import time

import pytest

from themis.backends import _causes, _place
from themis.backends.fsspec import FsspecStorageBackend, LocalFileStorageBackend
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


def test_a_password_in_the_url_is_not_shown():
    """Messages and repr show a URL without the user and password in it."""
    storage = FsspecStorageBackend("memory://user:hunter2@host/runs")

    assert "hunter2" not in repr(storage)


def test_permission_is_said():
    """A permission error names the credentials as what to check."""
    assert "check the credentials" in _causes.explain(PermissionError("Access Denied"))
