"""What tests of backends and models need: contract suites to subclass, and a model server over loopback.

    class TestMyStorage(StorageBackendTests):
        @pytest.fixture
        def storage(self, tmp_path):
            return MyStorage(tmp_path)

    class TestMyBackend(ExecutionBackendTests):
        def backend(self):
            return MyBackend()

pytest runs every test of the contract on such a class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from themis.registry import load_object

if TYPE_CHECKING:
    from themis.testing.execution import ExecutionBackendTests
    from themis.testing.server import Fault, ModelServer, ReceivedRequest
    from themis.testing.storage import StorageBackendTests

__all__ = ["ExecutionBackendTests", "Fault", "ModelServer", "ReceivedRequest", "StorageBackendTests"]

_LAZY = {
    "ExecutionBackendTests": "themis.testing.execution",
    "Fault": "themis.testing.server",
    "ModelServer": "themis.testing.server",
    "ReceivedRequest": "themis.testing.server",
    "StorageBackendTests": "themis.testing.storage",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_object(f"{_LAZY[name]}:{name}")
