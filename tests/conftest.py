"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import object_stores
import pytest


def pytest_collection_modifyitems(items):
    """Mark what uses the session's Ray: tests/check.py runs the others beside it."""
    for item in items:
        if "ray_session" in item.fixturenames:
            item.add_marker("ray")


@pytest.fixture(scope="session")
def s3():
    """A moto server in a process of its own, stopped at the end of the session."""
    with object_stores.s3_server() as store:
        yield store


@pytest.fixture(scope="session")
def azure():
    """An azurite in a process of its own, stopped at the end of the session."""
    with contextlib.ExitStack() as stack:
        try:
            store = stack.enter_context(object_stores.azure_server())
        except object_stores.Unavailable as error:
            pytest.skip(str(error))
        yield store


@pytest.fixture(scope="session")
def gcs():
    """A GCS emulator in a process of its own, stopped at the end of the session."""
    with object_stores.gcs_server() as store:
        yield store


@pytest.fixture
def s3_environment(s3, monkeypatch):
    """The S3 server, found through the environment for the length of a test."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


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
def no_new_threads(monkeypatch):
    """No thread can be started, as at the end of a program."""

    def refuse(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.fixture
def benchmark_data():
    """The folder of real benchmark data that $THEMIS_DATA names."""
    folder = Path(os.environ.get("THEMIS_DATA", "nowhere"))
    if not (folder / "gsm8k" / "test.jsonl").is_file():
        pytest.skip("THEMIS_DATA names no folder with the benchmarks' data")
    return folder
