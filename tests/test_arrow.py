"""themis.arrow: the pinned schemas, exact round trips, and which row of an id wins."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pytest

from themis import arrow
from themis.errors import UsageError
from themis.records import SCHEMA_VERSION, EvaluationRecord, GenerationRecord, Sample
from themis.testing._records import full_evaluation, full_generation, samples

KINDS = {"samples": Sample, "generations": GenerationRecord, "evaluations": EvaluationRecord}
RECORDS = {"samples": samples(), "generations": [full_generation()], "evaluations": [full_evaluation()]}
KEYS = ["run_id", "launch", "seq", "saved_at"]


def generation(record_id="g", **fields):
    """A small generation."""
    return GenerationRecord(**{"id": record_id, "prompt": "p", "response": "r", **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_are_the_fields_then_the_keys(kind):
    """A schema has every field of the record in its order, then the key columns, and says its version and kind."""
    schema = arrow.schema(kind)

    assert schema.names == [field.name for field in dataclasses.fields(KINDS[kind])] + KEYS
    assert schema.metadata == {
        b"themis.schema_version": str(SCHEMA_VERSION).encode(),
        b"themis.kind": kind.encode(),
    }


def test_the_types_are_those_that_other_tools_read():
    """Text is text, counts int64, seconds and scores float64, times timestamp[us, UTC], structure JSON text."""
    names = ("response", "params", "messages", "output_tokens", "latency", "started_at", "saved_at", "seq")
    generations = [str(arrow.schema("generations").field(name).type) for name in names]

    time = "timestamp[us, tz=UTC]"
    assert generations == ["string", "string", "string", "int64", "double", time, time, "int64"]
    assert arrow.schema("evaluations").field("score").type == pa.float64()


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_back_equal(kind):
    """Records with every field filled, and those with every default, survive the way to a table and back."""
    assert arrow.to_records(arrow.to_table(kind, RECORDS[kind])) == RECORDS[kind]
    assert arrow.to_records(arrow.to_table(kind, [])) == []


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_back_equal_through_json_rows(kind):
    """The rows that JSON lines are made of give the same table again."""
    table = arrow.to_table(
        kind, RECORDS[kind], run_id="r", launch="l", seqs=range(5, 5 + len(RECORDS[kind])), saved_at=1.5
    )

    rows = arrow.to_rows(table)
    assert arrow.from_rows(kind, rows) == table
    assert rows[0]["id"] == RECORDS[kind][0].id
    assert [rows[0][name] for name in KEYS] == ["r", "l", 5, 1.5]


def test_the_key_columns_number_the_rows():
    """run_id, launch and saved_at repeat, seq is as given; without them the columns are null."""
    records = [generation(str(number)) for number in range(3)]
    table = arrow.to_table(
        "generations", records, run_id="run", launch="l", seqs=range(7, 7 + len(records)), saved_at=2.0
    )

    assert table.column("seq").to_pylist() == [7, 8, 9]
    assert table.column("run_id").to_pylist() == ["run"] * 3
    assert [time.timestamp() for time in table.column("saved_at").to_pylist()] == [2.0] * 3
    assert arrow.to_table("generations", records).column("seq").null_count == 3


@pytest.mark.parametrize("target", ["42", '["a"]', "null", "{}", "", ["a"], [], None])
def test_a_target_keeps_its_type(target):
    """A target that looks like JSON stays text, a list a list, None None."""
    (loaded,) = arrow.to_records(arrow.to_table("samples", [Sample("1", "q", target)]))

    assert loaded.target == target
    assert type(loaded.target) is type(target)


def test_default_dicts_are_not_shared():
    """Two records read back from one table do not share their metadata."""
    first, second = arrow.to_records(arrow.to_table("generations", [generation("1"), generation("2")]))
    first.metadata["seen"] = True

    assert second.metadata == {}


def test_odd_text_comes_back():
    """A null byte, control characters and astral characters are kept; nested metadata too."""
    record = generation(response="a\0b\x1b\U0001f989", metadata={"k": ["\0", {"n": None}], "ü": "\u2028"})

    assert arrow.to_records(arrow.to_table("generations", [record])) == [record]


def test_a_lone_surrogate_does_not_lose_the_record():
    """Text keeps a lone surrogate as its escape, JSON keeps it as it was, and the neighbours are untouched."""
    records = [
        generation("1", response="a\ud800b", metadata={"k": "\udfff\\"}),
        generation("2", response="\\ud800"),
    ]

    first, second = arrow.to_records(arrow.to_table("generations", records))
    assert first.response == "a\\ud800b"
    assert first.metadata == {"k": "\udfff\\"}
    assert second == records[1]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("response", 5, "int"),
        ("response", b"text", "bytes"),
        ("id", None, "NoneType"),
        ("params", "{}", "str"),
        ("attempts", 1.5, "float"),
        ("attempts", True, "bool"),
        ("input_tokens", 2**63, "cannot be stored"),
        ("latency", float("nan"), "cannot be stored"),
        ("started_at", float("inf"), "cannot be stored"),
        ("metadata", {"x": float("nan")}, "cannot be stored"),
        ("metadata", {"x": object()}, "cannot be stored"),
        ("messages", {"role": "user"}, "dict"),
    ],
)
def test_a_wrong_value_is_named(field, value, said):
    """A value that a column cannot hold is a UsageError with the field, the record's id and the reason."""
    records = [generation("good"), replace(generation("bad-one"), **{field: value})]

    with pytest.raises(UsageError) as caught:
        arrow.to_table("generations", records)
    assert repr(field) in str(caught.value)
    assert ("None" if field == "id" else "'bad-one'") in str(caught.value)
    assert said in str(caught.value)


