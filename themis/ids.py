"""What is the same: canonical JSON and the hashes over it.

This module alone decides it. Resume, retry, de-duplication and caching all follow from ids that are equal exactly when
the same thing was asked, so a change here orphans every stored record: `ID_VERSION` and the golden vectors of
tests/test_ids.py guard it.
"""

from __future__ import annotations

import hashlib
import json
import math
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from themis.records import Kind, Message

ID_VERSION = 1

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
_encode_text = json.encoder.encode_basestring_ascii


def canonical_json(value: Any) -> str:
    """JSON text that is equal exactly for equal values: sorted keys, no spaces, ASCII, 1.0 written as 1.

    Raises:
        UsageError: The value is not JSON: NaN, an infinity, a key that is not a string, another type, or so deep
            that JSON readers refuse it.
    """
    if type(value) is str:
        return _encode_text(value)
    try:
        return _encode(_plain(value))
    except RecursionError:
        raise UsageError(
            "a value is nested more deeply than JSON readers follow; some 400 levels are possible"
        ) from None


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in (str, bool, int) or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise UsageError(f"{value!r} has no place in JSON; use None for a missing number")
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UsageError(f"the key {key!r} is a {type(key).__name__}; JSON objects have string keys")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float):  # subclasses: enums, numpy.float64
        return _plain(
            float(value) if isinstance(value, float) else (str(value) if isinstance(value, str) else int(value))
        )
    raise UsageError(f"{value!r} is a {kind.__name__}; JSON takes str, int, float, bool, None, list and dict")


def content_hash(value: Any) -> str:
    """First 128 bits of SHA-256 over the canonical JSON of a value, as 32 hexadecimal digits."""
    return text_hash(canonical_json(value))


def readable_run_id(benchmark: str, model: str, content: Any) -> str:
    """The id of a run that nobody named: what was asked of whom, and a hash of what tells it from others."""
    slug = f"{benchmark}-{model}"[:80]
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in slug)
    return f"{readable}-{content_hash(content)[:10]}"


def text_hash(text: str) -> str:
    """First 128 bits of SHA-256 over a text in UTF-8 (lone surrogates kept), as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def generation_id(
    *,
    benchmark: str,
    sample_id: str,
    prompt: str | Sequence[Message],
    model: dict[str, Any],
    params: dict[str, Any],
    kind: Kind = "chat",
    continuations: Sequence[str] | None = None,
    repeat: int = 0,
) -> str:
    """Id of one answer: everything that determines what the model is asked, and nothing else.

    `model` is `Model.identity()`. The revision of the data, the target, addresses, timeouts and workers stay out of it.
    """
    return content_hash(
        {
            "v": ID_VERSION,
            "benchmark": benchmark,
            "sample": sample_id,
            "prompt": prompt,
            "model": model,
            "params": params,
            "kind": kind,
            "continuations": continuations,
            "repeat": repeat,
        }
    )


class EvaluationIds:
    """Ids of the scores of one scorer: the generations scored, the scorer with its configuration, and the target.

    Args:
        metric: Its name.
        version: Its version.
        config: Its configuration, as JSON.
        judge: What determines the answers of the model that it asks; None where it asks none.
    """

    def __init__(self, *, metric: str, version: str, config: dict[str, Any], judge: dict[str, Any] | None) -> None:
        # The canonical JSON of an object with these six keys and "generations", cut where an id differs from the next.
        self._config = f'{{"config":{canonical_json(config)},"generations":['
        self._judge = f'],"judge":{canonical_json(judge)},"metric":{canonical_json(metric)},"target":'
        self._version = f',"v":{ID_VERSION},"version":{canonical_json(version)}}}'

    def id(self, generation_ids: Sequence[str], target: str | Sequence[str] | None) -> str:
        """Id of the score of these generations against this target."""
        generations = ",".join(map(canonical_json, generation_ids))
        return text_hash(f"{self._config}{generations}{self._judge}{canonical_json(target)}{self._version}")


def evaluation_id(
    *,
    generation_ids: Sequence[str],
    metric: str,
    version: str,
    config: dict[str, Any],
    target: str | Sequence[str] | None,
    judge: dict[str, Any] | None = None,
) -> str:
    """Id of one score: the generations scored, the scorer with its version and configuration, and the target."""
    return EvaluationIds(metric=metric, version=version, config=config, judge=judge).id(generation_ids, target)


def callable_identity(func: Callable[..., Any]) -> str | None:
    """Hash of a function's code, defaults and closure; None where these cannot be told.

    Two functions of one text have one identity. What a function reaches through global names is not part of it. The
    hash is over byte code, so another minor version of Python gives another identity.
    """
    if not isinstance(func, FunctionType):
        return None
    try:
        cells = [cell.cell_contents for cell in func.__closure__ or ()]
        parts = [_code_parts(func.__code__), *map(_value_part, (func.__defaults__, func.__kwdefaults__))]
        return content_hash([*parts, [_value_part(cell) for cell in cells]])
    except (ValueError, UsageError):  # an empty cell; a value that has no canonical form
        return None


def _code_parts(code: CodeType) -> list[Any]:
    constants = list(map(_constant_part, code.co_consts))
    flags = code.co_flags & 0xFFFF  # above these stands what the file imports from __future__
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames), flags]


def _constant_part(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code_parts(value)
    if isinstance(value, tuple):
        return ["tuple", *map(_constant_part, value)]
    if isinstance(value, frozenset):  # in an order that hash seeds do not change
        return ["frozenset", *sorted(map(repr, value))]
    return repr(value)


def _value_part(value: Any) -> Any:
    if isinstance(value, FunctionType):
        identity = callable_identity(value)
        if identity is None:
            raise UsageError("a nested function has no identity")
        return {"function": identity}
    return canonical_json(value)
