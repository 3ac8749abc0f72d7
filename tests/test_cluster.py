"""cluster/: what its files claim, tried on a head and a worker that `ray start` made."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from themis.backends import FsspecStorageBackend
from themis.testing import ModelServer

CLUSTER = Path(__file__).parents[1] / "cluster"
RAY = str(Path(sys.executable).with_name("ray"))
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where a job's `python` is looked up
SMALL = ["--object-store-memory=100000000", "--disable-usage-stats"]


def cluster_config():
    """cluster.yaml as Ray reads it: with its own defaults for AWS filled in."""
    import yaml
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(yaml.safe_load((CLUSTER / "cluster.yaml").read_text()))


def test_cluster_yaml_is_what_ray_accepts():
    """Ray's own validation takes cluster.yaml as `ray up` would read it."""
    from ray.autoscaler._private.util import validate_config

    config = cluster_config()
    validate_config(config)

    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}


@pytest.mark.parametrize("change", ["unknown_key", "head_that_is_no_type", "too_many_workers"])
def test_a_broken_cluster_yaml_is_refused(change):
    """The same validation refuses cluster.yaml with a key, a head or a count that is wrong."""
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    config = copy.deepcopy(cluster_config())
    types = config["available_node_types"]
    if change == "unknown_key":
        config["idle_timeout"] = 5
    elif change == "head_that_is_no_type":
        config["head_node_type"] = "boss"
    else:
        types["worker"]["min_workers"] = config["max_workers"] + 1

    with pytest.raises((ValueError, jsonschema.ValidationError)):
        validate_config(config)


def test_cluster_yaml_holds_no_key():
    """Keys come from a role of the machines and from a store of secrets, never from the file."""
    text = (CLUSTER / "cluster.yaml").read_text()
    assert "AWS_SECRET" not in text
    assert "sk-" not in text
    assert "IamInstanceProfile" in text


def test_the_key_comes_from_the_store_of_secrets(s3, tmp_path):
    """The setup command makes each shell read the key from Secrets Manager; run twice it does so once."""
    boto3 = pytest.importorskip("boto3")
    access = {"aws_access_key_id": s3.key, "aws_secret_access_key": s3.secret, "endpoint_url": s3.endpoint}
    secrets = boto3.client("secretsmanager", region_name="us-west-2", **access)
    secrets.create_secret(Name="themis-key", SecretString="key-of-the-model")
    environment = {"HOME": str(tmp_path), "PATH": PATH, **s3.environment}
    (command,) = [command for command in cluster_config()["setup_commands"] if "themis-key" in command]

    def shell(text):
        done = subprocess.run(
            ["bash", "-c", text], env=environment, check=False, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shell(f"({command})")  # as Ray wraps it
    shell(f"({command})")

    assert shell("source ~/.bashrc; echo $OPENAI_API_KEY") == "key-of-the-model\n"
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1


def test_the_job_passes_on_the_exit_code(tmp_path):
    """job.py ends as `themis eval` does: 2 for wrong usage, before any Ray is looked for."""
    command = [sys.executable, str(CLUSTER / "job.py"), "arithmetic", "--model", "nobody/knows"]
    job = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30)
    assert job.returncode == 2
    assert "unknown model provider 'nobody'" in job.stderr


@dataclass(frozen=True)
class Cluster:
    """A head without CPUs and a worker with two, both of this test."""

    dashboard: str
    pids: list[int]


def free_port():
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def descendants(pid):
    """The ids of all processes below one, read from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true, what, seconds=40.0):
    """Return when it is true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


@contextmanager
def ray_node(log, *arguments):
    """`ray start --block` as a process of ours; it ends its own Ray, and no other, when it is told to end."""
    command = [RAY, "start", "--block", *SMALL, *arguments]
    with log.open("w") as file:
        node = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | QUIET | {"PATH": PATH},
            start_new_session=True,
        )
    try:
        yield node
    finally:
        started = [node.pid, *descendants(node.pid)]
        node.terminate()
        try:
            wait_until(lambda: node.poll() is not None and not any(map(alive, started)), "the end of a Ray node", 15)
        except AssertionError:
            for pid in filter(alive, started):
                os.kill(pid, signal.SIGKILL)
            raise


