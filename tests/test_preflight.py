"""A place that cannot keep records is found in seconds, before a model is asked, and the error says what is missing."""

from __future__ import annotations

import socket
import time

import pytest
from fault_proxy import NO_ACCESS, FaultProxy, Trouble

from themis import evaluate
from themis.backends import FsspecStorageBackend
from themis.errors import StorageError, UsageError

LONGEST = 15.0
"""Seconds: the ten that a store has for its first answer to a verb, and what surrounds them on a busy machine."""

FORBIDDEN = Trouble("status", 403, NO_ACCESS)


def refused(url, options=None, seconds=LONGEST):
    """What evaluate() says of the place, once it has said it in time and nothing was asked."""
    asked = []

    def call():
        storage = FsspecStorageBackend(url, storage_options=options)
        evaluate([{"question": "q", "answer": "a"}], asked.append, storage_backend=storage)

    began = time.monotonic()
    with pytest.raises((StorageError, UsageError)) as caught:
        call()

    assert time.monotonic() - began < seconds
    assert asked == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hurried(monkeypatch):
    """A first answer is waited for not ten seconds but five."""
    monkeypatch.setattr("themis.backends._place.FIRST_ANSWER", 5.0)
    return LONGEST - 5.0


RULES = {
    "write": lambda method, path, _: FORBIDDEN if method == "PUT" else None,
    "list": lambda method, path, _: FORBIDDEN if "list-type" in path and "launches" in path else None,
    "read": lambda method, path, _: FORBIDDEN if method == "GET" and "launches/0" in path else None,
}


@pytest.mark.parametrize("verb", RULES)
def test_each_missing_permission_is_named(verb, s3):
    """Whoever may not write, list or read is told which of them, and to check the credentials."""
    with FaultProxy(s3.endpoint) as proxy:
        proxy.rule = RULES[verb]
        said = refused(url := s3.new_url(), {**s3.storage_options, "endpoint_url": proxy.url})

    assert f"cannot {verb} {url}" in said
    assert "no permission" in said
    assert "check the credentials" in said


@pytest.mark.parametrize("store", ["s3", "azure", "gcs"])
def test_a_missing_bucket_is_named(store, request):
    """On S3, Azure and GCS a bucket that does not exist is named, with the advice to make it."""
    server = request.getfixturevalue(store)
    said = refused(f"{server.protocol}://no-such-bucket/runs", server.storage_options)

    assert "no-such-bucket" in said
    assert "make the bucket" in said


def test_an_endpoint_that_refuses_connections_is_named(s3, hurried):
    """Where nothing listens, the address is said to be checked."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = refused(s3.new_url(), {**s3.storage_options, "endpoint_url": f"http://127.0.0.1:{port}"}, hurried)

    assert "does not answer" in said
    assert "check its address" in said


def test_a_store_that_refuses_every_write_is_found_in_time(s3, hurried):
    """A store that reads well and answers writes by 503 is given up after the time for a first answer."""
    with FaultProxy(s3.endpoint) as proxy:
        proxy.rule = lambda method, *_: Trouble("status") if method == "PUT" else None
        said = refused(url := s3.new_url(), {**s3.storage_options, "endpoint_url": proxy.url}, hurried)

    assert f"cannot write {url}" in said


def test_wrong_credentials_are_no_permission(azure):
    """A key that the store does not take is said in one line, and tried no second time."""
    options = {"connection_string": azure.storage_options["connection_string"].replace("Eby8", "Aby8")}

    assert "no permission" in refused(azure.new_url(), options)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("sftp://host/runs", None, ["sftp://host/runs", "paramiko"]),
        ("s4://bucket/runs", None, ["s4://bucket/runs", "s3://"]),
        ("s3://bucket/runs", {"secrit": "x"}, ["s3://bucket/runs", "storage_options", "secrit"]),
        ("/dev/null/runs", None, ["/dev/null/runs", "in the way"]),
    ],
)
def test_what_no_store_can_do_is_said(url, options, says):
    """A missing package, an unknown protocol, a wrong option and a file in the way are named."""
    said = refused(url, options)

    for part in says:
        assert part in said


def test_a_listing_that_lags_is_refused(tmp_path, monkeypatch):
    """A place that does not list what was just written is refused: its readers would miss records."""
    storage = FsspecStorageBackend(tmp_path)
    storage.save_run_metadata("run", {})
    monkeypatch.setattr(storage._place, "names", lambda folder="": [])

    with pytest.raises(StorageError, match=r"cannot list .* lags behind"):
        storage.preflight("run")


def test_a_resume_that_may_not_write_is_refused(s3):
    """A finished part of a run is no proof: whoever resumes without the permission to write is told before asking."""
    url, rows = s3.new_url(), [{"question": str(n), "answer": "a"} for n in range(3)]
    evaluate(
        rows, lambda prompt: "a", limit=1, storage_backend=FsspecStorageBackend(url, storage_options=s3.storage_options)
    )
    with FaultProxy(s3.endpoint) as proxy:
        proxy.rule = RULES["write"]
        said = refused(url, {**s3.storage_options, "endpoint_url": proxy.url})

    assert "cannot write" in said
