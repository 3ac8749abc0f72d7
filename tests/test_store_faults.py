"""Whole evaluations on an object store that misbehaves: all records there, none twice, or a clear error and no loss."""

from __future__ import annotations

import time
from uuid import uuid4

import killed_run
import pyarrow.parquet as pq
import pytest
from fault_proxy import NO_ACCESS, FaultProxy, Trouble

from themis.backends import FsspecStorageBackend
from themis.errors import StorageError

ROWS = 120
FEW_SECONDS = 2.0
"""For how long a request to the store is tried again in these tests."""


@pytest.fixture
def proxy(s3):
    """What stands between the storage and S3."""
    with FaultProxy(s3.endpoint) as fault_proxy:
        yield fault_proxy


@pytest.fixture
def behind(s3, proxy):
    """Makes storages on one new place, behind the proxy."""
    url = s3.new_url()

    def make(**options):
        given = {**s3.storage_options, "endpoint_url": proxy.url}
        return killed_run.Noting(url, storage_options=given, flush_seconds=0.2, **options)

    return make


@pytest.fixture(scope="module")
def whole():
    """The same evaluation where nothing goes wrong."""
    return killed_run.call(ROWS, FsspecStorageBackend(f"memory://{uuid4().hex}"))


def evaluate(storage, latency=0.02, **options):
    """The evaluation, long enough for several flushes."""
    return killed_run.call(ROWS, storage, latency, max_workers=4, **options)


def half_way(then):
    """Calls `then` once, when forty answers are there: by the clock it might be before the run has begun."""
    return lambda update: then() if update.n_done == 40 else None


def ids(storage, kind="generations"):
    """The ids that a reader finds, sorted."""
    return sorted(storage.scan("run", kind, ["id"])["id"].to_pylist())


def raw_rows(s3, storage, kind):
    """(launch, seq) of every row of every part, read beneath the class under test and past the proxy."""
    import s3fs

    fs = s3fs.S3FileSystem(**s3.storage_options, use_listings_cache=False, skip_instance_cache=True)
    rows = []
    for path in fs.find(f"{storage._place.url}/run/{kind}"):
        with fs.open(path) as file:
            table = pq.read_table(file, columns=["launch", "seq"])
        rows += zip(table["launch"].to_pylist(), table["seq"].to_pylist(), strict=True)
    return rows


TROUBLES = {
    "503": Trouble("status"),
    "dropped before it was done": Trouble("drop_before"),
    "dropped after it was done": Trouble("drop_after"),
    "half an answer": Trouble("truncate"),
    "late": Trouble("delay", seconds=0.2),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_now_and_then_changes_nothing(name, behind, proxy, s3, whole):
    """With every seventh request of one kind of trouble, writes and reads alike, all is there and each row once."""
    with behind() as storage:
        proxy.rule = lambda method, path, number: TROUBLES[name] if number % 7 == 6 else None
        result = evaluate(storage)
        metrics, generations, evaluations = result.report.metrics, ids(storage), ids(storage, "evaluations")

    assert {"PUT", "GET"} <= {seen.method for seen in proxy.met()}
    assert result.report.status == "complete"
    assert metrics == whole.report.metrics
    assert (generations, evaluations) == (ids(whole.storage), ids(whole.storage, "evaluations"))
    for kind in ("generations", "evaluations"):
        rows = raw_rows(s3, storage, kind)
        assert len(rows) == len(set(rows)) == ROWS


def test_ten_bad_seconds_are_outlasted(behind, proxy, whole):
    """A store that answers 503 to everything for ten seconds in the middle of a run costs time and nothing else."""

    def begin():
        until = time.monotonic() + 10
        proxy.rule = lambda *_: Trouble("status") if time.monotonic() < until else None

    with behind() as storage:
        result = evaluate(storage, on_result=half_way(begin))
        assert ids(storage) == ids(whole.storage)

    assert len(proxy.met("status")) > 3
    assert result.report.status == "complete"
    assert result.report.metrics == whole.report.metrics


FOR_EVER = {
    "503": (Trouble("status"), "reduce your request rate|does not answer"),
    "dropped": (Trouble("drop_before"), "does not answer"),
    "no permission any more": (Trouble("status", 403, NO_ACCESS), "no permission"),
}


@pytest.mark.parametrize("name", FOR_EVER)
def test_a_store_that_stays_broken_is_an_error_and_no_loss(name, behind, proxy, s3, whole, monkeypatch):
    """It ends soon by a StorageError that says why; all that was accepted is stored once the store is well."""
    trouble, says = FOR_EVER[name]

    def break_it():
        monkeypatch.setattr("themis.backends._place.FIRST_ANSWER", FEW_SECONDS)
        proxy.rule = lambda *_: trouble

    storage = behind(retry_seconds=FEW_SECONDS)
    began = time.monotonic()
    with pytest.raises(StorageError, match=says):
        evaluate(storage, on_result=half_way(break_it))
    took = time.monotonic() - began
    monkeypatch.undo()
    proxy.rule = None
    storage.close()

    assert proxy.met()
    assert took < 20
    assert storage.accepted
    reader = FsspecStorageBackend(storage._place.url, storage_options=s3.storage_options)
    assert ids(reader) == sorted(storage.accepted)
    resumed = evaluate(reader)
    assert resumed.n_stored == len(storage.accepted)
    assert resumed.report.metrics == whole.report.metrics


def test_a_bucket_that_vanishes_is_an_error_and_no_loss(s3, whole):
    """It ends by a StorageError that says to make the bucket; made again, it gets all that was accepted."""
    client, bucket = s3.client(), f"vanishing-{uuid4().hex[:8]}"
    client.create_bucket(Bucket=bucket)
    options = s3.storage_options
    storage = killed_run.Noting(
        f"s3://{bucket}/runs", storage_options=options, flush_seconds=60, retry_seconds=FEW_SECONDS
    )

    def vanish(update):
        if update.n_done == 40:
            for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
                client.delete_object(Bucket=bucket, Key=entry["Key"])
            client.delete_bucket(Bucket=bucket)

    with pytest.raises(StorageError, match=f"{bucket}.*make the bucket"):
        killed_run.call(ROWS, storage, max_workers=4, on_result=vanish)
    client.create_bucket(Bucket=bucket)
    storage.close()

    reader = FsspecStorageBackend(storage._place.url, storage_options=options)
    assert ids(reader) == sorted(storage.accepted) == ids(whole.storage)


def test_a_store_that_gives_half_answers_for_ever_is_never_believed(behind, proxy, s3, whole, monkeypatch):
    """Reading where every answer is cut ends soon by a StorageError, and never by fewer records."""
    with FsspecStorageBackend(behind()._place.url, storage_options=s3.storage_options) as writer:
        evaluate(writer, latency=0)
    monkeypatch.setattr("themis.backends._place.FIRST_ANSWER", FEW_SECONDS)
    reader = behind(retry_seconds=FEW_SECONDS)
    proxy.rule = lambda method, *_: Trouble("truncate") if method == "GET" else None
    began = time.monotonic()
    with pytest.raises(StorageError):
        reader.load_generation_records("run")

    assert time.monotonic() - began < 20
    monkeypatch.undo()
    proxy.rule = None
    assert ids(reader) == ids(whole.storage)
