"""Rows of text under headings, as a terminal, Markdown, HTML, CSV and LaTeX want them."""

from __future__ import annotations

import csv
import html
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "≥": r"$\geq$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # bare, it would be an argument of the \\ before it
        "*": "{*}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|<`*"})
"""What would end a cell, or vanish when it is rendered: an answer may well be "<answer>"."""


def terminal_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """For a terminal: rich prints it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: rich would read "[0.80, 0.90]" as markup
    return table


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, without a newline at the end; a newline within a cell becomes a space."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In HTML, for notebooks."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def csv_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """In CSV: numbers in full, None as an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return text.getvalue()


def latex_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""In LaTeX: a tabular with the rules of the package booktabs (\usepackage{booktabs}), every cell escaped."""
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(headings)}}}",
        r"\toprule",
        _latex_row(headings),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """In Markdown, on one line, every character as itself."""
    return " ".join(text.translate(_MARKDOWN).splitlines())


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(' '.join(cell.translate(_LATEX).split()) for cell in cells)} \\"
