"""The storage contract over every shipped storage, over a class with just the abstract methods, over broken ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from dataclasses import replace
from uuid import uuid4

import pytest

from themis.backends.fsspec import FsspecStorageBackend, LocalFileStorageBackend
from themis.backends.storage import StorageBackend, check_run_id
from themis.errors import ReportNotFoundError, RunNotFoundError
from themis.records import EvaluationRecord, GenerationRecord, Report
from themis.testing._records import full_evaluation, full_generation, full_report
from themis.testing.storage import StorageBackendTests


class DictStorage(StorageBackend):
    """What a user might write: the eleven abstract methods over a dict, and no `super().__init__()`."""

    def __init__(self):
        self.runs = {}
        self.lock = threading.Lock()

    def save_run_metadata(self, run_id, metadata):
        self._run(run_id, create=True)["metadata"] = metadata

    def load_run_metadata(self, run_id):
        return self._run(run_id)["metadata"]

    def save_generation_record(self, run_id, record):
        self._save(run_id, "generations", record)

    def load_generation_records(self, run_id):
        return list(self._run(run_id)["generations"].values())

    def save_evaluation_record(self, run_id, record):
        self._save(run_id, "evaluations", record)

    def load_evaluation_records(self, run_id):
        return list(self._run(run_id)["evaluations"].values())

    def save_report(self, run_id, report):
        self._run(run_id, create=True)["report"] = report

    def load_report(self, run_id):
        if self._run(run_id)["report"] is None:
            raise ReportNotFoundError(f"run {run_id} has no report")
        return self._run(run_id)["report"]

    def list_runs(self):
        return sorted(self.runs)

    def run_exists(self, run_id):
        return check_run_id(run_id) in self.runs

    def delete_run(self, run_id):
        self._run(run_id)
        del self.runs[run_id]

    def _save(self, run_id, kind, record):
        records = self._run(run_id, create=True)[kind]
        with self.lock:
            stored = records.get(record.id)
            if stored is None or stored.status != "ok" or record.status == "ok":
                records[record.id] = record

    def _run(self, run_id, *, create=False):
        check_run_id(run_id)
        with self.lock:
            if create:
                empty = {"metadata": {}, "generations": {}, "evaluations": {}, "report": None}
                self.runs.setdefault(run_id, empty)
            if run_id not in self.runs:
                raise RunNotFoundError(f"no run {run_id}")
            return self.runs[run_id]


class FsspecContract(StorageBackendTests):
    """What the shipped storages state beyond the abstract methods."""

    picklable = True
    keeps_samples = True
    keeps_launches = True
    format = "parquet"

    def make(self, url, **options):
        return FsspecStorageBackend(url, format=self.format, **options)

    def reopen(self, storage):
        return self.make(storage._place.url, storage_options=storage._place.options)


class TestParquetOnDisk(FsspecContract):
    @pytest.fixture
    def storage(self, tmp_path):
        with LocalFileStorageBackend(tmp_path / "runs") as backend:
            yield backend


class TestJsonLinesOnDisk(FsspecContract):
    format = "jsonl"

    @pytest.fixture
    def storage(self, tmp_path):
        with self.make((tmp_path / "runs").as_uri()) as backend:
            yield backend


class TestParquetInMemory(FsspecContract):
    @pytest.fixture
    def storage(self):
        with self.make(f"memory://{uuid4().hex}/runs") as backend:
            yield backend


class TestJsonLinesInMemory(FsspecContract):
    format = "jsonl"

    @pytest.fixture
    def storage(self):
        with self.make(f"memory://{uuid4().hex}/runs") as backend:
            yield backend


class TestParquetOnS3(FsspecContract):
    @pytest.fixture
    def storage(self, s3):
        with self.make(s3.new_url(), storage_options=s3.storage_options) as backend:
            yield backend


class TestJsonLinesOnS3(FsspecContract):
    format = "jsonl"

    @pytest.fixture
    def storage(self, s3):
        with self.make(s3.new_url(), storage_options=s3.storage_options) as backend:
            yield backend


class TestParquetOnAzure(FsspecContract):
    @pytest.fixture
    def storage(self, azure):
        with self.make(azure.new_url(), storage_options=azure.storage_options) as backend:
            yield backend


class TestParquetOnGcs(FsspecContract):
    @pytest.fixture
    def storage(self, gcs):
        with self.make(gcs.new_url(), storage_options=gcs.storage_options) as backend:
            yield backend


class TestOnlyTheAbstractMethods(StorageBackendTests):
    @pytest.fixture
    def storage(self):
        return DictStorage()


class LosesTheLastOfMany(DictStorage):
    def load_generation_records(self, run_id):
        return super().load_generation_records(run_id)[:150]


class GivesDuplicates(DictStorage):
    def load_evaluation_records(self, run_id):
        return [record for record in super().load_evaluation_records(run_id) for _ in range(1 + record.repeat)]


class KeepsEverySave(DictStorage):
    def _save(self, run_id, kind, record):
        self._run(run_id, create=True)[kind][len(self.runs[run_id][kind])] = record


class DeletesByPrefix(DictStorage):
    def delete_run(self, run_id):
        self._run(run_id)
        for other in [other for other in self.runs if other.startswith(run_id)]:
            del self.runs[other]


class InventsMissingRuns(DictStorage):
    def load_generation_records(self, run_id):
        check_run_id(run_id)
        return super().load_generation_records(run_id) if run_id in self.runs else []


class LastAlwaysWins(DictStorage):
    def _save(self, run_id, kind, record):
        self._run(run_id, create=True)[kind][record.id] = record


class FirstAlwaysWins(DictStorage):
    def _save(self, run_id, kind, record):
        self._run(run_id, create=True)[kind].setdefault(record.id, record)


class ForgetsAField(DictStorage):
    def save_generation_record(self, run_id, record):
        super().save_generation_record(run_id, replace(record, reasoning_tokens=None))


class ReadsTargetsAsJson(DictStorage):
    def save_evaluation_record(self, run_id, record):
        with contextlib.suppress(TypeError, ValueError):
            record = replace(record, target=json.loads(record.target))
        super().save_evaluation_record(run_id, record)


class TakesAnyRunId(DictStorage):
    def save_generation_record(self, run_id, record):
        if len(run_id) <= 128:
            super().save_generation_record(run_id, record)


class KeepsOneReportForAll(DictStorage):
    def load_report(self, run_id):
        self._run(run_id)
        return full_report()


BROKEN = {
    LosesTheLastOfMany: {"test_all_of_many_records_are_there_once", "test_threads_may_save_at_once"},
    GivesDuplicates: {
        "test_every_field_of_an_evaluation_is_kept",
        "test_another_object_reads_what_was_flushed",
    },
    KeepsEverySave: {
        "test_the_last_record_of_an_id_wins",
        "test_an_error_does_not_replace_a_success",
        "test_a_success_replaces_an_error",
        "test_scan_gives_the_records_as_a_table",
        "test_a_condition_is_asked_of_the_records",
    },
    DeletesByPrefix: {"test_deleting_a_run_leaves_its_neighbours"},
    InventsMissingRuns: {"test_a_missing_run_is_an_error", "test_iterators_give_what_lists_hold"},
    LastAlwaysWins: {"test_an_error_does_not_replace_a_success"},
    FirstAlwaysWins: {
        "test_the_last_record_of_an_id_wins",
        "test_a_success_replaces_an_error",
        "test_scan_gives_the_records_as_a_table",
        "test_a_condition_is_asked_of_the_records",
    },
    ForgetsAField: {"test_every_field_of_a_generation_is_kept", "test_another_object_reads_what_was_flushed"},
    ReadsTargetsAsJson: {"test_a_target_is_text_or_a_list_as_it_was"},
    TakesAnyRunId: {"test_a_bad_run_id_is_a_usage_error"},
    KeepsOneReportForAll: {"test_a_missing_report_is_an_error", "test_a_deleted_run_is_gone"},
}


def failing(make):
    """The names of the contract's tests that a class fails."""
    suite = StorageBackendTests()
    names = set()
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)(make())
            except pytest.skip.Exception:
                continue
            except Exception:
                names.add(name)
    return names


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_storage_fails_where_it_is_broken(broken):
    """A storage with one defect fails exactly the tests of the promise that it breaks."""
    assert failing(broken) == BROKEN[broken]


@pytest.mark.parametrize(
    ("record", "kind"),
    [(full_generation(), GenerationRecord), (full_evaluation(), EvaluationRecord), (full_report(), Report)],
)
def test_the_records_of_the_suite_leave_no_field_at_its_default(record, kind):
    """Every field of the full records differs from its default, so that a forgotten one is noticed."""
    for field in dataclasses.fields(kind):
        value = getattr(record, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default

        assert value != default, field.name
