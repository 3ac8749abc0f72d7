"""Object stores on loopback, each a server in a process of its own: S3 (moto), Azure (azurite), GCS (an emulator)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

AZURITE = "3.37.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "themis-tests"

# Azurite's one account, the same everywhere: its documentation prints it.
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks for what the emulator has not


class Unavailable(Exception):  # noqa: N818 - a reason to skip, not an error
    """The server cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class ObjectStore:
    """A server with one bucket, and how to reach it."""

    endpoint: str
    bucket: str = "themis-tests"
    protocol: str = ""

    def new_url(self) -> str:
        """A folder in the bucket that nobody else uses."""
        return f"{self.protocol}://{self.bucket}/{uuid4().hex}"


@dataclass(frozen=True)
class S3(ObjectStore):
    """An S3 server."""

    protocol: str = "s3"
    key: str = "test-key"
    secret: str = field(default="test-secret", repr=False)

    @property
    def storage_options(self) -> dict:
        """What fsspec needs, given outright."""
        region = {"region_name": "us-east-1"}
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": self.endpoint,
            "client_kwargs": region,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self):
        """A boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )


@dataclass(frozen=True)
class Azure(ObjectStore):
    """An Azure Blob server."""

    protocol: str = "az"

    @property
    def storage_options(self) -> dict:
        """What fsspec needs, given outright."""
        return {
            "connection_string": f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_ACCOUNT_KEY};"
            f"BlobEndpoint={self.endpoint}/{_ACCOUNT};"
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.storage_options["connection_string"]}


@dataclass(frozen=True)
class Gcs(ObjectStore):
    """A Google Cloud Storage server."""

    protocol: str = "gs"

    @property
    def storage_options(self) -> dict:
        """What fsspec needs, given outright."""
        return {"endpoint_url": self.endpoint, "token": "anon", "project": "themis-tests"}


@contextmanager
def s3_server():
    """A moto server with one bucket."""
    port = _free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]) as server:
        store = S3(f"http://127.0.0.1:{port}")
        _wait_for(f"{store.endpoint}/moto-api/", server)
        store.client().create_bucket(Bucket=store.bucket)
        yield store


@contextmanager
def azure_server():
    """An azurite with one container; Unavailable without Node, or where it cannot be installed."""
    program = _azurite()
    port = _free_port()
    address = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command = ["node", str(program), *address, "--silent", "--skipApiVersionCheck", "--inMemoryPersistence"]
    with _running(command) as server:
        store = Azure(f"http://127.0.0.1:{port}")
        _wait_for(f"{store.endpoint}/{_ACCOUNT}", server)
        _make_bucket(store)
        yield store


@contextmanager
def gcs_server():
    """A GCS emulator with one bucket."""
    port = _free_port()
    store = Gcs(f"http://127.0.0.1:{port}")
    arguments = ["start", "-q", "--in-memory", "--host=127.0.0.1", f"--port={port}", f"--default-bucket={store.bucket}"]
    with _running([sys.executable, "-m", "gcp_storage_emulator", *arguments]) as server:
        _wait_for(f"{store.endpoint}/storage/v1/b/{store.bucket}", server)
        yield store


def _azurite() -> Path:
    """Azurite's program, installed where it is not there yet: once for all checkouts of a user."""
    folder = CACHE / f"azurite-{AZURITE}"
    program = folder / "node_modules/azurite/dist/src/blob/main.js"
    if program.is_file():
        return program
    if not shutil.which("node") or not shutil.which("npm"):
        raise Unavailable("azurite needs Node and npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as staging:
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--loglevel=error"]
        command = ["npm", "install", *quiet, "--prefix", staging, f"azurite@{AZURITE}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable("npm did not install azurite within 180 s") from None
        if done.returncode:
            raise Unavailable(f"npm could not install azurite: {done.stderr[-300:]}")
        if not folder.exists():  # another session may have been faster
            Path(staging).rename(folder)
            Path(staging).mkdir()
    return program


def _make_bucket(store) -> None:
    import fsspec

    fsspec.filesystem(store.protocol, **store.storage_options, skip_instance_cache=True).mkdir(store.bucket)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def _running(command):
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield server
    finally:
        server.kill()  # what they hold is in memory, and some take seconds to end in order
        server.wait()


def _wait_for(url, server, seconds=30.0):
    """Return when the URL answers, whatever it says; fail when the server ended or took too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended before it answered"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise AssertionError(f"{url} did not answer within {seconds} s")
