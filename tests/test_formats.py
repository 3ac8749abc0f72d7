"""Reports and tables in the forms that other programs read."""

from __future__ import annotations

import csv
import io
import re

from test_report import hundred, report_of

from themis.formats import to_csv, to_latex, to_markdown
from themis.records import MetricResult, Report
from themis.tables import latex_table, markdown_table

ODD = r"a_b & 50% #1 {x} ~ ^ \cmd | <y> $z$"


def test_csv_has_every_number_in_full():
    """Each metric is a row whose numbers read back as they were, with an empty field where there is none."""
    report = report_of(*hundred(), benchmark='a,"b"\nc', benchmark_version="2")
    empty = Report("other", "b", "m", metrics={"f1": MetricResult(metric="f1")})
    first, second = csv.DictReader(io.StringIO(to_csv([report, empty])))
    result = report.metrics["exact_match"]

    assert (first["benchmark"], first["benchmark_version"], first["metric"]) == ('a,"b"\nc', "2", "exact_match")
    for name in ("mean", "stderr", "ci_low", "ci_high", "bound_low", "bound_high"):
        assert float(first[name]) == result[name]
    assert (first["n_scored"], first["n_attempted"], first["errors"]) == ("90", "100", "10 infrastructure")
    assert (second["run_id"], second["mean"], second["errors"]) == ("other", "", "")


def unescaped(latex):
    """The characters of LaTeX text that LaTeX would not print: commands of this module's escapes taken out."""
    return re.findall(r"[\\&%$#_{}~^<>|]", re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\$\\\w+\$|\{[\[*]\}", "", latex))


def test_latex_is_a_booktabs_table_with_every_cell_escaped():
    """The report's rows stand between the rules of booktabs, and no cell has a character that LaTeX acts on."""
    report = report_of(*hundred(), benchmark=ODD, model="[x] *")
    lines = to_latex(report).splitlines()

    assert lines[0] == r"\begin{tabular}{lllllllll}"
    assert [lines[n] for n in (1, 3, 5, 6)] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    assert lines[4].endswith(r" \\")
    cells = lines[4].removesuffix(r" \\").split(" & ")
    assert [cell for cell in cells if unescaped(cell)] == []
    assert len(cells) == 9
    assert r"$\pm$" in lines[4]
    assert "{[}0.8074, 0.9385]" in lines[4]


def test_latex_escapes_each_character_once():
    """What an escape is made of is not escaped again."""
    (row,) = latex_table(["h"], [["\\_~"]]).splitlines()[4:5]

    assert row == r"\textbackslash{}\_\textasciitilde{} \\"


def test_a_cell_stays_one_cell():
    """In Markdown a bar, a backslash before it and a newline do not end a cell or a row."""
    text = markdown_table(["h"], [["a|b\\|c\nd"]])

    assert text.splitlines()[2:] == ["| a\\|b\\\\\\|c d |"]
    assert len(to_markdown(report_of(*hundred())).splitlines()) == 3
    assert markdown_table(["h"], [["<answer> *5*\r\n`x`"]]).splitlines()[2] == "| \\<answer> \\*5\\* \\`x\\` |"
