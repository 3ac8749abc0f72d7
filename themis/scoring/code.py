"""Whether a program passes tests: the answer's code is run, apart from the machine, with the tests after it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.scoring.base import Metric, Score
from themis.scoring.fences import completed, python_blocks
from themis.scoring.needs import needed_targets, needed_text, needs_text
from themis.scoring.sandbox import Limits, run_program

if TYPE_CHECKING:
    from themis.records import GenerationRecord, Kind, Sample
    from themis.scoring.sandbox import Execution


@dataclass(frozen=True)
class PassesTests(Metric):
    """1 where the answer's code, and after it the target as tests, run to their end without an exception, else 0.

    The answer is the code that was found in the response (extract_code). A machine that cannot isolate the program
    as far as is asked (themis.scoring.sandbox) is an error of the scorer, never a 0. Of several targets all are run.

    Attributes:
        start: The field of a sample's row with the code that the answer goes on with or repeats: its imports and the
            head of a function. None where the answer has all the code.
        entry_point: The field with the name of the function that is asked for; None where the tests alone tell it.
        limits: What a program may use.
        name: What the metric is called.
    """

    start: str | None = None
    entry_point: str | None = None
    limits: Limits = field(default_factory=Limits)
    name: str = "passes"
    dear = True

    def config(self) -> dict[str, Any]:
        limits = self.limits
        given = {"seconds": limits.seconds, "cpu_seconds": limits.cpu_seconds, "memory": limits.memory}
        return {"start": self.start, "entry_point": self.entry_point, **given}

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        missing = [name for name in (self.start, self.entry_point) if name and name not in sample.metadata]
        if missing:
            return f"sample {sample.id!r} has no field {missing[0]!r} in its row; it has {', '.join(sample.metadata)}"
        return needs_text(sample, kind)

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        tests = "\n".join(needed_targets(sample))
        start = sample.metadata[self.start] if self.start else ""
        if generation.kind == "completion":
            code = start + needed_text(generation)
        else:
            entry_point = sample.metadata[self.entry_point] if self.entry_point else None
            code = extract_code(needed_text(generation), start, _wanted(entry_point, tests))
        if not code.removeprefix(start).strip():
            return Score(0.0, explanation="there is no code in the answer")
        execution = run_program(f"{code}\n\n{tests}\n", self.limits)
        return Score(
            float(execution.ended == "finished"),
            code,
            explanation=in_words(execution),
            metadata={"ended": execution.ended, "isolation": execution.isolation},
        )


def _wanted(entry_point: str | None, tests: str) -> frozenset[str]:
    """The names of which a solution defines one."""
    return frozenset([entry_point] if entry_point else re.findall(r"[A-Za-z_]\w*", tests))


def extract_code(response: str, start: str = "", wanted: frozenset[str] = frozenset()) -> str:
    """The program that an answer in words and code stands for; empty where there is no code in it.

    Of several fenced blocks of Python the last that defines a name of `wanted` counts, with what it uses of those
    before it, else the first; without a fence, what lies between the first and the last line that look like Python.
    Where `start` is the beginning of a function and the code does not define that function itself, the code is taken
    for its body, and goes on after `start`; else what stands in `start` before the function goes before the code.
    """
    code = _found(response, wanted, body_first=bool(start))
    if not code.strip():
        return ""
    if not start:
        return code
    if _defined(code) & wanted:
        return _before(start, wanted) + code
    return start + _indented(code)


def _found(response: str, wanted: frozenset[str], *, body_first: bool) -> str:
    """The part of an answer that is its code."""
    blocks = [_dedented(block, wanted) for block in python_blocks(response) if block.strip()]
    if defining := [number for number, block in enumerate(blocks) if _defined(block) & wanted]:
        return completed(blocks[defining[-1]], blocks[: defining[-1]])
    if body_first and response.lstrip("\r\n")[:1].isspace():  # it goes on where the prompt ended
        return response.partition("\n```")[0]
    if blocks:
        return blocks[0]
    return "" if "\n```" in f"\n{response}" else _without_prose(response, wanted)


_DEFINITION = re.compile(
    r"^(?:async[ \t]+)?(?:def|class)[ \t]+([A-Za-z_]\w*)|^([A-Za-z_]\w*)[ \t]*(?::[^=\n]*)?=[^=]", re.MULTILINE
)
_CODE_LINE = re.compile(
    r"(?:import|from|(?:async )?def|class)\s+\w|@\w|[ \t]+\S|[A-Za-z_]\w*\s*(?::[^=]*)?=[^=]|[\])}]"
)


def _dedented(block: str, wanted: frozenset[str]) -> str:
    """The block, at the margin where it is there that it defines what is wanted."""
    if not block.lstrip("\r\n")[:1].isspace():
        return block
    moved = textwrap.dedent(block)
    return moved if _defined(moved) & wanted else block


def _defined(code: str) -> set[str]:
    """The names that the code's outermost level defines."""
    return {name for pair in _DEFINITION.findall(code) for name in pair if name}


def _without_prose(text: str, wanted: frozenset[str]) -> str:
    """The lines of Python in a text without fences; all of it where it does not define what is wanted."""
    marked = text.partition("[BEGIN]")[2] or text
    marked = marked.partition("[DONE]")[0]
    lines = marked.split("\n")
    code = [number for number, line in enumerate(lines) if _CODE_LINE.match(line)]
    if not code or not _defined(marked) & wanted:
        return marked
    first = next((number for number in code if not lines[number][0].isspace()), 0)
    return "\n".join(lines[first : code[-1] + 1])


def _before(start: str, wanted: frozenset[str]) -> str:
    """What stands before the function that is wanted: imports, and functions that it may use."""
    heads = [match.start() for match in _DEFINITION.finditer(start) if wanted & {match[1]}]
    return start[: heads[-1]] if heads else start


def _indented(body: str) -> str:
    """A function's body as it has to stand after the function's head, when its indentation was lost on the way."""
    lines = body.strip("\n").split("\n")
    filled = [line for line in lines if line.strip()]
    first, *others = [len(line) - len(line.lstrip()) for line in filled]
    lost = min(others, default=0)
    if others and lost == others[0] and filled[0].rstrip().endswith(":"):
        lost -= 4  # all the others stand in the block that the first line opens
    if first > 0:
        return body
    if lost > 0:  # the answer was stripped, and so its first line was
        return " " * lost + body.lstrip()
    return "\n".join(f"    {line}" for line in lines)


_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_ENDINGS = {
    "finished": "every test passed",
    "exited": "it ended its process (exit code {}) before its tests were over",
    "killed": "killed by {}",
    "out of time": "timed out after {}",
    "out of memory": "killed for memory: more than {}",
    "out of disk": "killed for writing more than {}",
    "out of processes": "killed for more than {} processes",
}


def in_words(execution: Execution) -> str:
    """How a program ended, in one sentence that is the same whenever it ends so again."""
    if execution.ended != "raised":
        return _ENDINGS[execution.ended].format(execution.detail)
    kind, _, message = execution.detail.partition(":")
    words = {"AssertionError": "failed assertion", "SystemExit": "it ended itself before its tests were over"}
    said = words.get(kind, kind) + (f": {message.strip()}" if message.strip() else "")
    place = f" (line {execution.line}: {execution.source})" if execution.line else ""
    return _ADDRESS.sub("0x...", said + place)
