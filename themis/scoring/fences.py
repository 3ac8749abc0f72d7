"""The fenced blocks of Python in an answer, and what one of them needs of those before it."""

from __future__ import annotations

import ast
import builtins
import re

_FENCE = re.compile(r"`{3,}|~{3,}")
_LANGUAGE = re.compile(r"[{.\s]*([^\s:,}]*)")
_PYTHON = re.compile(r"(?:i?py(?:thon)?[\d.]*)?")
LONGEST = 100_000
"""Characters up to which blocks are parsed: Python's parser is no match for every text of a million."""

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_Import = ast.Import | ast.ImportFrom


def python_blocks(text: str) -> list[str]:
    """The blocks in their order, as far in as their fences; one that is not closed ends the text.

    A fence is of three or more backticks or tildes, and closed by as many at least. It may begin, and with backticks
    also end, amid a line; what stands four columns further in than its beginning is of the block.
    """
    found: list[tuple[str, list[str]]] = []
    mark, margin = "", ""
    for line in text.split("\n"):
        fence = _FENCE.search(line)
        before, sign, after = (line[: fence.start()], fence[0], line[fence.end() :]) if fence else (line, "", "")
        tilde_in_line = sign.startswith("~") and bool(before.strip())
        if mark and sign.startswith(mark) and _ends(before.removeprefix(margin), after) and not tilde_in_line:
            mark = ""
            found[-1][1].extend([before.removeprefix(margin)] if before.strip() else [])
        elif mark:
            found[-1][1].append(line.removeprefix(margin))
        elif sign and "`" not in after and not tilde_in_line:
            mark, margin = sign, before if before.isspace() else ""
            found.append((_language(after), []))
    return ["\n".join(lines) for language, lines in found if _PYTHON.fullmatch(language)]


def _ends(before: str, after: str) -> bool:
    return not after.strip() and not (before.isspace() and len(before) > 3)


def _language(words: str) -> str:
    found = _LANGUAGE.match(words)
    return found[1].lower() if found else ""


def completed(code: str, earlier: list[str]) -> str:
    """The code, and before it the imports, functions and classes that it uses and earlier blocks have."""
    for block in reversed(earlier):
        tree, given = _parsed(code), _parsed(block)
        if tree is None or given is None:
            continue
        bound = _bound(tree)
        parts = [part for part in given.body if isinstance(part, _Definition | _Import) and not _names(part) & bound]
        if any(_names(part) & (_used(tree) - bound) for part in parts):
            code = "\n".join([*(_source(block, part) for part in parts), code])
    return code


def _parsed(code: str) -> ast.Module | None:
    if len(code) > LONGEST:
        return None
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(dir(builtins))


def _bound(tree: ast.AST) -> set[str]:
    """The names that are bound anywhere in the code."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return names.union(*(_names(node) for node in ast.walk(tree)))


def _names(node: ast.AST) -> set[str]:
    """The names that one definition or import binds."""
    if isinstance(node, _Definition):
        return {node.name}
    if isinstance(node, _Import):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return set()


def _source(code: str, part: _Definition | _Import) -> str:
    decorators = [] if isinstance(part, _Import) else part.decorator_list
    first = min([part.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n".join(code.split("\n")[first - 1 : part.end_lineno])
