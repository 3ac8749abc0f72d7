"""What a run already has: which ids stand, and which are tried again."""

from __future__ import annotations

import pyarrow as pa
import pytest

from themis.backends import LocalFileStorageBackend
from themis.records import EvaluationRecord, GenerationRecord
from themis.stored import Ids, Stored

DIGITS = "0123456789abcdef"


def name(digit):
    """An id of 32 digits."""
    return digit * 32


def test_ids_are_found_whatever_the_chunks():
    """An id is found when a chunk of the column has it; its beginning, and text that is no id, are not."""
    column = pa.chunked_array([[name(d) for d in "c5"], [], [name(d) for d in "0f"]], pa.string())

    ids = Ids(column)

    assert {digit for digit in DIGITS if name(digit) in ids} == set("c50f")
    assert len(ids) == 4
    assert not any(other in ids for other in ("", "c", name("c")[:-1], name("c") + "c", "\u00e9"))


@pytest.mark.parametrize("column", [None, pa.chunked_array([], pa.string()), pa.chunked_array([[]], pa.string())])
def test_no_ids_are_false(column):
    """Without ids nothing is found, and the whole is false."""
    ids = Ids(column)

    assert not ids
    assert name("0") not in ids


def generation(digit, status, kind=None, served=None):
    """A stored answer."""
    return GenerationRecord(name(digit), "p", "r", status=status, error_kind=kind, model_served=served)


def evaluation(digit, status, kind=None):
    """A stored score."""
    return EvaluationRecord(name(digit), name("0"), "m", status=status, error_kind=kind)


def test_what_stands_and_what_is_tried_again(tmp_path):
    """Successes and a model's own outcomes stand; errors of the infrastructure, and of scorers, do not."""
    with LocalFileStorageBackend(tmp_path) as storage:
        storage.save_generation_records(
            "run",
            [
                generation("0", "ok", served="m-1"),
                generation("1", "error", "infrastructure"),
                generation("2", "error", "model", served="m-2"),
                generation("3", "error", "input"),
                generation("4", "error"),
            ],
        )
        kinds = [None, "infrastructure", "model", "scorer", "input"]
        scores = [evaluation(str(n), "error" if kind else "ok", kind) for n, kind in enumerate(kinds)]
        storage.save_evaluation_records("run", scores)

        stored = Stored(storage, "run", exists=True)

    assert [digit for digit in DIGITS if name(digit) in stored.answered] == ["0", "2", "3", "4"]
    assert [digit for digit in DIGITS if name(digit) in stored.scored] == ["0", "2", "4"]
    assert stored.models_served == {"m-1", "m-2"}
