"""Rows out of files and URLs, and from a data hub over loopback."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from themis.benchmarks import load_benchmark
from themis.benchmarks.data import locate, read_rows, stem
from themis.errors import DataError

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "Größe, „x“?", "answer": "7"}]
GSM8K = [{"question": "What is 2 + 2?", "answer": "It is 4.\n#### 4"}]


def _plain(ending):
    if ending == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    if ending == "json":
        return json.dumps(ROWS).encode()
    if ending == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        return sink.getvalue().to_pybytes()
    mark = {"csv": ",", "tsv": "\t"}[ending]
    lines = [["question", "answer"], *([row["question"], row["answer"]] for row in ROWS)]
    return "\r\n".join(mark.join(f'"{cell}"' for cell in line) for line in lines).encode("utf-8-sig")


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_format(tmp_path, ending, compression):
    """Every format, plain and compressed, gives the same rows."""
    data = _plain(ending)
    if compression == ".gz":
        data = gzip.compress(data)
    elif compression == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    path = tmp_path / f"rows.{ending}{compression}"
    path.write_bytes(data)

    assert list(read_rows(path)) == ROWS


def test_protocols_and_globs(tmp_path):
    """A file:// URL, a glob and a folder with one data file read the same rows, files of a glob in order of name."""
    (tmp_path / "b.jsonl").write_text(json.dumps({"n": 2}))
    (tmp_path / "a.jsonl").write_text(json.dumps({"n": 1}))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "README.md").write_text("words")
    (alone / "rows.csv").write_text("n\n3\n")

    assert list(read_rows(f"file://{tmp_path}/a.jsonl")) == [{"n": 1}]
    assert list(read_rows(str(tmp_path / "*.jsonl"))) == [{"n": 1}, {"n": 2}]
    assert list(read_rows(alone)) == [{"n": "3"}]


def test_lazy(tmp_path):
    """Rows before a broken one are given before it is read."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2}\nbroken\n')
    rows = read_rows(path)

    assert list(islice(rows, 2)) == [{"n": 1}, {"n": 2}]
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: line 4 is not JSON"):
        next(rows)


def test_values_are_json(tmp_path):
    """NaN becomes None, a date its ISO text, bytes base64, so that a row can be stored as it is."""
    (tmp_path / "rows.jsonl").write_text('{"x": NaN, "y": [Infinity]}')
    day = pa.array([0], pa.date32())
    table = pa.table({"x": [float("nan")], "day": day, "raw": [b"\xff"], "deep": [{"a": [1.5]}]})
    pq.write_table(table, tmp_path / "rows.parquet")

    assert list(read_rows(tmp_path / "rows.jsonl")) == [{"x": None, "y": [None]}]
    assert list(read_rows(tmp_path / "rows.parquet")) == [
        {"x": None, "day": "1970-01-01", "raw": "/w==", "deep": {"a": [1.5]}}
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl", "", "no rows"),
        ("rows.jsonl", "[1, 2]\n", "line 1 is a list; every row must be an object"),
        ("rows.json", '{"a": [], "b": []}', "it has 2: a, b"),
        ("rows.json", "[{}, 3]", "row 2 is a int"),
        ("rows.json", '{"a":\n }', "the file is not JSON.*line 2"),
        ("rows.csv", "a,b\n1,2\n3\n", "row 2 has 1 fields, but the header 2"),
        ("rows.csv", 'a,b\n"1,2\n', "line 2 is not what the ending says"),
        ("rows.csv", "", "no rows"),
        ("rows.parquet", "PAR1", "rows.parquet: Arrow"),
        ("rows.jsonl.gz", "not gzip", "is not what its ending says"),
        ("rows.xlsx", "x", "its ending does not say what it is; known are .jsonl"),
    ],
)
def test_bad_file(tmp_path, name, content, reason):
    """What is wrong with a file is said with its name, the row and the reason."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        list(read_rows(path))

    assert str(caught.value).startswith(str(path))


def test_bad_place(tmp_path):
    """A missing file, a folder of several files, an empty glob and an unknown protocol are told apart."""
    (tmp_path / "a.csv").write_text("n\n1\n")
    (tmp_path / "b.csv").write_text("n\n1\n")
    for place, reason in [
        (tmp_path / "none.jsonl", "there is no such file"),
        (tmp_path, "has 2, .*a.csv the first; give the file"),
        (tmp_path / "*.tsv", "no file matches"),
        ("nowhere://x/y.jsonl", "Protocol not known"),
    ]:
        with pytest.raises(DataError, match=reason):
            list(read_rows(place))


def test_long_csv_field(tmp_path):
    """A csv field may be longer than the csv module's own limit of 128 kB."""
    (tmp_path / "rows.csv").write_text(f"context,answer\n{'x' * 200_000},1\n")

    assert len(next(read_rows(tmp_path / "rows.csv"))["context"]) == 200_000


def test_stem():
    """A benchmark out of a file is called by the file's name without endings, folders and query."""
    assert [
        stem(url) for url in ("quiz.jsonl.gz", "s3://b/k/quiz.csv", "https://h/quiz.json?a=b.c", "test-00000.parquet")
    ] == ["quiz", "quiz", "quiz", "test-00000"]


