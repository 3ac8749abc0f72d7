"""The pages are true: code runs, commands parse, links lead somewhere; and what is public is described."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = {"sh", "console"}
NOTEST = re.compile(r"notest: \S.{9,}")
"""What follows `python` where a block does not run: the reason, for the reader of the page's source."""

MODULES = ["themis", "themis.backends", "themis.testing", "themis.models", "themis.scoring", "themis.benchmarks"]
MODULES += ["themis.compare", "themis.importing", "themis.stats"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, by the line (from 1) on which its text begins."""

    language: str
    info: str
    text: str
    line: int


def blocks(page):
    """The fenced blocks of a page, in their order."""
    found, fence = [], None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if fence is None and line.startswith("```"):
            language, _, info = line[3:].partition(" ")
            fence, lines = (language, info.strip(), number + 1), []
        elif fence is not None and line.startswith("```"):
            found.append(Block(*fence[:2], "\n".join(lines), fence[2]))
            fence = None
        elif fence is not None:
            lines.append(line)
    assert fence is None, f"{page.name}: a fence is not closed"
    return found


def script(page):
    """The Python of a page as one script, each line on the line that it has in the page; "" where there is none."""
    lines = [""] * len(page.read_text("utf-8").splitlines())
    found = False
    for block in blocks(page):
        if block.language == "python" and not block.info:
            text = block.text.splitlines()
            lines[block.line - 1 : block.line - 1 + len(text)] = text
            found = True
    return "\n".join(lines) if found else ""


def environment(**more):
    """This process's environment without what would change a page's meaning."""
    ours = re.compile(r"THEMIS_|RAY_ADDRESS|OPENAI_|HF_|AWS_|\w+_API_KEY")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200", **more}


@pytest.fixture(scope="module")
def bucket(s3):
    """The bucket that the pages use."""
    boto3 = pytest.importorskip("boto3")
    access = {"aws_access_key_id": s3.key, "aws_secret_access_key": s3.secret, "endpoint_url": s3.endpoint}
    boto3.client("s3", region_name="us-east-1", **access).create_bucket(Bucket="team-evals")
    return s3


@pytest.mark.parametrize("page", list(filter(script, PAGES)), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, bucket, tmp_path):
    """All blocks of a page, top to bottom, are one script that runs in an empty folder; contract suites in it pass."""
    code = script(page)
    (tmp_path / "page.py").write_text(code, "utf-8")
    suites = re.search(r"^class \w+\(\w+BackendTests\)", code, re.MULTILINE)
    how = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."] if suites else []  # importing is running
    done = subprocess.run(
        [sys.executable, *how, "page.py"],
        cwd=tmp_path,
        env=environment(**bucket.environment),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "cluster" / "README.md"], ids=lambda page: page.parent.name + page.name
)
def test_blocks_that_do_not_run_say_why(page):
    """Every block has a language that is known, and a Python block that is not run has its reason beside it."""
    languages = {"python", "text", "toml", "sql", "json", *SHELL}
    unexplained = [
        f"line {block.line}"
        for block in blocks(page)
        if block.language not in languages
        or (block.info and (block.language != "python" or not NOTEST.fullmatch(block.info)))
    ]
    assert unexplained == []


def commands(text):
    """The commands of shell text as lists of words: comments, prompts and what connects commands left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";&|")
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if set(word) <= set(";&|"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def parse(program, words):
    """The context of a command, as click sees it, or the click.UsageError that it would end with."""
    command, name, parent = program, program.name, None
    while isinstance(command, click.Group) and words:
        parent = click.Context(command, info_name=name, parent=parent)
        name, *words = words
        command = command.get_command(parent, name)
        if command is None:
            raise click.UsageError(f"no command {name!r}")
    return command.make_context(name, list(words), parent=parent)


def check(words):
    """The context of a command of `themis`, else None; Ray's own commands, and the jobs in them, are parsed too."""
    from themis.cli import themis

    program = Path(words[0]).name if words else ""
    if program == "themis":
        return parse(themis, words[1:])
    if program == "ray":
        from ray.scripts.scripts import cli

        parse(cli, words[1:])
    job = [n for n, word in enumerate(words) if word.endswith("job.py")]
    if job and program in {"ray", "python"}:
        arguments = [word for word in words[job[-1] + 1 :] if word != "--"]
        if arguments != ["..."]:
            return parse(themis, ["eval", *arguments, "--backend", "ray"])
    return None


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "cluster" / "README.md"], ids=lambda page: page.parent.name + page.name
)
def test_every_command_of_a_page_parses(page):
    """Each `themis` and `ray` command, in blocks and in the text, has options that exist."""
    for block in blocks(page):
        if block.language in SHELL:
            for words in commands(block.text):
                check(words)
    outside = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for text in re.findall(r"`((?:themis|ray) [a-z][^`]*)`", outside):
        for words in commands(text.replace("\n", " ")):
            try:
                check(words)
            except (click.MissingParameter, click.BadOptionUsage, click.exceptions.NoArgsIsHelpError):
                continue  # the text speaks of a command or an option, and leaves out what does not matter there


