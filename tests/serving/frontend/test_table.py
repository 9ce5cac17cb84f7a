"""Names and versions: every sequence of changes keeps TorchServe's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.errors import (
    ConflictError,
    FrontendError,
    ModelError,
    ModelNotFoundError,
    NotAllowedError,
    VersionNotFoundError,
)
from serving.frontend.table import Table


def test_the_first_version_is_the_default_one_until_another_is_chosen() -> None:
    table: Table[str] = Table()
    table.add("m", "2.0", "two")
    table.add("m", "1.0", "one")
    assert table.find("m", None) == "two"
    table.set_default("m", "1.0")
    assert (table.find("m", None), table.find("m", "2.0"), table.all("m")) == ("one", "two", ["one", "two"])
    assert list(table.defaults()) == ["one"]


def test_what_is_not_there_is_named() -> None:
    table: Table[str] = Table()
    with pytest.raises(ModelNotFoundError, match=r"^Model not found: m$"):
        table.find("m", None)
    table.add("m", "1.0", "one")
    with pytest.raises(VersionNotFoundError, match=r"^Model version: 3\.0 does not exist for model: m$"):
        table.find("m", "3.0")
    with pytest.raises(VersionNotFoundError, match=r"^Model version 3\.0 does not exist for model m$"):
        table.set_default("m", "3.0")
    with pytest.raises(ConflictError, match=r"^Model version 1\.0 is already registered for model m$"):
        table.add("m", "1.0", "again")


def test_the_default_version_goes_last() -> None:
    table: Table[str] = Table()
    table.add("m", "1.0", "one")
    table.add("m", "2.0", "two")
    for version in (None, "1.0"):
        with pytest.raises(NotAllowedError, match="Cannot remove default version for model m"):
            table.remove("m", version)
    assert table.remove("m", "2.0") == "two"
    assert table.remove("m", None) == "one"
    assert table.names() == []


def test_what_has_failed_is_forgotten_whatever_came_after_it() -> None:
    table: Table[str] = Table()
    table.add("m", "1.0", "one")
    assert not table.forget("m", "1.0", "another")
    assert not table.forget("n", "1.0", "one")
    table.add("m", "2.0", "two")
    assert table.forget("m", "1.0", "one")
    assert (table.default("m"), table.find("m", None)) == ("2.0", "two")
    assert table.forget("m", "2.0", "two")
    assert table.names() == []


_STEP = st.tuples(st.sampled_from(["add", "remove", "default"]), st.sampled_from("ab"), st.sampled_from("123"))


@given(st.lists(_STEP, max_size=30))
def test_every_model_has_one_default_version_whatever_happens(steps: list[tuple[str, str, str]]) -> None:
    table: Table[tuple[str, str]] = Table()
    there: set[tuple[str, str]] = set()
    for what, name, version in steps:
        try:
            if what == "add":
                table.add(name, version, (name, version))
                there.add((name, version))
            elif what == "remove":
                there.remove(table.remove(name, version))
            else:
                table.set_default(name, version)
        except FrontendError:
            pass
        assert set(table) == there
        assert table.names() == sorted({name for name, _ in there})
        assert all(table.find(name, None) in there for name in table.names())


def test_names_that_routes_begin_with_are_refused() -> None:
    table: Table[str] = Table({"ping"})
    for refuse in (lambda: table.check_free("ping", "1.0"), lambda: table.add("ping", "1.0", "one")):
        with pytest.raises(ModelError, match=r"no model can be named ping .* without --single-port"):
            refuse()
    table.add("pings", "1.0", "one")
    assert table.names() == ["pings"]
