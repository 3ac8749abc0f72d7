"""Everything that must hold before a change lands: set-up, lint, types, tests. Needs nothing but Python 3.11 or later.

    python3 tests/check.py            all of it
    python3 tests/check.py -k resume  the same with options for pytest

It makes `.venv` in the project's folder, installs the project and its development group there, and stops at the first
step that fails; all tests run, and then the first failure counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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


BESIDE = "not ray and not nodes and not soak"
"""Tests that do without the session's Ray: they wait a lot, and so do those with it."""

ON_RAY = {"tests on Ray": "ray and not nodes and not soak", "tests with several Ray nodes": "nodes and not soak"}
"""Each in a process of its own: one process holds one Ray."""


def main(options: list[str]) -> int:
    """The exit code of the first step that fails, 0 when none does."""
    set_up()
    for name, command in {
        "lint": [PYTHON, "-m", "ruff", "check", "."],
        "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "types": [PYTHON, "-m", "mypy"],
    }.items():
        if code := step(name, command):
            return code
    return test(options)


def test(options: list[str]) -> int:
    """Run all tests, those without Ray beside the others; their output comes when both are done."""
    with tempfile.TemporaryFile() as output:
        beside = subprocess.Popen([*TEST, "-m", BESIDE, *options], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            codes = [step(name, [*TEST, "-m", which, *options]) for name, which in ON_RAY.items()]
            print("== tests without Ray, which ran meanwhile", flush=True)
            codes.append(beside.wait())
        finally:
            beside.kill()
            beside.wait()
        output.seek(0)
        print(output.read().decode(errors="replace"), flush=True)
    failed = [code for code in codes if code and not (code == NO_TESTS and options)]
    print(f"== tests: {f'exit code {failed[0]}' if failed else 'passed'}", flush=True)
    return failed[0] if failed else 0


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
