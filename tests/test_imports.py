"""What imports what: the layers of the package, and what importing it loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import themis

ROOT = Path(themis.__file__).parent

LAYERS = [
    {"errors"},
    {"records"},
    {"ids", "registry", "tables"},
    {"columns"},
    {"arrow"},
    {"winners"},
    {"stats"},
    {"scoring"},
    {"backends", "models", "benchmarks"},
    {"estimates"},
    {"report"},
    {"formats"},
    {
        *("work", "maps", "scorers", "plan", "stored", "health", "recorder", "provenance", "result"),
        *("blocks", "judging", "over_repeats", "covered", "rescoring", "run"),
    },
    {"evaluate"},
    {"score", "importing"},
    {"compare"},
    {"gates"},
    {"progress"},
    {"cli"},
    {"__main__"},
]
KNOW_EACH_OTHER = next(names for names in LAYERS if "run" in names)  # the parts of one run

USES = {
    "ray": {"backends/ray.py", "backends/_host.py"},
    "fsspec": {
        "backends/fsspec.py",
        "backends/_place.py",
        "backends/_parts.py",
        "backends/_writer.py",
        "benchmarks/data.py",
    },
    "s3fs": set(),
    "click": {
        *("cli/__init__.py", "cli/_shared.py", "cli/compare.py", "cli/eval.py", "cli/importing.py", "cli/names.py"),
        *("cli/runs.py", "cli/score.py"),
    },
}

HEAVY = [
    *("ray", "pyarrow", "s3fs", "aiohttp", "fsspec", "numpy", "huggingface_hub", "rich", "click", "pandas", "polars"),
    *("regex", "rapidfuzz", "sacrebleu", "scipy", "statsmodels"),
]


def modules():
    """Every source file of the package with its path below it."""
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(ROOT.rglob("*.py"))}


def imported(source):
    """Full names of what a file imports, wherever it does, for types too; and of what its tables name by text.

    Imports under TYPE_CHECKING count: a layer that names the types of a later one depends on it.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.fullmatch(r"(themis\.[\w.]+):\w+", node.value)
            if found:
                yield found.group(1)


def part(path):
    """The part of the package that a file or module belongs to: its first folder or its own name."""
    return path.split("/")[0].removesuffix(".py")


def layer(name):
    """The number of a part's layer."""
    return next(number for number, names in enumerate(LAYERS) if name in names)


PARTS = {part(path) for path in modules()} - {"__init__", "testing"}


def test_every_part_has_a_layer():
    """Each module and folder stands in exactly one layer; the package's own names and themis.testing stand outside."""
    assert sorted(PARTS) == sorted(name for names in LAYERS for name in names)


@pytest.mark.parametrize("path", [path for path in modules() if part(path) in PARTS])
def test_left_never_imports_right(path):
    """A module imports from earlier layers, its own folder, and beside it only what belongs to one run."""
    own = part(path)
    for name in imported(modules()[path]):
        if not name.startswith("themis.") or name == "themis.__version__":
            continue
        other = name.split(".")[1]
        assert other in PARTS, f"{path} imports {name}"
        beside = own == other or {own, other} <= KNOW_EACH_OTHER
        assert layer(other) < layer(own) or beside, f"{path} imports {name}"


def test_the_walk_sees_every_form_of_import():
    """Imports of all forms, in functions and for types, and names in tables are found."""
    source = """
from typing import TYPE_CHECKING
import themis.run
from themis import stats
if TYPE_CHECKING:
    from themis.cli import main
def late():
    import ray.data
TABLE = {"x": "themis.models.openai:OpenAIModel"}
"""
    assert set(imported(source)) == {
        *("typing.TYPE_CHECKING", "themis.run", "themis.stats", "themis.cli.main", "ray.data", "themis.models.openai")
    }


@pytest.mark.parametrize("package", USES)
def test_a_package_is_imported_only_where_it_belongs(package):
    """Ray is known to its backend alone, fsspec to the storage and the data reader, click to the command line."""
    users = {
        path
        for path, source in modules().items()
        if any(name.split(".")[0] == package for name in imported(source)) and part(path) != "testing"
    }

    assert users <= USES[package]


@pytest.mark.parametrize(
    "module", ["themis", "themis.backends", "themis.testing", "themis.models", "themis.benchmarks"]
)
def test_importing_is_light(module):
    """A fresh interpreter that imports it, and looks its names up in dir(), has loaded nothing heavy."""
    code = f"import sys, {module}; dir({module}); print(*sorted(set({HEAVY!r}) & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


def test_every_public_name_is_there():
    """Each name in __all__ of the package and of what it is imported from can be had, and another one cannot."""
    import themis.backends
    import themis.models
    import themis.testing

    for module in (themis, themis.backends, themis.models, themis.testing):
        assert all(getattr(module, name) is not None for name in module.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_evaluate_is_the_function_after_its_module_is_imported():
    """`themis.evaluate` means the function, also once the module of that name is loaded."""
    code = "import themis.evaluate; from themis import evaluate; print(callable(evaluate), callable(themis.evaluate))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "True"]
