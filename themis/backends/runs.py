"""What the upkeep of runs finds out: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

RunState: TypeAlias = Literal["going", "complete", "partial", "interrupted"]
"""going: its last writer lives. interrupted: it does not, and did not say how the run ended."""


@dataclass(frozen=True)
class RunInfo:
    """A run at a glance.

    Attributes:
        run_id: Its id.
        state: What it is doing.
        benchmark: What is asked; "" where that is not known.
        model: Who answers; "" where that is not known.
        records: Rows of each kind, as the writers counted them: a record saved twice counts twice, and while the run
            is going the counts may be 15 seconds old. Of an interrupted run records are counted, as
            `len(storage.ids(run_id, kind))` does, unless a part is damaged or more than eight such runs are listed
            together: then a killed writer's last word stands, which may be 15 seconds older than its end.
        n_bytes: Of all its files; 0 where the storage cannot tell.
        n_files: So many.
        n_launches: Processes that wrote to it.
        created_at: When its first writer came (epoch seconds).
        changed_at: When anything was heard of it last (epoch seconds).
        metrics: The means of its report; {} where it has none.
    """

    run_id: str
    state: RunState
    benchmark: str = ""
    model: str = ""
    records: dict[str, int] = field(default_factory=dict)
    n_bytes: int = 0
    n_files: int = 0
    n_launches: int = 0
    created_at: float | None = None
    changed_at: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Compaction:
    """What a compaction did: parts and their bytes before and after, and superseded rows that it left out."""

    run_id: str
    n_parts_before: int
    n_parts_after: int
    n_bytes_before: int
    n_bytes_after: int
    n_rows_dropped: int


@dataclass(frozen=True)
class Problem:
    """Something about a run that is not as it was written.

    Attributes:
        path: The file, below the storage's root.
        what: "damaged": its bytes are not what was written. "unreadable": they are, and this version of themis cannot
            read them, because a later one wrote them; a repair leaves the file as it is. "missing": a writer says that
            it wrote more than there is. "orphan": a process that died left it; nothing is wrong with the records.
        message: One sentence.
        n_rows: Rows that it is about; None where that cannot be told.
        ids: Ids of those rows, as far as they can still be read.
        repaired: What a repair did about it; None without one.
    """

    path: str
    what: Literal["damaged", "unreadable", "missing", "orphan"]
    message: str
    n_rows: int | None = None
    ids: list[str] = field(default_factory=list)
    repaired: str | None = None


@dataclass(frozen=True)
class Verification:
    """What verify() found.

    Attributes:
        run_id: The run.
        n_parts: Parts that were read.
        n_rows: Rows of each kind in them.
        problems: What is not as it was written.
        foreign: Files of somebody else, which are passed over.
    """

    run_id: str
    n_parts: int
    n_rows: dict[str, int]
    problems: list[Problem]
    foreign: list[str]

    @property
    def clean(self) -> bool:
        """Whether everything is as it was written."""
        return not self.problems
