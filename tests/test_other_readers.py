"""DuckDB and Polars read the parts in place while a run is going, and agree with our own reader after a flush."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import duckdb
import killed_run
import polars as pl

from themis.backends import FsspecStorageBackend
from themis.records import GenerationRecord

ROWS = 150
PAGE = Path(__file__).parents[1] / "docs" / "storage.md"


def documented_sql(root):
    """The query of docs/storage.md that keeps the winning row of each id, over the runs below a folder."""
    (query,) = re.findall(r'winners = """(.*?)"""', PAGE.read_text("utf-8"), re.DOTALL)
    assert "'runs/*" in query
    return query.replace("'runs/*", f"'{root}/*")


def by_duckdb(root, connection):
    """(run, id, response, status) of the winning rows, by the documented query."""
    query = f"SELECT run_id, id, response, status FROM ({documented_sql(root)})"
    return sorted(connection.sql(query).fetchall())


def by_polars(root):
    """The same by the documented expression."""
    rows = (
        pl.scan_parquet(f"{root}/*/generations/*.parquet")
        .sort(pl.col("status") == "ok", "launch", "seq", descending=True)
        .unique(["run_id", "id"], keep="first", maintain_order=True)
        .select("run_id", "id", "response", "status")
        .collect()
        .rows()
    )
    return sorted(rows)


def by_us(root):
    """The same by our own reader."""
    storage = FsspecStorageBackend(root)
    return sorted(
        (run_id, record.id, record.response, record.status)
        for run_id in storage.list_runs()
        for record in storage.load_generation_records(run_id)
    )


def test_they_read_while_a_run_is_going(tmp_path):
    """Every query during a run succeeds, sees whole rows, never fewer than before, and at the end all of them."""
    run = threading.Thread(target=evaluate_slowly, args=(tmp_path,))
    seen = []
    connection = duckdb.connect()
    run.start()
    while run.is_alive():
        if not list(tmp_path.glob("*/generations/*.parquet")):
            continue
        rows = by_duckdb(tmp_path, connection)
        assert len(by_polars(tmp_path)) >= len(rows)
        assert all(response is not None and status == "ok" for _, _, response, status in rows)
        seen.append(len(rows))
    run.join()

    assert len(set(seen)) > 2, "the run was over before it was read"
    assert seen == sorted(seen)
    assert len(by_duckdb(tmp_path, connection)) == len(by_polars(tmp_path)) == ROWS


def evaluate_slowly(root):
    """A run of a second or two, with a flush every tenth of one."""
    with FsspecStorageBackend(root, flush_seconds=0.1) as storage:
        killed_run.call(ROWS, storage, 0.04, max_workers=4)


def test_they_agree_with_our_reader(tmp_path):
    """With errors before and after successes, many writers, two runs and a compaction, all three give the same rows."""
    connection = duckdb.connect()
    for writer in range(4):
        with FsspecStorageBackend(tmp_path, flush_rows=7) as storage:
            for run_id in ("run", "run2"):
                for number in range(20):
                    failed = (number + writer) % 3 == 0
                    fields = {"status": "error", "error_kind": "infrastructure"} if failed else {}
                    response = None if failed else f"{writer}"
                    storage.save_generation_record(run_id, GenerationRecord(str(number), "p", response, **fields))
            storage.flush()
            assert by_duckdb(tmp_path, connection) == by_polars(tmp_path) == by_us(tmp_path)
    before = by_us(tmp_path)
    FsspecStorageBackend(tmp_path).compact("run")

    assert len(before) == 40
    assert by_duckdb(tmp_path, connection) == by_polars(tmp_path) == by_us(tmp_path) == before
