"""Runs the programs of bench_programs.py as processes of their own and measures them: for bench_evaluate.py."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator

PROGRAMS = Path(__file__).with_name("bench_programs.py")
SMALL, LARGE = 1_319, 10_000
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Load:
    """What is asked: how many questions, how many at once, how long each answer takes (seconds)."""

    n: int
    in_progress: int = 64
    latency: float = 0.1

    @property
    def ideal(self) -> float:
        """Seconds from the first request to the last answer, if nothing but the server took time."""
        return math.ceil(self.n / self.in_progress) * self.latency


LOADS = {
    "64": Load(SMALL),
    "256": Load(SMALL, in_progress=256),
    "large": Load(LARGE),
    "s3": Load(LARGE),
    "thirty": Load(SMALL, latency=1.5),
    "counted": Load(SMALL, in_progress=256),
    "busy": Load(4_000, in_progress=256),
    "nodes": Load(LARGE, in_progress=512, latency=1.0),
}
ONCE = {"thirty", "counted", "nodes"}
"""Loads whose figures are counts: one round says it all."""


@dataclass
class Run:
    """One process: seconds unless it says otherwise."""

    wall: float
    cpu: float
    peak_mb: float
    start: float
    asking: float
    tail: float
    efficiency: float
    written_mb: float
    kept_mb: float | None = None
    cluster_cpu: float = 0.0
    until_returned: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)


class Program:
    """A child process that talks in lines of JSON."""

    def __init__(self, name: str, environment: dict[str, str] | None = None, /, **config: Any) -> None:
        command = [sys.executable, str(PROGRAMS), name, json.dumps(config)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.began = time.monotonic()
        environment = {**os.environ, **RAY, **(environment or {})}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is not compiled at every start
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def hear(self) -> dict[str, Any]:
        """Its next line; RuntimeError when it ended instead."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[2:]} ended with {self.process.wait()}")
        return json.loads(line)

    def tell(self, line: object) -> dict[str, Any]:
        """Its answer to a line."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.hear()

    def ended(self) -> tuple[float, int, resource.struct_rusage]:
        """When it ended, bytes that it handed to write(), and what it used."""
        pid = self.process.pid
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        at = time.monotonic()
        written = int(re.search(r"wchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[1])
        _, status, usage = os.wait4(pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return at, written, usage

    def stop(self) -> None:
        """Let it end."""
        if self.process.returncode is None:
            self.process.stdin.close()
            self.process.wait(30)
        self.process.stdout.close()


@contextmanager
def running(name: str, **config: Any) -> Iterator[Program]:
    """A program that serves until the block is left."""
    program = Program(name, **config)
    try:
        yield program
    finally:
        program.stop()


@dataclass
class Bench:
    """What the measurements share: servers, files, a Ray, an S3."""

    folder: Path
    server: Program
    url: str
    ray: Program | None = None
    ray_address: str | None = None
    ray_start: float | None = None
    nodes: Program | None = None
    nodes_address: str | None = None
    s3: str | None = None
    s3_log: Path | None = None

    def measure(self, contender: str, load_name: str) -> Run:
        """One run of one contender: "raw", "threads" or "ray"."""
        load = LOADS[load_name]
        storage = self.storage(load_name)
        config = self.raw_config(load) if contender == "raw" else self.config(load_name, contender, storage)
        self.server.tell(load.latency)
        started = self.nodes if load_name == "nodes" else self.ray
        with TreeCpu(started.process.pid if contender == "ray" else None) as cluster:
            child = Program("raw" if contender == "raw" else "themis", self.environment(load_name), **config)
            told = child.hear()
            at, written, usage = child.ended()
        child.stop()
        seen = self.server.tell(load.latency)
        if seen["n"] != load.n or told["n"] != load.n or child.process.returncode:
            raise RuntimeError(f"{contender} {load_name}: {told}, {seen}, exit code {child.process.returncode}")
        local = Path(storage)
        run = Run(
            wall=at - child.began,
            cpu=usage.ru_utime + usage.ru_stime,
            peak_mb=usage.ru_maxrss / 1024,
            start=seen["first"] - child.began,
            asking=seen["last"] - seen["first"],
            tail=at - seen["last"],
            efficiency=load.ideal / (seen["last"] - seen["first"]),
            written_mb=written / 1e6,
            kept_mb=folder_bytes(local) / 1e6 if local.is_dir() else None,
            cluster_cpu=cluster.seconds,
            until_returned=told["returned"] - seen["first"],
            told=told,
        )
        shutil.rmtree(local, ignore_errors=True)
        return run

    def storage(self, load_name: str) -> str:
        """Where a run's records go: nowhere twice."""
        name = f"run-{time.monotonic_ns()}"
        if load_name == "counted":
            return f"counted://{name}"
        return f"s3://bench/{name}" if load_name in {"s3", "thirty"} else str(self.folder / name)

    def environment(self, load_name: str) -> dict[str, str]:
        """What the process needs to find the S3."""
        s3 = load_name in {"s3", "thirty"}
        return {**S3_KEYS, "AWS_ENDPOINT_URL": self.s3 or ""} if s3 else {}

    def address(self, load_name: str) -> str | None:
        """Of the Ray that a load runs on."""
        return self.nodes_address if load_name == "nodes" else self.ray_address

    def raw_config(self, load: Load) -> dict[str, Any]:
        """The arguments of the raw loop."""
        prompts = str(self.folder / "prompts.json")
        return {"url": self.url, "prompts": prompts, "n": load.n, "in_progress": load.in_progress}

    def config(self, load_name: str, contender: str, storage: str) -> dict[str, Any]:
        """The arguments of evaluate()."""
        load = LOADS[load_name]
        return {
            "url": self.url,
            "n": load.n,
            "in_progress": load.in_progress,
            "storage": storage,
            "data": None if load.n == SMALL else str(self.folder / "large.jsonl"),
            "ray_address": self.address(load_name) if contender == "ray" else None,
            "busy_seconds": 0.002 if load_name == "busy" else 0.0,
        }


