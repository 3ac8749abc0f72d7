"""Everything that must hold before a change lands: set-up, lint, types, tests. Needs nothing but Python 3.11 or later.

    python3 tests/check.py            all of it
    python3 tests/check.py -k resume  the same with options for pytest

It makes `.venv` in the project's folder, installs the project and its development group there, and stops at the first
step that fails. Tests that start several Ray nodes get a pytest process of their own: one process holds one Ray.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")

NO_TESTS = 5
"""pytest's exit code when a selection leaves no test."""

TEST = [PYTHON, "-m", "pytest", "--timeout", "300"]
"""A test that takes so many seconds hangs: it ends with the stacks of all threads."""


def main(options: list[str]) -> int:
    """The exit code of the first step that fails, 0 when none does."""
    set_up()
    steps = {
        "lint": [PYTHON, "-m", "ruff", "check", "."],
        "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "types": [PYTHON, "-m", "mypy"],
        "tests": [*TEST, "-m", "not nodes and not soak", *options],
        "tests with several Ray nodes": [*TEST, "-m", "nodes and not soak", *options],
    }
    for name, command in steps.items():
        code = step(name, command)
        if code and not (code == NO_TESTS and options):
            return code
    return 0


def set_up() -> None:
    """Make the environment, or bring it up to date; uv, because it takes a third of pip's time."""
    if not Path(PYTHON).exists():
        venv.create(VENV, with_pip=True)
    # Also where the environment is there: the README's first command makes one without uv.
    step("uv", [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"], must=True)
    uv = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON]
    step("install", [*uv, "--editable", ".", "--group", "dev"], must=True)


def step(name: str, command: list[str], *, must: bool = False) -> int:
    """Run one command in the project's folder; its exit code."""
    print(f"== {name}", flush=True)
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    outcome = "passed" if code == 0 else f"exit code {code}"
    print(f"== {name}: {outcome} after {time.monotonic() - began:.0f} s", flush=True)
    if must and code:
        sys.exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
