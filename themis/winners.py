"""Of several rows of one id, which one counts: a success before an error, then the highest (launch, seq).

A row is known by its id, its launch and its seq; no clock is asked. Ids are held as 16 bytes each, so that a million
of them take 16 MB, where a set of texts takes 114.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

from themis.arrow import texts

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import pyarrow as pa

    Keys: TypeAlias = np.ndarray[Any, Any]

DECIDING = ("id", "status", "launch", "seq")
"""The columns that decide; samples have no status."""

_SIZE = 16
_HEX = b"0123456789abcdef"


def winners(table: pa.Table) -> pa.Table:
    """One row of each id, in the table's order; needs the DECIDING columns, status where the kind has one."""
    import numpy as np

    chosen = Winners()
    chosen.add(table)
    rows = chosen.decide()
    if len(rows) == table.num_rows:
        return table
    keep = np.zeros(table.num_rows, dtype=bool)
    keep[rows] = True
    return table.filter(_mask(keep))


class IdSet:
    """Ids, to be asked whether one is among them.

    Attributes:
        keys: 16 bytes for each id, sorted, each once: the id itself where it is 32 hexadecimal digits, else a hash.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self.keys = _none() if keys is None else keys

    @classmethod
    def of(cls, ids: pa.ChunkedArray) -> IdSet:
        """The ids of a column."""
        import numpy as np

        return cls(np.unique(id_keys(ids)))

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, name: str) -> bool:
        import numpy as np

        key = np.array([_key(name)], _dtype())
        place = int(self.keys.searchsorted(key)[0])
        return place < len(self.keys) and bool(self.keys[place : place + 1] == key)


class Winners:
    """Finds the winning rows of a run table by table, without holding more than 100 bytes of each row.

    `add` every table with its DECIDING columns, `decide`, then `take` the winning rows out of every table.

    Args:
        without: Sorted keys of ids of which no row is wanted.
    """

    def __init__(self, without: Keys | None = None) -> None:
        self._without = _none() if without is None else without
        self._codes: dict[str, int] = {}
        self._added: list[tuple[Keys, Keys, Keys, Keys]] = []
        self._decided = False

    def add(self, table: pa.Table) -> None:
        """Take note of rows."""
        if table.num_rows:
            self._added.append((id_keys(table.column("id")), self._launches(table), _seqs(table), _successes(table)))

    def decide(self) -> Keys:
        """Settle which rows win; their places among all rows added, in the order of `keys`."""
        import numpy as np

        self.keys, launches, seqs, successes = self._columns()
        order = np.argsort(self.keys, kind="stable")
        self.keys = self.keys[order]
        new = np.append(True, self.keys[1:] != self.keys[:-1])[: len(order)]
        if not new.all():
            rank = np.argsort(np.argsort(np.array([*self._codes, ""])))
            order = np.lexsort((seqs, rank[launches], successes, np.cumsum(new)[np.argsort(order)]))
        last = np.append(new[1:], True)[: len(order)]
        self.keys, order = self.keys[last], order[last]
        self._launch, self._seq = launches[order], seqs[order]
        self._open = np.ones(len(order), dtype=bool)
        if len(self._without):
            self._open &= ~_among(self.keys, self._without)
        self._decided = True
        rows: Keys = order
        return rows

    def take(self, table: pa.Table) -> pa.Array:
        """Of each row whether it wins and was not taken before, as a mask."""
        import numpy as np

        keys = id_keys(table.column("id"))
        place = np.minimum(self.keys.searchsorted(keys), max(len(self.keys) - 1, 0))
        mask = np.zeros(len(keys), dtype=bool)
        if len(self.keys) and len(keys):
            mask = self._open[place] & (self.keys[place] == keys) & (self._seq[place] == _seqs(table))
            mask &= self._launch[place] == self._launches(table)
            first = np.zeros(len(keys), dtype=bool)
            first[np.flatnonzero(mask)[np.unique(place[mask], return_index=True)[1]]] = True
            mask = first
            self._open[place[mask]] = False
        return _mask(mask)

    def taken(self) -> Keys:
        """The sorted keys of the ids whose row was taken, and of those without."""
        return self.keys[~self._open] if self._decided else self._without

    def _columns(self) -> list[Any]:
        import numpy as np

        if not self._added:
            return [_none(), np.zeros(0, "i4"), np.zeros(0, "i8"), np.zeros(0, bool)]
        columns = [np.concatenate(parts) for parts in zip(*self._added, strict=True)]
        self._added = []
        return columns

    def _launches(self, table: pa.Table) -> Keys:
        """Of each row the number of its launch here; new ones are numbered as they come."""
        import numpy as np

        column = _filled(table.column("launch"), "").combine_chunks().dictionary_encode()
        names = column.dictionary.to_pylist()
        codes = np.array([self._codes.setdefault(name, len(self._codes)) for name in names], "i4")
        return codes[_numbers(column.indices, "i4")] if len(column) else np.zeros(0, "i4")


class Settled:
    """Collects the ids of records that stand, table by table: every success, and errors but of some kinds.

    An id with any success stands, so that only errors have to be compared with each other.
    """

    def __init__(self, without_errors: Collection[str]) -> None:
        self._without = sorted(without_errors)
        self._keys = bytearray()  # grows in place, where a list of arrays would have to be copied into one
        self._errors: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Take note of rows; needs the DECIDING columns and error_kind, where the kind of record has them."""
        import pyarrow.compute as pc

        if "status" not in table.column_names or not self._without:
            self._keys += id_keys(table.column("id")).tobytes()
            return
        ok = pc.is_in(table.column("status"), value_set=texts(["ok"]))
        self._keys += id_keys(table.column("id").filter(ok)).tobytes()
        errors = table.filter(pc.invert(ok))
        if errors.num_rows:
            self._errors.append(errors)

    def ids(self) -> IdSet:
        """What stands among all that was added."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._errors:
            last = winners(pa.concat_tables(self._errors))
            again = pc.is_in(last.column("error_kind"), value_set=texts(self._without))
            self._keys += id_keys(last.column("id").filter(pc.invert(again))).tobytes()
        keys = np.frombuffer(self._keys, _dtype())
        keys.sort()
        new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
        return IdSet(keys if new.all() else keys[new])


def id_keys(ids: pa.ChunkedArray) -> Keys:
    """16 bytes for each id, in order."""
    import numpy as np

    return np.concatenate([_none(), *map(_chunk_keys, ids.chunks)])


def _chunk_keys(ids: pa.Array) -> Keys:
    import numpy as np
    import pyarrow.compute as pc

    lengths = pc.min_max(pc.binary_length(ids)).as_py() if len(ids) else {}
    if lengths.get("min") == lengths.get("max") == 2 * _SIZE and not ids.null_count:
        start = int(np.frombuffer(ids.buffers()[1], "i4")[ids.offset])
        digits = np.frombuffer(ids.buffers()[2], "u1", len(ids) * 2 * _SIZE, start)
        values = _digit_values()[digits]
        if not (values > 15).any():
            keys: Keys = (values[::2] << 4 | values[1::2]).view(_dtype())
            return keys
    return np.array([_key(name or "") for name in ids.to_pylist()], _dtype())


def _key(name: str) -> bytes:
    data = name.encode("utf-8", "surrogatepass")
    if len(data) == 2 * _SIZE and not data.strip(_HEX):
        return bytes.fromhex(name)
    return hashlib.blake2b(data, digest_size=_SIZE).digest()


def _digit_values() -> Keys:
    """The value of each byte as a hexadecimal digit; 255 for what is none."""
    import numpy as np

    values = np.full(256, 255, "u1")
    values[np.frombuffer(_HEX, "u1")] = np.arange(16)
    return values


def _dtype() -> str:
    # numpy compares such texts padded with zeros, and all are equally long: it compares all bytes.
    return f"S{_SIZE}"


def _none() -> Keys:
    import numpy as np

    return np.zeros(0, _dtype())


# pyarrow imports pandas, where there is one, to make a value of its own out of a plain one, and in to_numpy().


def _filled(column: pa.ChunkedArray, value: Any) -> pa.ChunkedArray:
    return column.fill_null(value) if column.null_count else column


def _numbers(array: pa.Array, dtype: str) -> Keys:
    """An array without nulls as one of numpy."""
    import numpy as np

    if not len(array):
        return np.zeros(0, dtype)
    numbers: Keys = np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)
    return numbers


def _seqs(table: pa.Table) -> Keys:
    return _numbers(_filled(table.column("seq"), -1).combine_chunks(), "i8")


def _successes(table: pa.Table) -> Keys:
    import numpy as np
    import pyarrow.compute as pc

    if "status" not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    success = pc.is_in(table.column("status").combine_chunks(), value_set=texts(["ok"]))
    bits = np.frombuffer(success.buffers()[1], "u1")
    return np.unpackbits(bits, count=success.offset + len(success), bitorder="little")[success.offset :].astype(bool)


def _among(keys: Keys, others: Keys) -> Keys:
    """Of each key whether it is among others, which are sorted."""
    import numpy as np

    place = np.minimum(others.searchsorted(keys), len(others) - 1)
    found: Keys = others[place] == keys
    return found


def _mask(keep: Keys) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    return pa.Array.from_buffers(pa.bool_(), len(keep), [None, pa.py_buffer(np.packbits(keep, bitorder="little"))])
