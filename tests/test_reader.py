"""Reading a run: columns, conditions, one record after the other, ids; beside writers, and over older versions."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from pathlib import Path
from uuid import uuid4

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from themis import arrow
from themis.backends import FsspecStorageBackend, copy_run
from themis.backends._place import Place
from themis.errors import RunNotFoundError, StorageError, UsageError
from themis.records import EvaluationRecord, GenerationRecord
from themis.testing._records import ODD_TEXT, full_evaluation, full_generation, full_report, samples

FORMATS = ["parquet", "jsonl"]


def generation(number, **fields):
    """A small generation."""
    return GenerationRecord(**{"id": f"{number:032x}", "prompt": "p", "response": f"r{number}", **fields})


def by_id(records):
    """Records sorted by id."""
    return sorted(records, key=lambda record: record.id)


def mixed_run(storage, count=60):
    """Generations in several parts and pending, a third of them errors that were asked again, some still errors."""
    for number in range(count):
        if number % 3 == 0:
            storage.save_generation_record("run", generation(number, status="error", response=None, error_kind="model"))
        if number % 10 == 0:
            storage.flush()
        if number % 6:
            storage.save_generation_record("run", generation(number, latency=float(number)))


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_condition_is_asked_of_the_winners(tmp_path, format_name):
    """Scan with a condition gives the records for which it holds, never a row that another one superseded."""
    with FsspecStorageBackend(tmp_path, format=format_name) as storage:
        mixed_run(storage)
        errors = storage.scan("run", "generations", ["id"], where=pc.field("status") == "error")
        slow = storage.scan("run", "generations", ["latency", "id"], where=pc.field("latency") > 50)
        none = storage.scan("run", "generations", ["id"], where=pc.field("latency") > 500)

    assert sorted(errors["id"].to_pylist()) == [f"{number:032x}" for number in range(0, 60, 6)]
    assert slow.column_names == ["latency", "id"]
    assert sorted(slow["latency"].to_pylist()) == [51.0, 52.0, 53.0, 55.0, 56.0, 57.0, 58.0, 59.0]
    assert (none.num_rows, none.column_names) == (0, ["id"])


def test_a_condition_that_cannot_be_asked_is_a_usage_error(tmp_path):
    """A condition on a column that there is not says so; a missing run is RunNotFoundError as ever."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation(1))
        with pytest.raises(UsageError, match="speed"):
            storage.scan("run", "generations", where=pc.field("speed") > 1)
        with pytest.raises(RunNotFoundError):
            storage.scan("other", "generations", where=pc.field("latency") > 1)
        with pytest.raises(RunNotFoundError):
            next(storage.iter_generation_records("other"))


@pytest.mark.parametrize("format_name", FORMATS)
def test_records_one_after_the_other_are_those_of_the_list(tmp_path, format_name):
    """The iterators give exactly what the lists hold, of every kind, pending and in parts."""
    with FsspecStorageBackend(tmp_path, format=format_name) as storage:
        mixed_run(storage)
        storage.save_samples("run", samples())
        storage.save_evaluation_record("run", full_evaluation())

        assert by_id(storage.iter_generation_records("run")) == by_id(storage.load_generation_records("run"))
        assert by_id(storage.iter_samples("run")) == samples()
        assert list(storage.iter_evaluation_records("run")) == [full_evaluation()]


def test_records_that_are_taken_slowly_survive_a_compaction(tmp_path):
    """An iterator in whose middle all parts are merged goes on without missing or doubling a record."""
    with FsspecStorageBackend(tmp_path) as storage:
        for number in range(20):
            storage.save_generation_record("run", generation(number))
            storage.flush()
        records = FsspecStorageBackend(tmp_path).iter_generation_records("run")
        first = [next(records) for _ in range(5)]
        storage.compact("run")

        assert sorted(record.response for record in [*first, *records]) == sorted(f"r{n}" for n in range(20))


def test_the_iterator_holds_one_row_group(tmp_path):
    """40,000 records of 1 kB, read one by one, never hold more than a fraction of them."""
    with FsspecStorageBackend(tmp_path, flush_rows=1000) as storage:
        for start in range(0, 40_000, 1000):
            block = [generation(start + n, response=f"{start + n:01000d}") for n in range(1000)]
            storage.save_generation_records("run", block)
            storage.flush()
    pool = pa.default_memory_pool()
    before, highest = pool.bytes_allocated(), 0
    tracemalloc.start()
    for count, _ in enumerate(FsspecStorageBackend(tmp_path).iter_generation_records("run"), 1):
        if count % 500 == 0:
            highest = max(highest, pool.bytes_allocated() - before)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 40_000
    assert highest < 8e6
    assert python < 16e6


