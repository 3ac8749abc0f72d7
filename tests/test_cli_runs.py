"""`themis runs`: what a user sees of a storage, and what can be done with it, on any URL."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest

from themis import evaluate
from themis.backends import FsspecStorageBackend
from themis.cli import run
from themis.cli.runs import age, size
from themis.formats import to_latex, to_markdown
from themis.records import GenerationRecord

ROWS = [{"question": f"q{number}", "answer": str(number)} for number in range(30)]


def answer(prompt):
    """Right, but for the first question."""
    return prompt[1:] if prompt != "q0" else "7"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and no settings of the caller's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THEMIS_STORAGE", raising=False)
    return tmp_path


def make(url, run_id="mine", limit=None):
    """A finished run."""
    return evaluate(ROWS, answer, storage=str(url), run_id=run_id, limit=limit)


def shown(capsys, *command, code=0):
    """What a command prints, once it has ended with that exit code."""
    capsys.readouterr()
    assert run(list(command)) == code, capsys.readouterr()
    return capsys.readouterr()


def listed(capsys, *command):
    """The runs of `runs list --json`, by id."""
    return {info["run_id"]: info for info in json.loads(shown(capsys, "runs", "list", *command, "--json").out)}


def test_list_shows_state_size_age_and_scores(here, capsys):
    """Each run is a line with its answers, size, files, age and scores; `list runs` is the same."""
    make(here / ".themis/runs", "mine")
    make(here / ".themis/runs", "other", limit=10)
    line = next(line for line in shown(capsys, "runs", "list").out.splitlines() if line.startswith("mine"))

    assert [
        word for word in line.split() if word in {"custom", "complete", "30", "kB", "s", "ago", "exact_match", "0.9667"}
    ] == ["custom", "complete", "30", "kB", "s", "ago", "exact_match", "0.9667"]
    assert shown(capsys, "list", "runs").out.split()[:8] == shown(capsys, "runs", "list").out.split()[:8]
    info = listed(capsys)["mine"]
    files = [path for path in (here / ".themis/runs/mine").rglob("*") if path.is_file()]
    assert (info["n_files"], info["n_bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert (info["records"]["generations"], info["state"]) == (30, "complete")


def test_an_empty_place_lists_nothing_and_says_so(here, capsys):
    """A storage without runs is no error; stderr says where nothing was found."""
    printed = shown(capsys, "runs", "list", "nowhere")

    assert printed.out.split()[:2] == ["run", "benchmark"]
    assert "nowhere" in printed.err
    assert listed(capsys, "nowhere") == {}


_WRITE = """
import sys, time
from themis.backends import FsspecStorageBackend
from themis.formats import to_latex, to_markdown
from themis.records import GenerationRecord
storage = FsspecStorageBackend(sys.argv[1])
storage.save_generation_record("writing", GenerationRecord("1", "p", "r"))
print("saved", flush=True)
time.sleep(60)
"""


def test_a_run_is_going_until_its_writer_dies(here, capsys):
    """A run that a process writes is going, and not deleted by mistake; killed, it is interrupted, and deleted."""
    make(here)
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(here)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as writer:
        try:
            writer.stdout.readline()
            going = listed(capsys, str(here))
            refused = shown(capsys, "runs", "delete", "writing", "--storage", str(here), "--yes", code=2)
        finally:
            writer.send_signal(signal.SIGKILL)
    interrupted = listed(capsys, str(here))

    assert (going["mine"]["state"], going["writing"]["state"]) == ("complete", "going")
    assert "--force" in refused.err
    assert (interrupted["mine"]["state"], interrupted["writing"]["state"]) == ("complete", "interrupted")
    shown(capsys, "runs", "delete", "writing", "--storage", str(here), "--yes")
    assert list(listed(capsys, str(here))) == ["mine"]


def test_show_prints_the_report_in_every_form(here, capsys):
    """`show --format` prints Markdown, CSV, JSON and LaTeX, and names the forms where another one is asked for."""
    report = make(here / "runs").report
    show = ("show", "runs/mine", "--format")

    assert shown(capsys, *show, "markdown").out == to_markdown(report) + "\n"
    (row,) = csv.DictReader(shown(capsys, *show, "csv").out.splitlines())
    assert float(row["mean"]) == report.metrics["exact_match"].mean
    assert shown(capsys, *show, "latex").out == to_latex(report) + "\n"
    assert json.loads(shown(capsys, *show, "json").out) == json.loads(shown(capsys, "show", "runs/mine", "--json").out)
    assert "Did you mean 'latex'?" in shown(capsys, *show, "latx", code=2).err


def test_show_takes_an_id_or_the_url_of_a_run(here, capsys):
    """`runs show` of an id and `show` of a folder print report, state and size; a run without report is said so."""
    make(here / "runs")
    by_id = shown(capsys, "runs", "show", "mine", "--storage", "runs").out
    by_url = shown(capsys, "show", str(here / "runs/mine/")).out
    FsspecStorageBackend(here / "runs").save_run_metadata("bare", {})
    bare = shown(capsys, "show", "runs/bare", code=3).out

    assert "29/30" not in by_id
    assert "30/30" in by_id
    assert "30 generations, 30 evaluations by 1 writer, " in by_id
    assert by_url.splitlines()[:2] == by_id.splitlines()[:2]
    assert "no report yet" in bare
    report = json.loads(shown(capsys, "runs", "show", "runs/mine", "--json").out)["report"]
    assert report["metrics"]["exact_match"]["n_scored"] == 30


def damage(folder):
    """Flip a byte in the middle of the only part of a folder; its path."""
    (part,) = folder.glob("*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 0xFF
    part.write_bytes(data)
    return part


def test_verify_names_what_is_damaged_and_repair_lets_it_be_asked_again(here, capsys):
    """One flipped byte: exit code 1 and the file's name; after --repair the same call asks those rows again."""
    make(here / "runs")
    make(here / "runs", "other")
    clean = shown(capsys, "runs", "verify", "--storage", "runs").out
    part = damage(here / "runs/mine/generations")
    found = shown(capsys, "runs", "verify", "--storage", "runs", code=1).out
    as_json = json.loads(shown(capsys, "runs", "verify", "runs/mine", "--json", code=1).out)
    shown(capsys, "runs", "verify", "runs/mine", "--repair")
    again = make(here / "runs")

    assert [line.split(",")[0] for line in clean.splitlines()] == ["mine: clean", "other: clean"]
    assert part.name in found
    assert "other: clean" in found
    assert [(one["run_id"], one["clean"]) for one in as_json] == [("mine", False)]
    assert as_json[0]["problems"][0]["path"] == f"mine/generations/{part.name}"
    assert (again.n_asked, again.report.status) == (30, "complete")
    assert "mine: clean" in shown(capsys, "runs", "verify", "runs/mine").out


