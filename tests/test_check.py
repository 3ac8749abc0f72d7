"""The one command that sets up and checks."""

from __future__ import annotations

import sys

import check
import pytest


@pytest.mark.parametrize("there", [True, False])
def test_the_environment_gets_uv_whoever_made_it(monkeypatch, tmp_path, there):
    """An environment that the README's first command made has no uv, and gets it before it is used."""
    steps, made = [], []
    monkeypatch.setattr(check, "PYTHON", sys.executable if there else str(tmp_path / "python"))
    monkeypatch.setattr(check, "step", lambda name, command, **options: steps.append((name, command[1:4])))
    monkeypatch.setattr(check.venv, "create", lambda *path, **options: made.append(path))

    check.set_up()

    assert steps == [("uv", ["-m", "pip", "install"]), ("install", ["-m", "uv", "pip"])]
    assert bool(made) is not there


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        ("nothing", 0),
        (check.BESIDE, 1),
        (check.ON_RAY["tests on Ray"], 1),
        (check.ON_RAY["tests with several Ray nodes"], 1),
    ],
)
def test_each_process_of_tests_counts(monkeypatch, capfd, failing, code):
    """Whichever of the three processes fails, the command fails, and shows what each of them printed."""
    program = f"import sys; print('ran', sys.argv[2]); sys.exit(sys.argv[2] == {failing!r})"
    monkeypatch.setattr(check, "TEST", [sys.executable, "-c", program])

    assert check.test([]) == code
    printed = capfd.readouterr().out
    assert all(f"ran {which}\n" in printed for which in (check.BESIDE, *check.ON_RAY.values()))


def test_a_selection_may_leave_a_process_without_tests(monkeypatch):
    """Where options for pytest are given, a process without any test is no failure; without them it is."""
    monkeypatch.setattr(check, "TEST", [sys.executable, "-c", f"import sys; sys.exit({check.NO_TESTS})"])

    assert check.test(["-k", "name"]) == 0
    assert check.test([]) == check.NO_TESTS