def test_ids_of_what_stands(tmp_path):
    """ids() has every id, and without some kinds of error those whose last record is none; both as 16 sorted bytes."""
    with FsspecStorageBackend(tmp_path) as storage:
        mixed_run(storage)
        everything = storage.ids("run", "generations")
        settled = storage.ids("run", "generations", without_errors=["model"])

    assert len(everything) == 60
    assert [f"{number:032x}" in settled for number in range(60)] == [number % 6 != 0 for number in range(60)]
    assert settled.keys.nbytes == 16 * len(settled) == 16 * 50
    assert storage.values("run", "generations", "error_kind") == {"model"}


class Requests:
    """Notes the bytes that a place fetches."""

    def __init__(self, storage, monkeypatch):
        self.nbytes = 0
        for name in ("read", "read_range"):
            monkeypatch.setattr(storage._place, name, self._noting(getattr(storage._place, name)))

    def _noting(self, read):
        def noting(*arguments):
            data = read(*arguments)
            self.nbytes += len(data)
            return data

        return noting


def test_a_column_of_an_object_is_fetched_alone(s3, monkeypatch):
    """On an object store a scan of one column fetches a small part of large parts, with and without a condition."""
    rng = random.Random(1)
    storage = FsspecStorageBackend(s3.new_url(), storage_options=s3.storage_options)
    records = [generation(rng.getrandbits(128), response=rng.randbytes(600).hex(), latency=0.5) for _ in range(5000)]
    storage.save_generation_records("run", records)
    storage.close()
    size = sum(storage._place.files("run/generations").values())
    fetched = Requests(storage, monkeypatch)
    table = storage.scan("run", "generations", ["latency"])

    assert table["latency"].to_pylist() == [0.5] * 5000
    assert 0 < fetched.nbytes < size / 10
    fetched.nbytes = 0
    found = storage.scan("run", "generations", ["latency"], where=pc.field("id") == records[7].id)
    assert found["latency"].to_pylist() == [0.5]
    assert fetched.nbytes < size / 4


def test_a_truncated_read_is_noticed(s3, monkeypatch):
    """A range that comes back shorter than it was asked for is an error, never a wrong value."""
    storage = FsspecStorageBackend(s3.new_url(), storage_options=s3.storage_options)
    block = [generation(n, response=os.urandom(600).hex()) for n in range(2000)]
    storage.save_generation_records("run", block)
    storage.close()
    real = Place.read_range
    monkeypatch.setattr(Place, "read_range", lambda self, path, start, end: real(self, path, start, end)[:-1])

    with pytest.raises(StorageError):
        storage.scan("run", "generations", ["latency"])


def test_a_part_of_an_older_version_is_read(tmp_path):
    """Parts without a checksum in their name, without some columns and with narrower types, give records."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_records("run", [generation(1, attempts=3), generation(2)])
    (part,) = tmp_path.glob("run/generations/*")
    table = pq.read_table(part).drop_columns(["reasoning", "metadata", "model_served"])
    table = table.set_column(table.column_names.index("attempts"), "attempts", table["attempts"].cast(pa.int32()))
    part.unlink()
    pq.write_table(table, part.with_name("-".join(part.name.split("-")[:3]) + ".parquet"))

    reader = FsspecStorageBackend(tmp_path)
    assert [record.attempts for record in by_id(reader.load_generation_records("run"))] == [3, 0]
    assert by_id(reader.iter_generation_records("run"))[0].metadata == {}
    found = reader.scan("run", "generations", ["attempts", "reasoning"], where=pc.field("attempts") == 3)
    assert found.to_pylist() == [{"attempts": 3, "reasoning": None}]


def test_json_lines_of_an_older_version_are_read(tmp_path):
    """A journal and a part of JSON lines as the first version wrote them give their records."""
    row = {"id": "1", "prompt": "p", "response": "r", "launch": "000001-ab", "seq": 0}
    folder = tmp_path / "run"
    for name in ("generations/000001-ab-000000.jsonl", "journal/000001-ab-000001.generations.jsonl"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps({**row, "id": name[0]}) + "\n")

    storage = FsspecStorageBackend(tmp_path)
    assert [record.id for record in by_id(storage.load_generation_records("run"))] == ["g", "j"]


# -- other tools


LAST_ROWS = """
    SELECT id, response FROM read_parquet('{}/*/generations/*.parquet', union_by_name = true)
    QUALIFY row_number() OVER (
        PARTITION BY run_id, id ORDER BY (status = 'ok') DESC, launch DESC, seq DESC
    ) = 1
