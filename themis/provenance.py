"""Where and with what a run was made. It is stored beside the records and is never a key."""

from __future__ import annotations

import platform
import subprocess  # git is a program
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("themis-ray", "ray", "pyarrow", "fsspec", "s3fs", "aiohttp", "huggingface_hub", "numpy")


def provenance() -> dict[str, Any]:
    """Versions of Python, of the packages that matter and of the working folder's git commit, as JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git": _git_state(),
        "program": sys.argv[0] if sys.argv else "",  # never its arguments: they may hold keys
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """The commit of the working folder and whether files differ from it; None outside of a repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.strip(), "dirty": bool((_git("status", "--porcelain") or "").strip())}


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
