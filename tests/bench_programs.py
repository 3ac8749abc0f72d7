"""The programs that bench_evaluate.py measures, each run as a process of its own: the model server, its clients, a Ray.

python tests/bench_programs.py NAME JSON calls one of them with the JSON object as its arguments. Only what a program
needs is imported by it, so that its start is its own.
"""

import json
import sys
import time
from pathlib import Path


def say(**facts):
    """Tell the parent process: one line of JSON."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def serve(answers):
    """Themis's own model server. Each line of stdin is a latency, and answered by what happened since the last one.

    Times are CLOCK_MONOTONIC, which all processes of a machine share.
    """
    from themis.testing import ModelServer

    known = json.loads(Path(answers).read_text("utf-8"))
    seen = {"first": None, "last": None}

    def answer(prompt):
        seen["last"] = time.monotonic()
        return known[prompt]

    def note(number, _):
        if number == 0:
            seen["first"] = time.monotonic()

    with ModelServer(answer, faults=note) as server:
        say(url=server.base_url)
        for line in sys.stdin:
            say(**seen, n=len(server.requests), in_progress=server.max_in_progress)
            server.requests.clear()
            server.max_in_progress, server.latency = 0, float(line)


def raw(url, prompts, n, in_progress):
    """The least that a client can do: prompts from memory, `in_progress` requests at once, answers into a list."""
    import asyncio

    import aiohttp

    asked = iter(json.loads(Path(prompts).read_text("utf-8"))[:n])
    answers = []

    async def work(session):
        for prompt in asked:
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                answers.append((await response.json())["choices"][0]["message"]["content"])

    async def main():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(in_progress)))

    asyncio.run(main())
    say(returned=time.monotonic(), n=len(answers))


def themis(url, n, in_progress, storage, data=None, ray_address=None, busy_seconds=0.0):
    """evaluate() on GSM8K as a user would call it, on threads or, with an address, on that Ray."""
    from themis import evaluate
    from themis.backends import FsspecStorageBackend, LocalExecutionBackend

    backend = LocalExecutionBackend()
    if ray_address:
        from themis.backends import RayExecutionBackend

        backend = RayExecutionBackend(address=ray_address)
    counts = _counted() if storage.startswith("counted://") else dict
    with FsspecStorageBackend(storage) as store:
        result = evaluate(
            "gsm8k",
            "openai/m",
            base_url=url,
            data=data,
            limit=n,
            max_workers=in_progress,
            metrics=_busy(busy_seconds) if busy_seconds else None,
            execution_backend=backend,
            storage_backend=store,
        )
        returned = time.monotonic()
    say(returned=returned, n=result.report.usage["requests"], status=result.report.status, **counts())


def _busy(seconds):
    """A metric that takes so much of a core for each answer, as a check of equivalence would."""

    def busy(sample, generation):
        import time  # here, because the function travels to workers without this module

        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass
        return 1.0

    return busy


def _counted():
    """Make counted:// an object store in memory; gives what tells how much was put there and how much is kept."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    puts = []

    class Counted(MemoryFileSystem):
        protocol = "counted"

        def pipe_file(self, path, value, mode="overwrite", **options):
            puts.append(len(value))
            super().pipe_file(path, value, mode=mode, **options)

    fsspec.register_implementation("counted", Counted)
    return lambda: {"written": sum(puts), "kept": sum(file.size for file in Counted.store.values())}


def ray(num_cpus):
    """A Ray of its own until stdin ends; says its address and how long it took to start."""
    began = time.monotonic()
    import ray as package

    quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
    context = package.init(address="local", num_cpus=num_cpus, **quiet)
    say(address=context.address_info["address"], seconds=time.monotonic() - began)
    sys.stdin.read()
    package.shutdown()


def nodes(count):
    """The same with a head of no CPUs and so many nodes of one CPU, all on this machine."""
    from ray.cluster_utils import Cluster

    began = time.monotonic()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(count):
        cluster.add_node(num_cpus=1)
    say(address=cluster.address, seconds=time.monotonic() - began)
    sys.stdin.read()
    cluster.shutdown()


def bucket(endpoint, name):
    """Make a bucket."""
    import boto3

    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)


if __name__ == "__main__":
    programs = {"serve": serve, "raw": raw, "themis": themis, "ray": ray, "nodes": nodes, "bucket": bucket}
    programs[sys.argv[1]](**json.loads(sys.argv[2]))