def test_compact_merges_the_parts_of_many_writers(here, capsys):
    """Twenty small parts become one, nothing else changes, and --format jsonl turns it into JSON lines."""
    for number in range(20):
        with FsspecStorageBackend(here) as storage:
            storage.save_generation_record("run", GenerationRecord(str(number % 10), "p", f"r{number}"))
    before = {record.id: record.response for record in FsspecStorageBackend(here).load_generation_records("run")}
    said = shown(capsys, "runs", "compact", "run", "--storage", str(here)).out

    assert said.startswith("run: 20 parts (")
    assert "became 1 (" in said
    assert "10 superseded rows dropped" in said
    shown(capsys, "runs", "compact", str(here / "run"), "--format", "jsonl")
    assert [path.suffix for path in (here / "run/generations").iterdir()] == [".jsonl"]
    after = {record.id: record.response for record in FsspecStorageBackend(here).load_generation_records("run")}
    assert after == before


def test_delete_asks_first(here, capsys, monkeypatch):
    """Without a terminal and --yes nothing is deleted; on a terminal "n" keeps the run, and "y" deletes it alone."""
    for run_id in ("run1", "run10"):
        make(here, run_id, limit=1)
    assert "--yes" in shown(capsys, "runs", "delete", "run1", "--storage", str(here), code=2).err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter([False, True])

    def confirm(text, **_):
        if not next(answers):
            raise click.Abort
        assert "1 run" in text

    monkeypatch.setattr(click, "confirm", confirm)
    shown(capsys, "runs", "delete", "run1", "--storage", str(here), code=3)
    assert list(listed(capsys, str(here))) == ["run1", "run10"]
    assert "deleted run1" in shown(capsys, "runs", "delete", "run1", "--storage", str(here)).out
    assert list(listed(capsys, str(here))) == ["run10"]


