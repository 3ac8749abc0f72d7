"""Fixtures that several test files share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest


@dataclass(frozen=True)
class S3:
    """An S3 server over loopback with one bucket, and how to reach it."""

    endpoint: str
    bucket: str = "themis-tests"
    key: str = "test-key"
    secret: str = field(default="test-secret", repr=False)

    @property
    def storage_options(self) -> dict:
        """What fsspec needs, given outright."""
        region = {"region_name": "us-east-1"}
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": self.endpoint,
            "client_kwargs": region,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_url(self) -> str:
        """A folder in the bucket that nobody else uses."""
        return f"s3://{self.bucket}/{uuid4().hex}"


@pytest.fixture(scope="session")
def s3():
    """A moto server in a process of its own, stopped at the end of the session."""
    boto3 = pytest.importorskip("boto3")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        place = S3(f"http://127.0.0.1:{port}")
        _wait_for(f"{place.endpoint}/moto-api/", server)
        client = boto3.client(
            "s3",
            endpoint_url=place.endpoint,
            aws_access_key_id=place.key,
            aws_secret_access_key=place.secret,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=place.bucket)
        yield place
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def s3_environment(s3, monkeypatch):
    """The S3 server, found through the environment for the length of a test."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


def _wait_for(url, server, seconds=30.0):
    """Return when the URL answers; fail when the server ended or took too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended before it answered"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise AssertionError(f"{url} did not answer within {seconds} s")


@pytest.fixture(scope="session")
def ray_session():
    """One real Ray on this machine for the whole session, stopped at its end."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def benchmark_data():
    """The folder of real benchmark data that $THEMIS_DATA names."""
    folder = Path(os.environ.get("THEMIS_DATA", "nowhere"))
    if not (folder / "gsm8k" / "test.jsonl").is_file():
        pytest.skip("THEMIS_DATA names no folder with the benchmarks' data")
    return folder
