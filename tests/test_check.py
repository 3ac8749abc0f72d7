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