def test_subclasses_of_the_types_are_taken():
    """A float64 of numpy, which is a float, and a bool as a score are stored as numbers."""
    import numpy as np

    table = arrow.to_table(
        "evaluations", [replace(full_evaluation(), score=score) for score in (np.float64(0.5), True)]
    )
    assert table.column("score").to_pylist() == [0.5, 1.0]


def test_missing_columns_take_defaults_and_unknown_ones_none():
    """A table of an older or newer version still gives records; without a required column it is a UsageError."""
    table = arrow.to_table("generations", [full_generation()])
    changed = table.drop_columns(["reasoning", "metadata", "attempts"]).append_column("new", pa.array(["x"]))

    (loaded,) = arrow.to_records(changed)
    assert loaded == replace(full_generation(), reasoning=None, metadata={}, attempts=0)
    with pytest.raises(UsageError, match="'prompt'"):
        arrow.to_records(table.drop_columns(["prompt"]))


def test_a_table_without_metadata_needs_its_kind():
    """A table that came through another tool gives records when told what its rows are."""
    table = arrow.to_table("evaluations", [full_evaluation()]).replace_schema_metadata(None)

    assert arrow.to_records(table, "evaluations") == [full_evaluation()]
    with pytest.raises(UsageError, match="kind"):
        arrow.to_records(table)


def test_conform_gives_the_pinned_columns():
    """A missing column becomes nulls, an unknown one goes, another integer width is cast."""
    table = pa.table({"id": ["a"], "attempts": pa.array([3], pa.int32()), "new": [1]})

    conformed = arrow.conform("generations", table, ["attempts", "id", "seq"])
    assert conformed.to_pylist() == [{"attempts": 3, "id": "a", "seq": None}]
    assert conformed.schema.field("attempts").type == pa.int64()


def test_an_unknown_column_is_named():
    """check_columns names the nearest column of the kind."""
    assert arrow.check_columns("evaluations", ["score"]) == ["score"]
    with pytest.raises(UsageError, match="'score'"):
        arrow.check_columns("evaluations", ["scores"])


def test_a_run_imports_no_pandas(tmp_path):
    """Pandas, which pyarrow imports for a plain value, is no part of a run, a resume or its upkeep: half a second."""
    rows = "[{'input': 'a', 'target': 'a'}, {'input': 'b', 'target': 'a'}]"
    call = f"themis.evaluate({rows}, lambda prompt: 'a', storage={str(tmp_path)!r}"
    upkeep = "r.storage.compact(r.run_id); r.storage.verify(r.run_id); list(r.storage.iter_samples(r.run_id))"
    loaded = "'pyarrow' in sys.modules, 'pandas' in sys.modules"
    program = f"import sys, themis; {call}, limit=1); r = {call}); {upkeep}; print(r.metrics, {loaded})"

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert found.strip() == "{'exact_match': 1.0} True False"