def read_exported(path):
    """Rows of an exported file as (id, response), by its ending."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    return sorted((row["id"], row["response"]) for row in rows)


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_export_writes_one_file_with_each_record_once(name, here, capsys):
    """csv, jsonl and Parquet, chosen by the ending, hold the winning records, quotes and line ends included."""
    texts = {"1": 'say "a, b"\nand c', "2": "plain", "3": "ü\r\n"}
    with FsspecStorageBackend(here / "runs") as storage:
        for text in ("superseded", None):
            records = [GenerationRecord(record, "p", text or texts[record]) for record in texts]
            storage.save_generation_records("run", records)
    said = shown(capsys, "runs", "export", "runs/run", name).out

    assert "3 generations of run" in said
    assert read_exported(here / name) == sorted(texts.items())


def test_everything_works_on_s3(s3_environment, here, capsys):
    """list, show, verify, compact, export and delete of a run in a bucket; its neighbour stays as it was."""
    url = s3_environment.new_url()
    make(url, "run1")
    make(url, "run10")

    assert [info["state"] for info in listed(capsys, url).values()] == ["complete", "complete"]
    assert "30/30" in shown(capsys, "show", f"{url}/run1").out
    assert "clean" in shown(capsys, "runs", "verify", f"{url}/run1").out
    shown(capsys, "runs", "compact", "run1", "--storage", url)
    shown(capsys, "runs", "export", f"{url}/run1", f"{url}/scores.jsonl", "--kind", "evaluations")
    shown(capsys, "runs", "export", f"{url}/run1", "scores.parquet", "--kind", "evaluations")
    assert pq.read_table("scores.parquet").num_rows == 30
    shown(capsys, "runs", "delete", f"{url}/run1", "--yes")
    assert list(listed(capsys, url)) == ["run10"]
    assert "clean" in shown(capsys, "runs", "verify", f"{url}/run10").out


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["runs", "lst"], 2, ["'lst'", "'list'"]),
        (["runs", "show", "nope"], 1, ["'nope'"]),
        (["runs", "verify", "nope"], 1, ["'nope'"]),
        (["runs", "compact", "nope"], 1, ["'nope'"]),
        (["runs", "compact", "x", "--format", "parket"], 2, ["'parket'", "'parquet'"]),
        (["runs", "delete", "nope", "--yes"], 1, ["'nope'"]),
        (["runs", "delete"], 2, ["RUN"]),
        (["runs", "export", "nope", "x.csv"], 1, ["'nope'"]),
        (["runs", "export", "runs/mine", "x.xlsx"], 2, ["x.xlsx", "csv, jsonl, parquet"]),
        (["runs", "export", "runs/mine", "/dev/null/x.csv"], 1, ["/dev/null"]),
        (["runs", "export", "runs/mine", "x.csv", "--kind", "generation"], 2, ["'generation'", "'generations'"]),
        (["runs", "list", "s4://bucket"], 2, ["s4://bucket", "s3://"]),
        (["runs", "show", "runs/a b"], 2, ["'a b'", "A-Z"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(command, code, says, here, capsys):
    """What a user can get wrong is said with the value and what is possible, and no traceback."""
    make(here / "runs", limit=1)
    err = shown(capsys, *command, code=code).err

    for part in says:
        assert part in err
    assert "Traceback" not in err


def test_sizes_and_ages_are_short():
    """Sizes have three digits at most and a unit; ages the largest unit that fits."""
    assert [size(n) for n in (0, 999, 1000, 12_345, 999_600, 5 * 10**9)] == [
        *("0 B", "999 B", "1.0 kB", "12.3 kB", "1.0 MB", "5.0 GB")
    ]
    assert [age(moment, 100_000.0) for moment in (None, 100_050.0, 99_990.0, 99_000.0, 80_000.0, 1.0)] == [
        *("-", "0 s ago", "10 s ago", "17 min ago", "6 h ago", "1 d ago")
    ]
