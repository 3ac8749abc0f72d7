"""Name -> object: one table per kind of thing, with entry points for other packages' things.

A table maps names to import paths, so that listing names imports nothing, and a package can add its own under the entry
point group "themis.<kind>s" without themis knowing of it.
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from themis.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: What they are, as a message would call one: "benchmark".
        table: Name -> "module:attribute" or the object itself.
    """

    def __init__(self, kind: str, table: Mapping[str, str | T]) -> None:
        self.kind = kind
        self._table: dict[str, str | T] = dict(table)

    def names(self) -> list[str]:
        """Every known name, sorted, those of entry points included."""
        return sorted({*self._table, *(point.name for point in self._entry_points())})

    def get(self, name: str) -> T:
        """The object of that name.

        Raises:
            UnknownNameError: With the known names and the nearest one.
            UsageError: It needs a package that is not installed.
        """
        if name in self._table:
            entry = self._table[name]
            return load_object(entry) if isinstance(entry, str) else entry
        for point in self._entry_points():
            if point.name == name:
                return point.load()  # type: ignore[no-any-return]
        raise UnknownNameError(unknown(self.kind, name, self.names()))

    def add(self, name: str, entry: str | T) -> None:
        """Make a name known in this process: "module:attribute" or the object itself."""
        self._table[name] = entry

    def _entry_points(self) -> Iterable[Any]:
        return entry_points(group=f"themis.{self.kind}s")


def load_object(path: str) -> Any:
    """The object at "module:attribute".

    Raises:
        UsageError: The module needs a package that is not installed.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "themis":
            raise
        raise UsageError(f"{path} needs the package {error.name!r}: pip install {error.name}") from error


def require(package: str) -> Any:
    """The module of a package that themis does not install by itself.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs the package {package!r}: pip install {package}") from error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the given one, None if none is like it."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not known: the name, the nearest one, all of them."""
    known = sorted(known)
    guess = nearest(name, known)
    hint = f" Did you mean {guess!r}?" if guess else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