class TreeCpu:
    """Adds up, while it is entered, the CPU seconds of what a process started. A Ray reaps its workers uncounted."""

    def __init__(self, root: int | None) -> None:
        self._root = root
        self._over = threading.Event()
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._root is None:
            return
        before = cpu_by_process(self._root)
        seen = dict(before)
        while not self._over.wait(0.5):
            seen |= cpu_by_process(self._root)
        seen |= cpu_by_process(self._root)
        self.seconds = sum(seen.values()) - sum(before.values())


def cpu_by_process(root: int) -> dict[int, float]:
    """CPU seconds of a process and of each that it started, directly or not."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        seconds[pid] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return {pid: used for pid, used in seconds.items() if root in lineage(pid, parents)}


def lineage(pid: int, parents: dict[int, int]) -> Iterator[int]:
    """The process and its ancestors."""
    while pid in parents:
        yield pid
        pid = parents[pid]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_files(folder: Path) -> None:
    """The prompts that themis would send, an answer to each, and 10,000 rows: GSM8K over and over."""
    data = Path(os.environ["THEMIS_DATA"])
    program = "import json, sys; from themis import load_benchmark; b = load_benchmark('gsm8k')"
    program += "; json.dump([prompt for _, prompt in b.prompts()], sys.stdout)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    prompts = json.loads(found)
    with gzip.open(data / "gsm8k_graded" / "6b_finetuning.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = {row["question"].strip(): row["solution"] for row in map(json.loads, file)}
    rows = (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(row)["question"] for row in rows]
    by_prompt = {prompt: answers[question.strip()] for prompt, question in zip(prompts, questions, strict=True)}
    times = math.ceil(LARGE / len(rows))
    (folder / "answers.json").write_text(json.dumps(by_prompt), encoding="utf-8")
    (folder / "prompts.json").write_text(json.dumps((prompts * times)[:LARGE]), encoding="utf-8")
    (folder / "large.jsonl").write_text("\n".join((rows * times)[:LARGE]), encoding="utf-8")


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """A moto server with a bucket; its log has a line for each request."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        wait_for(f"{endpoint}/moto-api/")
        Program("bucket", S3_KEYS, endpoint=endpoint, name="bench").process.wait(60)
        yield endpoint
    finally:
        server.terminate()
        server.wait(10)


def wait_for(url: str, seconds: float = 30.0) -> None:
    """Return when the URL answers."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@contextmanager
def prepared(wanted: dict[str, list[str]]) -> Iterator[Bench]:
    """Everything that the measurements need, ended at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        write_files(folder)
        server = stack.enter_context(running("serve", answers=str(folder / "answers.json")))
        bench = Bench(folder, server, server.hear()["url"])
        if any("ray" in contenders for load, contenders in wanted.items() if load != "nodes"):
            bench.ray = stack.enter_context(running("ray", num_cpus=2))
            started = bench.ray.hear()
            bench.ray_address, bench.ray_start = started["address"], started["seconds"]
        if wanted.get("nodes"):
            bench.nodes = stack.enter_context(running("nodes", count=4))
            bench.nodes_address = bench.nodes.hear()["address"]
        if {"s3", "thirty"} & wanted.keys():
            bench.s3_log = folder / "s3.log"
            bench.s3 = stack.enter_context(s3_server(bench.s3_log))
        yield bench