def test_s3(s3):
    """An S3 URL is read with the options given."""
    import fsspec

    url = f"{s3.new_url()}/rows.jsonl"
    fs, path = fsspec.core.url_to_fs(url, **s3.storage_options)
    fs.pipe_file(path, _plain("jsonl"))

    assert list(read_rows(url, storage_options=s3.storage_options)) == ROWS


def test_locate(tmp_path, monkeypatch):
    """A shipped benchmark's rows are below $THEMIS_DATA where they exist there, else on the hub."""
    monkeypatch.setenv("THEMIS_DATA", str(tmp_path))
    assert locate("gsm8k/test.jsonl", "hf://x") == "hf://x"
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(GSM8K[0]))

    benchmark = load_benchmark("gsm8k")

    assert str(tmp_path / "gsm8k" / "test.jsonl") == benchmark.source
    assert [sample.target for sample in benchmark.samples()] == ["4"]


class Hub(ThreadingHTTPServer):
    """The part of the data hub's HTTP API that reading files uses; data sets whose name has "gated" are gated."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files = files
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((path, self.headers.get("Authorization")))
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            self._repository(found.group(1))
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/main/?(.*)", path):
            self._tree(found.group(1), found.group(2))
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/main/(.+)", path):
            self._file(found.group(1), found.group(2))
        else:
            self._send(404, b"{}")

    def _repository(self, name):
        if any(key[0] == name for key in self.server.files):
            self._send(200, json.dumps({"id": name, "sha": "0" * 40, "siblings": [], "tags": []}).encode())
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, name, folder):
        prefix = f"{folder}/" if folder else ""
        everything = "recursive=true" in urlsplit(self.path).query.lower()
        entries = {}
        for (owner, path), data in self.server.files.items():
            below = path.removeprefix(prefix)
            if owner != name or not path.startswith(prefix):
                continue
            if "/" in below:
                child = f"{prefix}{below.split('/')[0]}"
                entries[child] = {"type": "directory", "oid": "2" * 40, "size": 0, "path": child}
            if everything or "/" not in below:
                entries[path] = {"type": "file", "oid": "1" * 40, "size": len(data), "path": path}
        self._send(200 if entries else 404, json.dumps(list(entries.values())).encode())

    def _file(self, name, path):
        data = self.server.files.get((name, path))
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif "gated" in name and self.headers.get("Authorization") != "Bearer hf_secret":
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(found.group(1)), int(found.group(2) or len(data) - 1)
            self._send(206, data[first : last + 1])
        else:
            self._send(200, data)

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"ETag": '"1"', "X-Repo-Commit": "0" * 40, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A data hub with GSM8K's and MATH-500's test files and a gated data set, reached through HF_ENDPOINT."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(GSM8K), sink)
    math = {"problem": "$1+1$?", "solution": r"\boxed{2}", "answer": "2", "subject": "Algebra", "unique_id": "a/1"}
    server = Hub(
        {
            ("openai/gsm8k", "main/test-00000-of-00001.parquet"): sink.getvalue().to_pybytes(),
            ("HuggingFaceH4/MATH-500", "test.jsonl"): json.dumps(math).encode(),
            ("team/gated-quiz", "test.jsonl"): json.dumps(ROWS[0]).encode(),
        }
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("THEMIS_DATA", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_hub(hub):
    """Without $THEMIS_DATA, gsm8k and math500 come from the data hub at HF_ENDPOINT."""
    (gsm8k,) = load_benchmark("gsm8k").samples()
    (math500,) = load_benchmark("math500").samples()

    assert (gsm8k.id, gsm8k.input, gsm8k.target) == ("0", "What is 2 + 2?", "4")
    assert (math500.id, math500.target, math500.group) == ("a/1", "2", "Algebra")


def test_hub_fresh_process(hub):
    """A fresh process reads any hf:// URL with nothing but HF_ENDPOINT set."""
    code = (
        "from themis.benchmarks.data import read_rows; print(len(list(read_rows('hf://datasets/openai/gsm8k/main/*'))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True, timeout=60
    )

    assert found.stdout.strip() == "1"


def test_hub_gated(hub, monkeypatch):
    """Gated data says to accept its terms and set HF_TOKEN, and is read once the token is set."""
    url = "hf://datasets/team/gated-quiz/test.jsonl"
    with pytest.raises(DataError, match=r"the data is gated.*HF_TOKEN"):
        list(read_rows(url))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    assert ROWS[:1] == list(read_rows(url))
    assert hub.asked[-1][1] == "Bearer hf_secret"


def test_hub_missing(hub):
    """A data set and a file that the hub does not have are told apart."""
    with pytest.raises(DataError, match="the hub has no such data set"):
        list(read_rows("hf://datasets/nobody/nothing/test.jsonl"))
    with pytest.raises(DataError, match="there is no such file"):
        list(read_rows("hf://datasets/openai/gsm8k/main/other.parquet"))


def test_hub_unreachable(tmp_path, monkeypatch):
    """When $THEMIS_DATA lacks the file and the hub cannot be reached, the error says both and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed}")
    monkeypatch.setenv("THEMIS_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        list(load_benchmark("gsm8k").samples())

    message = str(caught.value)
    assert "its server cannot be reached" in message
    assert f"there is no {tmp_path / 'gsm8k' / 'test.jsonl'}" in message
    assert "give data=URL" in message