"""


def test_other_tools_find_the_same_winners(tmp_path):
    """After a flush DuckDB and Polars give, by the documented queries, what our reader gives, also compacted."""
    with FsspecStorageBackend(tmp_path) as storage:
        for launch in range(2):
            with FsspecStorageBackend(tmp_path) as writer:
                mixed_run(writer)
                writer.save_generation_record("run", generation(1, response=f"launch {launch}"))
        for keep in (None, True, False):
            if keep is not None:
                storage.compact("run", keep_replaced=keep)
            ours = {record.id: record.response for record in storage.load_generation_records("run")}
            frame = (
                pl.scan_parquet(f"{tmp_path}/*/generations/*.parquet")
                .sort(pl.col("status") == "ok", "launch", "seq", descending=True)
                .unique(["run_id", "id"], keep="first", maintain_order=True)
                .collect()
            )
            assert dict(duckdb.sql(LAST_ROWS.format(tmp_path)).fetchall()) == ours
            assert dict(frame.select("id", "response").iter_rows()) == ours
        assert ours[f"{1:032x}"] == "launch 1"


# -- export and copies


@pytest.mark.parametrize("name", ["records.parquet", "records.jsonl", "records.csv", "plain"])
def test_an_export_is_one_file_with_each_record_once(tmp_path, name):
    """What is exported holds every winning record and its fields, and the count is returned."""
    with FsspecStorageBackend(tmp_path / "runs") as storage:
        mixed_run(storage)
        storage.save_generation_record("run", full_generation())
        target = tmp_path / name
        options = {"format": "jsonl"} if name == "plain" else {}
        assert storage.export("run", "generations", target, **options) == 61
        expected = {record.id: record.response for record in storage.load_generation_records("run")}

    reader = {".parquet": "read_parquet", ".csv": "read_csv"}.get(target.suffix, "read_json")
    more = ", all_varchar = true" if reader == "read_csv" else ""
    rows = duckdb.sql(f"SELECT id, response, metadata FROM {reader}('{target}'{more})").fetchall()
    assert {row[0]: row[1] for row in rows} == expected
    (odd,) = [row[2] for row in rows if row[0] == full_generation().id]
    assert "nested" in str(odd)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "runs"])


def test_an_export_to_a_store_and_to_nowhere(tmp_path, s3):
    """A URL is as good as a path, with the environment's credentials; an unknown format names those that there are."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation(1))
        target = f"memory://{uuid4().hex}/x.jsonl"
        assert storage.export("run", "generations", target) == 1
        with pytest.raises(UsageError, match=r"csv.*jsonl.*parquet"):
            storage.export("run", "generations", tmp_path / "x.xlsx")
        with pytest.raises(RunNotFoundError):
            storage.export("other", "generations", tmp_path / "x.csv")
    folder, _, name = target.rpartition("/")
    assert json.loads(Place(folder).read(name))["response"] == "r1"
    assert not Path(tmp_path / "x.csv").exists()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_copy_has_all_that_the_run_has(tmp_path, format_name):
    """A run copied into another place and format has the same records, metadata, report and state."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_run_metadata("run", {"seed": 7})
        mixed_run(storage)
        storage.save_generation_record("run", generation(99, prompt=ODD_TEXT, metadata={"a": "\ud800"}))
        storage.save_samples("run", samples())
        storage.save_evaluation_records("run", [full_evaluation(), EvaluationRecord("e", "g", "m", score=1.0)])
        storage.save_report("run", full_report())
        storage.save_launch("run", {"status": "complete"})
        with FsspecStorageBackend(f"memory://{uuid4().hex}", format=format_name) as target:
            copy_run(storage, "run", target)

            for load in ("load_generation_records", "load_evaluation_records", "load_samples"):
                assert by_id(getattr(target, load)("run")) == by_id(getattr(storage, load)("run"))
            assert target.load_report("run") == full_report()
            assert target.load_run_metadata("run") == {"seed": 7}
            assert target.run_info("run").state == "complete"


def test_the_default_methods_work_on_any_storage():
    """A storage with only the abstract methods has conditions, iterators, ids, values and exports."""
    from test_storage_contract import DictStorage

    storage = DictStorage()
    mixed_run(storage)
    assert storage.scan("run", "generations", ["id"], where=pc.field("latency") > 58).num_rows == 1
    assert len(list(storage.iter_generation_records("run"))) == 60
    assert len(storage.ids("run", "generations", without_errors=["model"])) == 50
    assert storage.values("run", "generations", "error_kind") == {"model"}
    assert arrow.schema("generations").names == storage.scan("run", "generations").column_names
