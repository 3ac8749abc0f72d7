"""Every error that themis raises.

ThemisError
├── UsageError (ValueError)              what was asked for cannot be done
│   ├── UnknownNameError (LookupError)   no benchmark, model, metric or backend of that name
│   ├── DataError                        a row, or the place it comes from, is not what the benchmark needs
│   └── RunMismatchError                 a run exists that was made with another configuration
├── ExecutionError                       a backend could not run an item
│   ├── TaskError (RuntimeError)         the item raised what cannot travel; its name and traceback can
│   ├── TaskTimeoutError (TimeoutError)  the item took longer than its timeout
│   └── WorkerCrashedError               the item ended its worker process three times
├── SandboxError (RuntimeError)          a program could not be run apart, whatever the program
├── UndecidedError (TimeoutError)        an answer could not be compared within the limits of a comparison
├── StorageError (OSError)               a storage could not be read or written
│   ├── RunNotFoundError (FileNotFoundError)
│   └── ReportNotFoundError (FileNotFoundError)
└── ModelError                           a model gave no answer; `kind` says whose fault it was
    ├── RequestError                     the request was refused: 400, 413, 422
    ├── ModelOutcomeError                a refusal that counts as the model's own answer
    ├── ModelUnavailableError (ConnectionError)  no answer after every attempt
    └── FatalModelError                  no further request can succeed
        ├── AuthenticationError (PermissionError)  401, 403, or no key at all
        ├── ModelNotFoundError (LookupError)       404
        └── QuotaExceededError

Each error has a builtin twin in brackets, so that `except TimeoutError` does what one expects.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AuthenticationError",
    "DataError",
    "ExecutionError",
    "FatalModelError",
    "ModelError",
    "ModelNotFoundError",
    "ModelOutcomeError",
    "ModelUnavailableError",
    "QuotaExceededError",
    "ReportNotFoundError",
    "RequestError",
    "RunMismatchError",
    "RunNotFoundError",
    "SandboxError",
    "StorageError",
    "TaskError",
    "TaskTimeoutError",
    "ThemisError",
    "UndecidedError",
    "UnknownNameError",
    "UsageError",
    "WorkerCrashedError",
]


class ThemisError(Exception):
    """The root of the tree."""


class UsageError(ThemisError, ValueError):
    """What was asked for cannot be done; the message says what can."""


class UnknownNameError(UsageError, LookupError):
    """No object of that name; the message lists the names and the nearest one."""


class DataError(UsageError):
    """A row, or the place it comes from, is not what the benchmark needs; rows count from 1."""


class RunMismatchError(UsageError):
    """A run of that id exists and was made with another configuration."""


class ExecutionError(ThemisError):
    """A backend could not run an item. Surfaced ones carry `.index` and `.item`."""

    index: int | None = None
    item: Any = None


class TaskError(ExecutionError, RuntimeError):
    """Stands for an exception that cannot travel.

    Attributes:
        type_name: The name of the exception's type.
        traceback_text: Its traceback, as the worker saw it.
    """

    def __init__(self, message: str, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message, type_name, traceback_text)
        self.message = message
        self.type_name = type_name
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return self.message


class TaskTimeoutError(ExecutionError, TimeoutError):
    """An item took longer than its timeout, counted by its worker from when it began."""


class WorkerCrashedError(ExecutionError):
    """An item, running alone, ended its worker process three times."""


class SandboxError(ThemisError, RuntimeError):
    """A program could not be run apart from the machine as far as was asked; it says nothing of the program."""


class UndecidedError(ThemisError, TimeoutError):
    """An answer could not be compared with its target within the limits of a comparison: it may be right or wrong."""


class StorageError(ThemisError, OSError):
    """A storage could not be read or written."""


class RunNotFoundError(StorageError, FileNotFoundError):
    """No run of that id."""


class ReportNotFoundError(StorageError, FileNotFoundError):
    """The run has no report yet."""


class ModelError(ThemisError):
    """A model gave no answer.

    Attributes:
        kind: "model" for an outcome of the model itself, "input" for a request that can never succeed,
            "infrastructure" for everything else. It becomes the record's `error_kind`.
        attempts: How many times the request was sent.
    """

    kind: ClassVar[str] = "infrastructure"

    def __init__(self, message: str, attempts: int = 1) -> None:
        super().__init__(message, attempts)
        self.message = message
        self.attempts = attempts

    def __str__(self) -> str:
        return self.message


class RequestError(ModelError):
    """The server refused the request itself (400, 413, 422): asking again cannot help."""

    kind = "input"


class ModelOutcomeError(ModelError):
    """A content filter refused, or the prompt is longer than the model takes: scored as a wrong answer."""

    kind = "model"


class ModelUnavailableError(ModelError, ConnectionError):
    """No usable answer after every attempt."""


class FatalModelError(ModelError):
    """No further request can succeed: the run stops here, and goes on from here when it is run again."""


class AuthenticationError(FatalModelError, PermissionError):
    """The server did not accept the key (401, 403), or there is none."""


class ModelNotFoundError(FatalModelError, LookupError):
    """The server does not have this model, or this address (404)."""


class QuotaExceededError(FatalModelError):
    """The account's quota is spent."""