@pytest.mark.parametrize(
    "command", ["themis eval arithmetic --model demo --wrokers 3", "themis evil x", "ray up --yse c"]
)
def test_a_wrong_command_is_found(command):
    """The parser of these tests refuses an option, or a command, that does not exist."""
    (words,) = commands(command)
    with pytest.raises(click.UsageError):
        check(words)


def runs_here(context):
    """Whether a command needs neither a key, nor a server, nor a cluster, nor a bucket."""
    if context is None or context.info_name not in {"eval", "compare"}:
        return False
    given = context.params
    if context.info_name == "compare":
        return not any("://" in run for run in given["runs"])
    return given["benchmark"] == "arithmetic" and given["model"] == "demo" and "BUCKET" not in str(given["storage"])


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "statistics.md"], ids=lambda page: page.name)
def test_commands_on_the_embedded_benchmark_print_what_the_page_shows(page, tmp_path):
    """Commands on `arithmetic` and `demo` run with exit code 0; the block of text after them is what they print."""
    output = ""
    compared = 0
    for block in blocks(page):
        if block.language == "text" and output:
            printed = [line.rstrip() for line in output.splitlines()]
            assert [line for line in block.text.splitlines() if line.rstrip() not in printed] == []
            compared += 1
        if block.language not in SHELL:
            continue
        output = ""
        for words in filter(lambda words: runs_here(check(words)), commands(block.text)):
            done = subprocess.run(
                [sys.executable, "-m", "themis", *words[1:]],
                cwd=tmp_path,
                env=environment(),
                check=False,
                capture_output=True,
                text=True,
                timeout=90,
            )
            assert done.returncode == 0, done.stderr
            output += done.stdout
    assert compared > 0


def headings(page):
    """The anchors that a code host gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def texts():
    """Every Markdown file of the repository, and every notebook's Markdown, as (file, text)."""
    for path in sorted(ROOT.rglob("*.md")):
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            yield path, path.read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        yield path, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_links_lead_to_files_and_headings_that_exist():
    """Each relative link, in any page or notebook, names a file that is there, and a heading of it if any."""
    broken, count = [], 0
    for path, text in texts():
        for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
            count += 1
            file = (path.parent / target).resolve() if target else path
            if not file.exists() or (anchor and anchor not in headings(file)):
                broken.append(f"{path.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []
    assert count > 10


def described(value):
    """Whether a docstring says more than what dataclasses write by themselves."""
    doc = inspect.getdoc(value) or ""
    return bool(doc) and not doc.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module):
    """Every class and function of `__all__`, and every public method and property of the classes, is described."""
    public = importlib.import_module(module)
    missing = []
    for name in public.__all__:
        value = getattr(public, name)
        if inspect.isclass(value):
            members = inspect.getmembers(value, lambda m: inspect.isroutine(m) or isinstance(m, property))
            missing += [f"{name}.{m}" for m, member in members if not m.startswith("_") and not inspect.getdoc(member)]
        if (inspect.isclass(value) or inspect.isroutine(value)) and not described(value):
            missing.append(name)
    assert missing == []


def test_public_names_are_listed_once():
    """`__all__` of each public module names what exists, each name once, in order."""
    for module in map(importlib.import_module, MODULES):
        assert [name for name, times in Counter(module.__all__).items() if times > 1] == []
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