def dashboard_answers(port):
    """Whether jobs can be submitted."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head of 0 CPUs, as in cluster.yaml, and one worker node, on free ports; only they are stopped at the end."""
    logs = tmp_path_factory.mktemp("ray-logs")
    temp = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets lie below it: their paths have 107 characters
    gcs, dashboard = free_port(), free_port()
    head = [
        "--head",
        "--num-cpus=0",
        f"--port={gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--temp-dir={temp}",
    ]
    pids: list[int] = []
    try:
        with ExitStack() as nodes:
            first = nodes.enter_context(ray_node(logs / "head", *head))
            wait_until(lambda: dashboard_answers(dashboard), "the dashboard")
            worker = [f"--address=127.0.0.1:{gcs}", "--num-cpus=2", f"--dashboard-agent-listen-port={free_port()}"]
            second = nodes.enter_context(ray_node(logs / "worker", *worker))
            wait_until(lambda: "Ray runtime started" in (logs / "worker").read_text(), "the worker node")
            pids += [*descendants(first.pid), *descendants(second.pid)]
            assert {"gcs_server", "raylet"} <= {
                Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids if alive(pid)
            }
            yield Cluster(f"http://127.0.0.1:{dashboard}", pids)
        assert not any(map(alive, pids))
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def submit(cluster, folder, environment, *arguments):
    """`ray job submit` of cluster/job.py with a folder of its own, as README.md says it."""
    command = [RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(folder)]
    command += ["--runtime-env-json", json.dumps({"env_vars": environment}), "--", "python", "job.py", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=90, env=os.environ | QUIET)


def drivers(cluster):
    """What the cluster tells about its jobs to everybody who reaches the dashboard: process ids, environments."""
    with urllib.request.urlopen(f"{cluster.dashboard}/api/jobs/", timeout=10) as answer:
        jobs = [job for job in json.load(answer) if job["type"] == "SUBMISSION"]
    pids = {int(job["driver_info"]["pid"]) for job in jobs if job["driver_info"] is not None}
    return pids, [job["runtime_env"]["env_vars"] for job in jobs]


@pytest.mark.nodes
def test_a_job_leaves_its_report_and_records_at_an_s3_url(cluster, s3, tmp_path):
    """`ray job submit` of job.py asks from the cluster's workers; exact numbers are at s3://; again it asks nothing."""
    rows = [{"question": f"What is {n} + {n}?", "answer": 2 * n} for n in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(CLUSTER / "job.py", tmp_path)
    answers = {row["question"]: str(row["answer"]) if n % 4 else "no idea" for n, row in enumerate(rows)}
    url = s3.new_url()

    with ModelServer(answers) as server:
        asked = ["sums.jsonl", "--model", "openai/any", "--base-url", server.base_url, "--storage", url]
        asked += ["--prompt", "Only the number. {question}", "--run-id", "sums"]
        for summary in ("40 asked now", "no model was called, 40 answers were stored already"):
            job = submit(cluster, tmp_path, s3.environment, *asked)
            assert job.returncode == 0, job.stdout + job.stderr
            assert summary in job.stdout
            assert len(server.requests) == 40

    with FsspecStorageBackend(url, storage_options=s3.storage_options) as storage:
        report = storage.load_report("sums")
        generations = storage.load_generation_records("sums")
        launches = storage.load_launches("sums")
    result = report.metrics["exact_match"]
    assert report.status == "complete"
    assert (result.mean, result.n_scored, result.n_attempted, result.n_unanswered) == (0.75, 40, 40, 0)
    assert launches[0]["execution"]["type"] == "RayExecutionBackend"
    assert launches[0]["execution"]["nodes"] == 2
    assert launches[0]["execution"]["resources"]["CPU"] == 2

    driver_pids, environments = drivers(cluster)
    assert len(driver_pids) == 1  # the second job had nothing to ask, and so never joined the cluster
    assert driver_pids.isdisjoint(int(record.worker.rpartition(":")[2]) for record in generations)
    assert environments == [s3.environment, s3.environment]  # the reason why README.md keeps keys out of it
