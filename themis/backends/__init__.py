"""Where work runs and where records are kept: the import path of every backend.

Names load their module when they are first used, so importing this package loads neither ray nor pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from themis.backends._chunk import executions
from themis.backends.execution import ExecutionBackend, LocalExecutionBackend, SequentialExecutionBackend
from themis.backends.runs import Compaction, Problem, RunInfo, Verification
from themis.backends.storage import StorageBackend
from themis.registry import load_object

if TYPE_CHECKING:
    from themis.backends._export import copy_run
    from themis.backends.fsspec import FsspecStorageBackend, LocalFileStorageBackend
    from themis.backends.ray import RayExecutionBackend

__all__ = [
    "Compaction",
    "ExecutionBackend",
    "FsspecStorageBackend",
    "LocalExecutionBackend",
    "LocalFileStorageBackend",
    "Problem",
    "RayExecutionBackend",
    "RunInfo",
    "SequentialExecutionBackend",
    "StorageBackend",
    "Verification",
    "copy_run",
    "executions",
]

_LAZY = {
    "FsspecStorageBackend": "themis.backends.fsspec",
    "LocalFileStorageBackend": "themis.backends.fsspec",
    "RayExecutionBackend": "themis.backends.ray",
    "copy_run": "themis.backends._export",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_object(f"{_LAZY[name]}:{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
