"""What a run already has: which ids stand, and which are tried again."""

from __future__ import annotations

from themis.backends import LocalFileStorageBackend
from themis.records import EvaluationRecord, GenerationRecord
from themis.stored import Stored


def name(digit):
    """An id of 32 digits."""
    return digit * 32


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

    assert [digit for digit in "0123456789abcdef" if name(digit) in stored.answered] == ["0", "2", "3", "4"]
    assert [digit for digit in "0123456789abcdef" if name(digit) in stored.scored] == ["0", "2", "4"]
    assert stored.models_served == {"m-1", "m-2"}
