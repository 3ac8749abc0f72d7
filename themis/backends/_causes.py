"""What an error of a filesystem means: whether it may pass, and what to do about it."""

from __future__ import annotations

import errno

_BUSY = frozenset({408, 425, 429})
"""HTTP statuses below 500 after which the same request may succeed."""

_LASTING = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    FileExistsError,
    ValueError,
    TypeError,
    NotImplementedError,
)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: a busy store, a lost connection, no answer."""
    status = _status(error)
    if isinstance(error, _LASTING) or (status is not None and 400 <= status < 500 and status not in _BUSY):
        return False
    return "Credentials" not in type(error).__name__ and "ParamValidation" not in type(error).__name__


def is_refused(error: BaseException) -> bool:
    """Whether the store took the request and will never do what it asks, by its status or the error's own number."""
    response = getattr(error.__cause__, "response", None)  # as botocore has it, which s3fs hides behind an OSError
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    if status is not None:
        return status == 501 or (400 <= status < 500 and status not in {*_BUSY, 409})
    return not may_pass(error) or getattr(error, "errno", None) in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def explain(error: BaseException) -> str:
    """What is wrong and what to do, in a clause, for whatever a filesystem raises."""
    name, said = type(error).__name__, _first_line(error)
    if name in {"NoCredentialsError", "PartialCredentialsError"}:
        return f"{said}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give storage_options"
    if isinstance(error, TypeError) and "unexpected keyword argument" in said:
        return f"the storage_options cannot be used: {said}"
    return _known(error, name, said) or f"{name}: {said}"


def _known(error: BaseException, name: str, said: str) -> str | None:
    status = _status(error)
    if isinstance(error, PermissionError) or status in {401, 403}:
        return f"no permission ({said}); check the credentials and what they may do there"
    if isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError):
        return f"a file is in the way of a folder ({said}); remove it or choose another URL"
    if isinstance(error, FileNotFoundError) or status == 404:
        return f"{said}; make the bucket or folder first, or choose another URL"
    if isinstance(error, TimeoutError | ConnectionError) or "Connect" in name or "Timeout" in name:
        return f"the store does not answer ({said}); check its address and the network"
    return None


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, under the names that the stores' packages give it."""
    values = (getattr(error, name, None) for name in ("status_code", "status", "code"))
    # gcsfs says it in words alone.
    return next(
        (value for value in values if isinstance(value, int)), 403 if str(error).startswith("Forbidden") else None
    )


def _first_line(error: BaseException) -> str:
    """The error in words; some stores add a page of XML."""
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")[:500]
