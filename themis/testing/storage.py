"""The contract of StorageBackend as tests that any class can inherit."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from themis.errors import ReportNotFoundError, RunNotFoundError, UsageError
from themis.testing._records import (
    LONG_TEXT,
    ODD_TEXT,
    evaluation,
    full_evaluation,
    full_generation,
    full_report,
    generation,
    samples,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from themis.backends.storage import StorageBackend


class StorageBackendTests:
    """Inherit in a test file and give a fixture `storage`: a fresh, empty backend for each test.

        class TestMyStorage(StorageBackendTests):
            @pytest.fixture
            def storage(self, tmp_path):
                return MyStorage(tmp_path)

    Only the eleven abstract methods are needed. What a class does beyond them it says by the attributes below.
    """

    picklable: ClassVar[bool] = False
    """A pickled copy reads and writes the same runs, at least in the same process."""

    keeps_samples: ClassVar[bool] = False
    """save_samples and load_samples are more than their defaults."""

    keeps_launches: ClassVar[bool] = False
    """save_launch and load_launches are more than their defaults."""

    def reopen(self, storage: StorageBackend) -> StorageBackend:
        """A second object on the same place, as another process would make it. The default is the same object."""
        return storage

    def test_a_saved_generation_is_read_back_at_once(self, storage: StorageBackend) -> None:
        """What save_generation_record was given is what load_generation_records returns, without a flush."""
        storage.save_generation_record("test-run", generation("g1"))
        assert storage.load_generation_records("test-run") == [generation("g1")]

    def test_a_saved_evaluation_is_read_back_at_once(self, storage: StorageBackend) -> None:
        """What save_evaluation_record was given is what load_evaluation_records returns, without a flush."""
        storage.save_evaluation_record("test-run", evaluation("e1"))
        assert storage.load_evaluation_records("test-run") == [evaluation("e1")]

    def test_every_field_of_a_generation_is_kept(self, storage: StorageBackend) -> None:
        """A generation with every field filled comes back equal, field by field."""
        storage.save_generation_record("run", full_generation())
        (loaded,) = storage.load_generation_records("run")
        assert _different(full_generation(), loaded) == []

    def test_every_field_of_an_evaluation_is_kept(self, storage: StorageBackend) -> None:
        """An evaluation with every field filled comes back equal, field by field."""
        storage.save_evaluation_record("run", full_evaluation())
        (loaded,) = storage.load_evaluation_records("run")
        assert _different(full_evaluation(), loaded) == []

    def test_missing_values_stay_none(self, storage: StorageBackend) -> None:
        """A generation without a response, and an evaluation without a score, come back with None."""
        failed = generation("g", response=None, status="error", error_kind="infrastructure")
        unscored = evaluation("e", score=None, answer=None, status="error", error_kind="scorer")
        storage.save_generation_record("run", failed)
        storage.save_evaluation_record("run", unscored)
        assert storage.load_generation_records("run") == [failed]
        assert storage.load_evaluation_records("run") == [unscored]

    def test_a_target_is_text_or_a_list_as_it_was(self, storage: StorageBackend) -> None:
        """A target that is text, text that looks like JSON, a list, or None keeps its type."""
        targets = ["42", '["a"]', "null", "", ["a", "b"], [], None]
        for number, target in enumerate(targets):
            storage.save_evaluation_record("run", evaluation(f"e{number}", target=target))
        loaded = {record.id: record.target for record in storage.load_evaluation_records("run")}
        assert loaded == {f"e{number}": target for number, target in enumerate(targets)}

    def test_odd_and_long_text_is_kept(self, storage: StorageBackend) -> None:
        """Scripts, quotes, line ends, an empty response and one of 320,000 characters come back as they were."""
        texts = {"odd": ODD_TEXT, "empty": "", "long": LONG_TEXT}
        for name, text in texts.items():
            storage.save_generation_record("run", generation(name, prompt=text, response=text))
        loaded = {record.id: (record.prompt, record.response) for record in storage.load_generation_records("run")}
        assert loaded == {name: (text, text) for name, text in texts.items()}

    def test_all_of_many_records_are_there_once(self, storage: StorageBackend) -> None:
        """200 generations and as many evaluations, saved one by one, come back complete, each id once."""
        for number in range(200):
            storage.save_generation_record("run", generation(f"g{number}"))
            storage.save_evaluation_record("run", evaluation(f"e{number}"))
        generations = [record.id for record in storage.load_generation_records("run")]
        evaluations = [record.id for record in storage.load_evaluation_records("run")]
        assert sorted(generations) == sorted(f"g{number}" for number in range(200))
        assert sorted(evaluations) == sorted(f"e{number}" for number in range(200))

    def test_several_records_can_be_saved_in_one_call(self, storage: StorageBackend) -> None:
        """save_generation_records and save_evaluation_records keep every record; none of none is fine."""
        storage.save_generation_records("run", [generation(f"g{number}") for number in range(50)])
        storage.save_evaluation_records("run", [evaluation(f"e{number}") for number in range(50)])
        storage.save_generation_records("run", [])
        assert {record.id for record in storage.load_generation_records("run")} == {f"g{n}" for n in range(50)}
        assert {record.id for record in storage.load_evaluation_records("run")} == {f"e{n}" for n in range(50)}

    def test_the_last_record_of_an_id_wins(self, storage: StorageBackend) -> None:
        """Of two generations, or two evaluations, of one id and status the one saved last is loaded, alone."""
        for text in ("first", "second"):
            storage.save_generation_record("run", generation("g", response=text))
            storage.save_evaluation_record("run", evaluation("e", explanation=text))
        assert [record.response for record in storage.load_generation_records("run")] == ["second"]
        assert [record.explanation for record in storage.load_evaluation_records("run")] == ["second"]

    def test_an_error_does_not_replace_a_success(self, storage: StorageBackend) -> None:
        """An error saved after a success of the same id is not what is loaded."""
        storage.save_generation_record("run", generation("g"))
        storage.save_generation_record("run", generation("g", response=None, status="error"))
        storage.save_evaluation_record("run", evaluation("e"))
        storage.save_evaluation_record("run", evaluation("e", score=None, status="error"))
        assert storage.load_generation_records("run") == [generation("g")]
        assert storage.load_evaluation_records("run") == [evaluation("e")]

    def test_a_success_replaces_an_error(self, storage: StorageBackend) -> None:
        """A success saved after an error of the same id is what is loaded."""
        storage.save_generation_record("run", generation("g", response=None, status="error"))
        storage.save_generation_record("run", generation("g"))
        assert storage.load_generation_records("run") == [generation("g")]

    def test_runs_do_not_mix(self, storage: StorageBackend) -> None:
        """The same id in two runs is two records."""
        storage.save_generation_record("run1", generation("g", response="one"))
        storage.save_generation_record("run2", generation("g", response="two"))
        assert [record.response for record in storage.load_generation_records("run1")] == ["one"]
        assert [record.response for record in storage.load_generation_records("run2")] == ["two"]

    def test_generations_and_evaluations_do_not_mix(self, storage: StorageBackend) -> None:
        """A generation and an evaluation of one id live side by side."""
        storage.save_generation_record("run", generation("same"))
        storage.save_evaluation_record("run", evaluation("same"))
        assert storage.load_generation_records("run") == [generation("same")]
        assert storage.load_evaluation_records("run") == [evaluation("same")]

    def test_saving_a_record_makes_the_run_exist(self, storage: StorageBackend) -> None:
        """A generation, an evaluation or metadata alone make a run that exists and is listed."""
        storage.save_generation_record("a", generation("g"))
        storage.save_evaluation_record("b", evaluation("e"))
        storage.save_run_metadata("c", {"benchmark": "gsm8k"})
        assert storage.list_runs() == ["a", "b", "c"]
        assert [storage.run_exists(run_id) for run_id in ("a", "b", "c", "d")] == [True, True, True, False]

    def test_a_run_without_records_has_none(self, storage: StorageBackend) -> None:
        """A run that has only metadata loads as two empty lists."""
        storage.save_run_metadata("run", {})
        assert storage.load_generation_records("run") == []
        assert storage.load_evaluation_records("run") == []

    def test_an_empty_storage_lists_no_runs(self, storage: StorageBackend) -> None:
        """Before anything was saved there are no runs."""
        assert storage.list_runs() == []

    def test_metadata_is_kept_and_replaced(self, storage: StorageBackend) -> None:
        """load_run_metadata returns what save_run_metadata was given last, and nothing of what was given before."""
        storage.save_run_metadata("run", {"old": 1})
        metadata = {"text": ODD_TEXT, "nested": {"list": [1, 2.5, None, True]}, "run_id": "mine", "empty": {}}
        storage.save_run_metadata("run", metadata)
        assert storage.load_run_metadata("run") == metadata

    def test_records_do_not_touch_metadata(self, storage: StorageBackend) -> None:
        """Metadata is the same after a record was saved, and {} for a run that has only records."""
        storage.save_run_metadata("run", {"seed": 7})
        storage.save_generation_record("run", generation("g"))
        storage.save_generation_record("bare", generation("g"))
        assert storage.load_run_metadata("run") == {"seed": 7}
        assert storage.load_run_metadata("bare") == {}

    def test_a_missing_run_is_an_error(self, storage: StorageBackend) -> None:
        """Loading or deleting what does not exist raises RunNotFoundError, and makes nothing exist."""
        storage.save_generation_record("run10", generation("g"))
        for method in (
            storage.load_run_metadata,
            storage.load_generation_records,
            storage.load_evaluation_records,
            storage.load_report,
            storage.load_samples,
            storage.load_launches,
            storage.delete_run,
        ):
            _assert_raises(RunNotFoundError, partial(method, "run1"))
        assert storage.list_runs() == ["run10"]

    def test_a_missing_report_is_an_error(self, storage: StorageBackend) -> None:
        """A run that exists and has no report raises ReportNotFoundError."""
        storage.save_generation_record("run", generation("g"))
        _assert_raises(ReportNotFoundError, lambda: storage.load_report("run"))

    def test_a_report_comes_back_equal(self, storage: StorageBackend) -> None:
        """The report loaded equals the one saved last, its metrics being MetricResults again."""
        storage.save_generation_record("run", generation("g"))
        storage.save_report("run", replace(full_report(), n_rows=1))
        storage.save_report("run", full_report())
        loaded = storage.load_report("run")
        assert _different(full_report(), loaded) == []
        assert loaded.metrics["exact_match"].mean == 0.5

    def test_odd_run_ids_work(self, storage: StorageBackend) -> None:
        """Every id of the allowed characters, up to 128 of them, names a run of its own."""
        run_ids = ["7", "A.b_c-1", "-dash", "a..b", "run.json", "x" * 128]
        for run_id in run_ids:
            storage.save_generation_record(run_id, generation("g", response=run_id))
        assert storage.list_runs() == sorted(run_ids)
        for run_id in run_ids:
            assert [record.response for record in storage.load_generation_records(run_id)] == [run_id]

    def test_a_bad_run_id_is_a_usage_error(self, storage: StorageBackend) -> None:
        """Empty, too long, with a slash, a blank or a letter beyond ASCII, "." and "..": nothing is saved."""
        for run_id in ("", "x" * 129, "a/b", "a b", "ü", ".", ".."):
            _assert_raises(UsageError, partial(storage.save_generation_record, run_id, generation("g")))
            _assert_raises(UsageError, partial(storage.load_generation_records, run_id))
        assert storage.list_runs() == []

    def test_a_deleted_run_is_gone(self, storage: StorageBackend) -> None:
        """After delete_run a run does not exist, and saved to again it has only what is new."""
        storage.save_run_metadata("run", {"seed": 7})
        storage.save_generation_record("run", generation("old"))
        storage.save_evaluation_record("run", evaluation("old"))
        storage.save_report("run", full_report())
        storage.delete_run("run")
        assert not storage.run_exists("run")
        assert storage.list_runs() == []
        storage.save_generation_record("run", generation("new"))
        assert [record.id for record in storage.load_generation_records("run")] == ["new"]
        assert storage.load_evaluation_records("run") == []
        _assert_raises(ReportNotFoundError, lambda: storage.load_report("run"))

    def test_deleting_a_run_leaves_its_neighbours(self, storage: StorageBackend) -> None:
        """Deleting "run1" leaves "run10", "run1.a" and "run" as they were."""
        neighbours = ["run", "run1.a", "run10"]
        for run_id in (*neighbours, "run1"):
            storage.save_generation_record(run_id, generation("g"))
        storage.flush()
        storage.delete_run("run1")
        assert storage.list_runs() == neighbours
        assert all(storage.load_generation_records(run_id) == [generation("g")] for run_id in neighbours)

    def test_threads_may_save_at_once(self, storage: StorageBackend) -> None:
        """Eight threads that save into one run, reading in between, lose and double nothing."""

        def save(thread: int) -> None:
            for number in range(20):
                storage.save_generation_record("run", generation(f"{thread}-{number}"))
            loaded = {record.id for record in storage.load_generation_records("run")}
            assert {f"{thread}-{number}" for number in range(20)} <= loaded

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(save, range(8)))
        ids = [record.id for record in storage.load_generation_records("run")]
        assert sorted(ids) == sorted(f"{thread}-{number}" for thread in range(8) for number in range(20))

    def test_scan_gives_the_records_as_a_table(self, storage: StorageBackend) -> None:
        """The table of scan has one row for each id, with all columns or the named ones in their order."""
        storage.save_generation_record("run", generation("g1", response="first"))
        storage.save_generation_record("run", generation("g1", response="second"))
        storage.save_generation_record("run", generation("g2", response=None, status="error"))
        table = storage.scan("run", "generations", ["response", "id"])
        assert table.column_names == ["response", "id"]
        rows = sorted(zip(table["id"].to_pylist(), table["response"].to_pylist(), strict=True))
        assert rows == [("g1", "second"), ("g2", None)]
        assert {"prompt", "metadata", "launch"} <= set(storage.scan("run", "generations").column_names)

    def test_scan_of_a_missing_run_is_an_error(self, storage: StorageBackend) -> None:
        """A scan raises RunNotFoundError for a run that does not exist, and gives no rows for one without records."""
        _assert_raises(RunNotFoundError, lambda: storage.scan("run", "evaluations"))
        storage.save_run_metadata("run", {})
        assert storage.scan("run", "evaluations").num_rows == 0

    def test_a_condition_is_asked_of_the_records(self, storage: StorageBackend) -> None:
        """A scan with `where` gives the records for which it holds; a record that was replaced is none of them."""
        import pyarrow.compute as pc

        storage.save_generation_record("run", generation("g1", response=None, status="error"))
        storage.save_generation_record("run", generation("g1", latency=2.0))
        storage.save_generation_record("run", generation("g2", latency=1.0))
        slow = storage.scan("run", "generations", ["id"], where=pc.field("latency") > 1.5)
        errors = storage.scan("run", "generations", ["id"], where=pc.field("status") == "error")
        assert (slow["id"].to_pylist(), errors.num_rows) == (["g1"], 0)

    def test_iterators_give_what_lists_hold(self, storage: StorageBackend) -> None:
        """iter_generation_records and iter_evaluation_records give each record once; a missing run is an error."""
        for number in range(20):
            storage.save_generation_record("run", generation(f"g{number}"))
            storage.save_evaluation_record("run", evaluation(f"e{number}"))
        generations = [record.id for record in storage.iter_generation_records("run")]
        evaluations = [record.id for record in storage.iter_evaluation_records("run")]
        assert sorted(generations) == sorted(f"g{number}" for number in range(20))
        assert sorted(evaluations) == sorted(f"e{number}" for number in range(20))
        _assert_raises(RunNotFoundError, lambda: list(storage.iter_generation_records("other")))

    def test_ids_of_records_that_stand(self, storage: StorageBackend) -> None:
        """ids() has every id, or all but those whose record is an error of the kinds that are left out."""
        storage.save_generation_record("run", generation("good"))
        storage.save_generation_record("run", generation("bad", status="error", error_kind="infrastructure"))
        everything = storage.ids("run", "generations")
        standing = storage.ids("run", "generations", without_errors=["infrastructure"])
        assert (len(everything), "bad" in everything) == (2, True)
        assert (len(standing), "good" in standing, "bad" in standing) == (1, True, False)

    def test_a_run_at_a_glance(self, storage: StorageBackend) -> None:
        """run_info tells the report's metrics, and run_infos has every run; a missing run is an error."""
        storage.save_generation_record("other", generation("g"))
        storage.save_generation_record("run", generation("g"))
        storage.save_report("run", full_report())
        storage.flush()
        assert storage.run_info("run").metrics == {"exact_match": 0.5}
        assert [info.run_id for info in storage.run_infos()] == ["other", "run"]
        _assert_raises(RunNotFoundError, lambda: storage.run_info("missing"))

    def test_another_object_reads_what_was_flushed(self, storage: StorageBackend) -> None:
        """After flush a second object on the same place has records, metadata and report."""
        storage.save_run_metadata("run", {"seed": 7})
        storage.save_generation_record("run", full_generation())
        storage.save_evaluation_record("run", full_evaluation())
        storage.save_report("run", full_report())
        storage.flush()
        other = self.reopen(storage)
        assert other.load_run_metadata("run") == {"seed": 7}
        assert other.load_generation_records("run") == [full_generation()]
        assert other.load_evaluation_records("run") == [full_evaluation()]
        assert other.load_report("run") == full_report()

    def test_two_writers_share_a_run(self, storage: StorageBackend) -> None:
        """What two objects on one place save into one run is, once flushed, read by both."""
        other = self.reopen(storage)
        storage.save_generation_record("run", generation("one"))
        other.save_generation_record("run", generation("two"))
        storage.flush()
        other.flush()
        for reader in (storage, other):
            assert {record.id for record in reader.load_generation_records("run")} == {"one", "two"}
        other.close()

    def test_close_can_be_called_twice(self, storage: StorageBackend) -> None:
        """Both close and flush may be called again and again, and `with` leaves through close."""
        with storage as entered:
            assert entered is storage
            storage.save_generation_record("run", generation("g"))
            storage.flush()
            storage.flush()
        storage.close()
        assert self.reopen(storage).load_generation_records("run") == [generation("g")]

    def test_a_pickled_copy_reads_and_writes_the_same_runs(self, storage: StorageBackend) -> None:
        """A copy made by pickle sees what was flushed, and what it saves is seen."""
        _only_if(self.picklable, "picklable")
        storage.save_generation_record("run", generation("one"))
        storage.flush()
        copy = pickle.loads(pickle.dumps(storage))  # noqa: S301 - our own bytes
        copy.save_generation_record("run", generation("two"))
        copy.close()
        assert {record.id for record in storage.load_generation_records("run")} == {"one", "two"}

    def test_samples_are_kept(self, storage: StorageBackend) -> None:
        """Samples come back with the types of their fields as they were, each id once."""
        _only_if(self.keeps_samples, "keeps_samples")
        storage.save_samples("run", samples())
        storage.save_samples("run", samples()[:1])
        assert sorted(storage.load_samples("run"), key=lambda sample: sample.id) == samples()

    def test_a_launch_is_kept(self, storage: StorageBackend) -> None:
        """load_launches gives what save_launch was given last by each process, and [] is for runs without one."""
        _only_if(self.keeps_launches, "keeps_launches")
        storage.save_launch("run", {"host": "a"})
        storage.save_launch("run", {"host": "b"})
        assert [launch["host"] for launch in storage.load_launches("run")] == ["b"]
        assert storage.run_exists("run")


def _different(expected: object, loaded: object) -> list[str]:
    """Name and both values of each field that differs."""
    assert type(expected) is type(loaded)
    pairs = {name: (value, loaded.__dict__.get(name)) for name, value in expected.__dict__.items()}
    return [f"{name}: {was!r} became {now!r}" for name, (was, now) in pairs.items() if was != now]


def _assert_raises(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        result = call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected; it returned {repr(result)[:80]}")


def _only_if(stated: bool, name: str) -> None:
    import pytest

    if not stated:
        pytest.skip(f"the class does not state {name} = True")
