"""Logs of other tools become runs: to score, compare and keep what is there already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from themis.errors import UnknownNameError, UsageError
from themis.evaluate import open_storage
from themis.importing.inspect import read_inspect
from themis.importing.lm_eval import read_lm_eval
from themis.importing.save import Imported, save
from themis.registry import unknown

if TYPE_CHECKING:
    from themis.backends import StorageBackend

__all__ = ["Imported", "import_inspect", "import_lm_eval", "import_log"]

FORMATS = ("inspect", "lm-eval")


def import_lm_eval(
    file: str | os.PathLike[str],
    *,
    run_id: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    storage_backend: StorageBackend | None = None,
    benchmark: str | None = None,
    id_field: str | None = None,
) -> Imported:
    """The run that a log of samples of lm-evaluation-harness becomes.

    Answers, log-likelihoods and lm-eval's own scores are taken over, as metrics named "lm-eval:NAME,FILTER". Read line
    by line, so that a log may be larger than the memory.

    Args:
        file: A path or URL of a samples_<task>_<time>.jsonl; the results_<time>.json beside it says the model.
        run_id: Default readable, and another one for every log.
        storage: A URL; default $THEMIS_STORAGE, else ./.themis/runs. Or give `storage_backend`, which is flushed.
        storage_backend: Where the run is kept.
        benchmark: What the benchmark is called; default the task's name.
        id_field: The field of a document that is the sample's id; default the document's number from 0.

    Raises:
        DataError: It is no such log; it names the row.
        RunMismatchError: The run exists.
    """
    log = read_lm_eval(os.fspath(file), benchmark=benchmark, id_field=id_field)
    return _saved(log, run_id, storage, storage_backend)


def import_inspect(
    file: str | os.PathLike[str],
    *,
    run_id: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    storage_backend: StorageBackend | None = None,
    benchmark: str | None = None,
) -> Imported:
    """The run that a log of Inspect becomes: an .eval, read sample by sample, or a .json, which is read whole.

    Epochs are repeats, the scorers' values metrics named "inspect:SCORER"; a sample that ended in an error stays in the
    denominator. Of a conversation the last answer is the response, and what was before it the prompt.

    Args:
        file: A path or URL.
        run_id: Default readable, and another one for every log.
        storage: A URL; default $THEMIS_STORAGE, else ./.themis/runs. Or give `storage_backend`, which is flushed.
        storage_backend: Where the run is kept.
        benchmark: What the benchmark is called; default the task's name.

    Raises:
        DataError: It is no such log; it names the sample.
        RunMismatchError: The run exists.
    """
    return _saved(read_inspect(os.fspath(file), benchmark=benchmark), run_id, storage, storage_backend)


def import_log(file: str | os.PathLike[str], format: str | None = None, **options: Any) -> Imported:  # noqa: A002
    """The run that a log becomes, whose tool its name says: .eval and .json are of Inspect, .jsonl of lm-eval.

    Args:
        file: A path or URL.
        format: "lm-eval" or "inspect", where the name does not say it.
        options: Of import_lm_eval() or import_inspect().

    Raises:
        UsageError: The name does not say it, or there is no such format.
    """
    name = os.fspath(file).rstrip("/").rpartition("/")[2]
    chosen = format or _format(name)
    if chosen not in FORMATS:
        raise UnknownNameError(unknown("format", chosen, FORMATS))
    if chosen == "lm-eval":
        return import_lm_eval(file, **options)
    if options.pop("id_field", None) is not None:
        raise UsageError(f"{name}: samples of Inspect have ids of their own; id_field is for logs of lm-eval")
    return import_inspect(file, **options)


def _format(name: str) -> str:
    if name.startswith("results_") and name.endswith(".json"):
        raise UsageError(f"{name} has lm-eval's numbers without the answers; give the samples_*.jsonl beside it")
    endings = {".eval": "inspect", ".json": "inspect", ".jsonl": "lm-eval", ".jsonl.gz": "lm-eval"}
    found = next((tool for ending, tool in endings.items() if name.endswith(ending)), None)
    if found is None:
        raise UsageError(f"{name!r} does not say which tool wrote it: give a .jsonl of lm-eval, or an .eval of Inspect")
    return found


def _saved(
    log: Any, run_id: str | None, url: str | os.PathLike[str] | None, backend: StorageBackend | None
) -> Imported:
    from themis.backends.storage import check_run_id

    name = check_run_id(run_id or log.run_id())
    storage, owned = open_storage(backend, url)
    try:
        return save(log, storage, name)
    finally:
        (storage.close if owned else storage.flush)()
