"""What is shown of a run while it goes on."""

from __future__ import annotations

import io
import sys
import time
import types

import pytest
from rich.console import Console

from themis import evaluate
from themis.backends import ExecutionBackend, LocalExecutionBackend, RayExecutionBackend
from themis.backends._engine import MapProgress
from themis.progress import Progress, Tally
from themis.records import EvaluationRecord, GenerationRecord
from themis.run import Update

ROWS = [{"question": f"q{number}", "answer": str(number)} for number in range(30)]


def update(done=1, total=10, progress=None, **fields):
    """One answer, with its score."""
    generation = GenerationRecord("g", "p", "r", **fields)
    return Update(generation, [EvaluationRecord("e", "g", "m", score=1.0)], done, total, progress)


def console(**options):
    """A console that writes into a text."""
    return Console(file=io.StringIO(), width=150, **options)


@pytest.mark.parametrize("make", [LocalExecutionBackend, RayExecutionBackend])
def test_updates_say_how_far_the_backend_is(make, ray_session, tmp_path):
    """Each update has what the backend says of its map: in the end everything is done, by one node, nothing again."""
    updates = []

    def model(prompt):
        time.sleep(0.02 * int(prompt[1:]))  # so that some have an answer while others wait for it
        return prompt[1:]

    evaluate(ROWS, model, execution_backend=make(), on_result=updates.append, storage=tmp_path)

    last = updates[-1].progress
    assert (last.done, last.failed, last.waiting, last.out, last.again, last.nodes) == (30, 0, 0, 0, 0, 1)
    assert max(each.progress.out for each in updates) > 0


def test_a_backend_of_ones_own_has_no_progress_to_tell(tmp_path):
    """Where the backend does not say how far it is, the update has None there, and the display the rest."""

    class Plain(ExecutionBackend):
        def map(self, func, items):
            return [func(item) for item in items]

    updates = []
    evaluate(ROWS, lambda prompt: prompt[1:], execution_backend=Plain(), on_result=updates.append, storage=tmp_path)

    assert {each.progress for each in updates} == {None}
    assert "with workers" not in Tally().text(updates[-1])


def test_the_words_name_workers_repeats_nodes_and_errors():
    """In progress, run again, nodes and errors are in the words, the last two parts only where there is something."""
    tally = Tally()
    lost = update(progress=MapProgress(out=7, again=2, nodes=3), status="error", error_kind="infrastructure")
    tally.add(lost)

    assert tally.text(lost).partition("/s, ")[2] == "7 with workers, 2 run again, 3 nodes, 1 errors, score 1.000 over 1"
    assert "7 with workers, 1 errors" in tally.text(update(progress=MapProgress(out=7)))


def test_without_a_terminal_it_writes_a_line_now_and_then(monkeypatch):
    """A log file gets a line after ten seconds, not one for each answer."""
    place = console(force_terminal=False)
    with Progress("sums", place) as progress:
        for number in range(5):
            progress(update(number))
        assert place.file.getvalue() == ""
        monkeypatch.setattr("themis.progress.LINE_SECONDS", 0.0)
        progress(update(6, None))

    assert place.file.getvalue().startswith("sums: 6/? (")


def test_a_terminal_has_a_bar():
    """On a terminal the bar has the title, the counts and the words."""
    place = console(force_terminal=True)
    with Progress("sums", place) as progress:
        progress(update(4, 10, MapProgress(out=3)))
        progress._bar.refresh()

    shown = place.file.getvalue()
    assert "sums" in shown
    assert "4/10" in shown
    assert "3 with workers" in shown


def test_a_notebook_has_one_line_that_changes(monkeypatch):
    """In a notebook the first answer shows a line, later ones change it, and the last one always does."""
    lines = []

    class Handle:
        def update(self, data, raw):
            lines.append(data["text/plain"])

    def display(data, raw, display_id):
        lines.append(data["text/plain"])
        return Handle()

    shell = types.ModuleType("IPython")
    shell.display = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr("themis.progress.SHOW_SECONDS", 0.0)
    progress = Progress("sums", console(force_jupyter=True))
    progress(update(1))
    progress(update(2))
    monkeypatch.setattr("themis.progress.SHOW_SECONDS", 60.0)
    progress(update(3))
    progress(update(10))

    assert [line.partition(" (")[0] for line in lines] == ["sums: 1/10", "sums: 2/10", "sums: 10/10"]
