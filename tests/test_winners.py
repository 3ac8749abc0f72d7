"""themis.winners: which row of an id counts, for whole tables and table by table; ids as 16 bytes."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from themis import arrow
from themis.records import GenerationRecord
from themis.winners import IdSet, Settled, Winners, id_keys, winners

DIGITS = "0123456789abcdef"


def name(digit):
    """An id of 32 digits."""
    return digit * 32


def rows(*keys):
    """A table of (id, status, launch, seq)."""
    columns = zip(*keys, strict=True)
    return pa.table(dict(zip(("id", "status", "launch", "seq"), map(list, columns), strict=True)))


def test_a_success_beats_an_error_then_the_later_wins():
    """Status decides first, then the launch, then seq; the rows keep the table's order."""
    table = rows(
        ("late-error", "ok", "000001-a", 1),
        ("later-launch", "ok", "000002-a", 1),
        ("later-seq", "ok", "000001-a", 9),
        ("alone", "error", "000001-a", 3),
        ("late-error", "error", "000009-a", 9),
        ("later-seq", "ok", "000001-a", 10),
        ("later-launch", "ok", "000001-a", 99),
    )

    expected = [
        ("late-error", "ok", "000001-a", 1),
        ("later-launch", "ok", "000002-a", 1),
        ("alone", "error", "000001-a", 3),
        ("later-seq", "ok", "000001-a", 10),
    ]
    assert [tuple(row.values()) for row in winners(table).to_pylist()] == expected


def test_a_row_read_twice_counts_once():
    """A row that stands in a journal and in a part is one row, also across chunks and without a status."""
    table = rows(("a", "ok", "1", 1), ("b", "ok", "1", 2)).drop_columns(["status"])

    assert winners(pa.concat_tables([table, table, table])).num_rows == 2
    assert winners(table.slice(0, 0)).num_rows == 0


def test_rows_without_keys_have_one_winner_too():
    """Rows whose launch and seq are null lose against those that have them."""
    table = pa.concat_tables(
        [
            rows(("a", "ok", "1", 1)),
            arrow.to_table("generations", [GenerationRecord("a", "p", "r")])
            .select(["id", "status", "launch", "seq"])
            .replace_schema_metadata(None),
        ]
    )

    assert winners(table).column("seq").to_pylist() == [1]


def many_rows(seed):
    """300 ids, half of them with two rows, in random states; some ids are no hashes."""
    rng = random.Random(seed)
    ids = [f"{rng.getrandbits(128):032x}" if rng.random() < 0.7 else f"q{number}" for number in range(300)]
    ids += rng.sample(ids, 150)
    return pa.table(
        {
            "id": ids,
            "status": [rng.choice(["ok", "error"]) for _ in ids],
            "launch": [rng.choice(["000001-a", "000002-b", "000010-c"]) for _ in ids],
            "seq": list(range(len(ids))),
            "error_kind": [rng.choice(["infrastructure", "model"]) for _ in ids],
        }
    )


def pieces(table):
    """The same rows as several tables of different sizes."""
    cuts = [0, 10, 100, 101, 101, 200, table.num_rows]
    return [table.slice(start, end - start) for start, end in pairwise(cuts)]


@pytest.mark.parametrize("seed", range(5))
def test_winners_taken_piece_by_piece_are_those_of_the_whole(seed):
    """Table by table the same rows win as in one table, each once, however often a table comes."""
    table = many_rows(seed)
    chosen = Winners()
    for piece in pieces(table):
        chosen.add(piece)
    chosen.decide()

    taken = pa.concat_tables([piece.filter(chosen.take(piece)) for piece in pieces(table)])
    assert taken == winners(table)
    assert not any(chosen.take(table).to_pylist())
    assert (chosen.taken() == np.unique(id_keys(table["id"]))).all()


def test_ids_that_were_taken_before_are_not_taken_again():
    """Who lists again in the middle goes on with the ids that it has not had."""
    table = many_rows(1)
    first = Winners()
    first.add(table)
    first.decide()
    had = table.slice(0, 100).filter(first.take(table.slice(0, 100)))
    rest = Winners(without=first.taken())
    rest.add(table)
    rest.decide()

    others = table.filter(rest.take(table))
    assert had.num_rows + others.num_rows == winners(table).num_rows
    assert not set(had["id"].to_pylist()) & set(others["id"].to_pylist())


@pytest.mark.parametrize("seed", range(5))
def test_what_is_settled(seed):
    """The ids that stand are those whose winning row is a success or an error of a kind that is not tried again."""
    table = many_rows(seed)
    settled = Settled(["infrastructure"])
    for piece in pieces(table):
        settled.add(piece)
    ids = settled.ids()

    won = winners(table).to_pylist()
    expected = {row["id"] for row in won if row["status"] == "ok" or row["error_kind"] == "model"}
    assert {row["id"] for row in won if row["id"] in ids} == expected
    assert len(ids) == len(expected) < len(won)


def test_ids_are_found_whatever_the_chunks():
    """An id is found when a chunk of the column has it; its beginning, and text that is no id, are not."""
    column = pa.chunked_array([[name(d) for d in "c5"], [], [name(d) for d in "0f"], ["q1", name("A")]], pa.string())

    ids = IdSet.of(column)

    assert {digit for digit in DIGITS if name(digit) in ids} == set("c50f")
    assert "q1" in ids
    assert name("A") in ids
    assert len(ids) == 6
    assert not any(other in ids for other in ("", "c", name("c")[:-1], name("c") + "c", name("C"), "\u00e9"))


@pytest.mark.parametrize("ids", [IdSet(), IdSet.of(pa.chunked_array([[]], pa.string()))])
def test_no_ids_are_false(ids):
    """Without ids nothing is found, and the whole is false."""
    assert not ids
    assert name("0") not in ids


def test_ids_are_sixteen_sorted_bytes():
    """A million ids are 16 MB: an array of fixed width, sorted, each once, also where an id ends in zeros."""
    names = [name("0")[:-1] + "1", "ff" + "0" * 30, name("0"), "ff" + "0" * 30]

    ids = IdSet.of(pa.chunked_array([names]))
    assert ids.keys.nbytes == 16 * 3
    assert ids.keys.tobytes().hex() == name("0") + name("0")[:-1] + "1" + "ff" + "0" * 30
    assert all(each in ids for each in names)


def test_slices_of_a_column_have_the_ids_of_their_rows():
    """The ids of a slice are its own, not those at the beginning of the array that it is cut from."""
    column = pa.chunked_array([[name(d) for d in DIGITS]]).slice(3, 4)

    assert [key.hex() for key in id_keys(column).tolist()] == [name(d) for d in "3456"]
