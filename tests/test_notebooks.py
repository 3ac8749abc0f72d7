"""The notebooks run from top to bottom, offline, and show what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
AFTER = "import ray; print('ray is running:', ray.is_initialized())"


def run(path, folder, monkeypatch):
    """The code cells after a run by this interpreter, in an empty folder; one cell more asks whether Ray runs."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    kernelspec = pytest.importorskip("ipykernel.kernelspec")
    kernelspec.write_kernel_spec(folder / "jupyter" / "kernels" / "of-this-test")  # names sys.executable
    for name in ("JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(folder / "jupyter"))
    for name in ("THEMIS_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

    work = folder / "work"
    work.mkdir()
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(AFTER))
    where = {"metadata": {"path": str(work)}}
    nbclient.NotebookClient(notebook, timeout=90, kernel_name="of-this-test", resources=where).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output(cell, kind="text/plain"):
    """What a cell wrote and what it showed, as one text."""
    printed = [out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout"]
    shown = [out.data.get(kind, "") for out in cell.outputs if out.output_type == "execute_result"]
    return "".join(printed + shown)


def test_the_quickstart_shows_what_it_says(tmp_path, monkeypatch):
    """Every cell runs; scores, wrong answers, resuming, Ray and DuckDB show the known numbers; Ray is stopped."""
    cells = run(NOTEBOOKS / "quickstart.ipynb", tmp_path, monkeypatch)
    first, number, wrong, again, own, on_ray, query, after = cells

    for cell in (first, own, on_ray):
        assert output(cell, "text/html").count("<table>") == 1
        assert output(cell).lstrip("True \n").startswith("benchmark ")  # the same as text, where HTML is not shown
    assert "300/300 (100.0%)" in output(first, "text/html")
    assert output(number) == "0.8133 of 300 scored, 300 attempted\n"
    assert output(wrong).startswith("56 wrong answers")
    assert re.search(r"<td>917</td>\s*<td>916</td>", output(wrong, "text/html"))  # answer and target, both as text
    assert output(again).startswith("complete: no model was called, 300 answers were stored already")
    assert "0.6667" in output(own, "text/html")
    assert output(on_ray).startswith("True True\n")
    assert "complete: 300 asked now, 0 answers were stored already (run on-ray)" in output(on_ray, "text/html")
    assert [line.split()[2:] for line in output(query).splitlines()[1:]] == [
        ["3", "0.666667"],
        ["300", "0.813333"],
        ["300", "0.813333"],
    ]
    assert output(after) == "ray is running: False\n"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    """No outputs are committed: nobody could tell of which version they are, and every run would change them."""
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}
