"""A process that says of pairs of answers whether they are the same mathematics. Run by its path.

It reads one JSON object a line: "target", and either "boxed" (the answer's LaTeX) or "text" (an answer to find it in).
It writes one object for each: "equal" and "answer", or "target" with what is wrong with the target. The kernel ends it
when one pair takes more than its seconds of CPU: sympy may be deep in one multiplication, where no Python runs.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import select
import sys
from functools import lru_cache
from typing import Any

IDLE_SECONDS = 60.0
"""After so long without a question it ends by itself."""


def main(seconds: int, memory: int) -> None:
    """Answer until standard input closes, or nothing comes for long."""
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no reply
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401 - what takes a second is loaded before the first question counts

    os.write(replies, b"{}\n")
    held = b""
    while True:
        if b"\n" not in held:
            if not select.select([0], [], [], IDLE_SECONDS)[0]:
                return
            part = os.read(0, 1 << 16)
            if not part:
                return
            held += part
            continue
        line, _, held = held.partition(b"\n")
        _limit(seconds, memory)
        reply = json.dumps(_reply(json.loads(line))).encode() + b"\n"
        while reply:
            reply = reply[os.write(replies, reply) :]


def _limit(seconds: int, memory: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime) + seconds, hard))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (OSError, ValueError):  # macOS takes no such limit
        return


def _reply(question: dict[str, str]) -> dict[str, Any]:
    from math_verify import verify

    try:
        target = _boxed(question["target"])
        if not _is_mathematics(target):
            return {"target": "it cannot be read as mathematics"}
        answer = _boxed(question["boxed"]) if "boxed" in question else _found(question["text"])
        words = question.get("boxed") or (str(answer[-1]) if answer else None)
        # The library's own time limits are signals, for which the time that a child has stands.
        return {"equal": bool(answer) and verify(target, answer, timeout_seconds=None), "answer": words}
    except MemoryError:
        sys.exit(1)


def _is_mathematics(found: list[Any]) -> bool:
    return any(not isinstance(part, str) for part in found)


@lru_cache(maxsize=256)
def _boxed(latex: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    found: list[Any] = parse(
        rf"\boxed{{{latex}}}", [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None
    )
    return found


def _found(text: str) -> list[Any]:
    """The expression after "answer is" or the like, else the last one, and its text."""
    from math_verify import parse

    found: list[Any] = parse(text, parsing_timeout=None)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
