"""themis.registry: names, entry points, and what is said of a name that is not known."""

from __future__ import annotations

import json
import sys

import pytest

from themis.errors import UnknownNameError, UsageError
from themis.registry import Registry, load_object, nearest, unknown


def make(**entries):
    """A registry of its own kind, which no installed package adds to."""
    return Registry("test-thing", {"loads": "json:loads", "seven": 7, **entries})


def test_a_name_gives_the_object_itself_or_the_one_at_its_path():
    """A table holds objects, and paths that are imported when they are asked for."""
    registry = make()

    assert registry.get("loads") is json.loads
    assert registry.get("seven") == 7


def test_listing_names_imports_nothing(monkeypatch):
    """names() is sorted and leaves the modules behind the names alone."""
    monkeypatch.delitem(sys.modules, "wave", raising=False)

    assert make(open="wave:open").names() == ["loads", "open", "seven"]
    assert "wave" not in sys.modules


def test_an_added_name_takes_the_place_of_one_of_the_table():
    """add() makes a name known in this process, over the one that was there, and leaves the given table alone."""
    table = {"seven": 7}
    registry = Registry("test-thing", table)
    registry.add("seven", 8)
    registry.add("dumps", "json:dumps")

    assert (registry.get("seven"), registry.get("dumps")) == (8, json.dumps)
    assert table == {"seven": 7}


def test_an_unknown_name_is_answered_by_the_nearest():
    """The error has the name, the nearest one and all of them, and is a ValueError and a LookupError."""
    with pytest.raises(UnknownNameError) as caught:
        make().get("Load")

    assert str(caught.value) == "unknown test-thing 'Load'. Did you mean 'loads'? Known: loads, seven."
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LookupError)


def test_nothing_is_guessed_where_nothing_is_near():
    """A name that is like no other gets no guess; case does not matter to the guess."""
    assert nearest("zzz", ["gsm8k", "math500"]) is None
    assert nearest("GSM8", ["gsm8k", "math500"]) == "gsm8k"
    assert unknown("thing", "x", []) == "unknown thing 'x'. Known: none."


def test_a_missing_package_is_named_with_what_to_do(tmp_path, monkeypatch):
    """A path whose module, or a module that it needs, is not installed says what to install."""
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere.deep\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UsageError, match="needs the package 'not_installed_anywhere': pip install"):
        load_object("needs_more:thing")


def test_a_mistake_in_our_own_table_is_not_blamed_on_the_user():
    """A missing module of themis itself is the error that it is."""
    with pytest.raises(ModuleNotFoundError, match=r"themis\.nowhere"):
        load_object("themis.nowhere:thing")


def test_another_package_adds_names_by_entry_points(tmp_path, monkeypatch):
    """An installed package's entry points of the kind's group are listed and loaded; the table comes first."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[themis.test-things]\ntheirs = json:dumps\nseven = json:dumps\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = make()

    assert registry.names() == ["loads", "seven", "theirs"]
    assert registry.get("theirs") is json.dumps
    assert registry.get("seven") == 7
