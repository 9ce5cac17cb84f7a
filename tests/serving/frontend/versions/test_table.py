"""Names and versions: every sequence of changes keeps TorchServe's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.engine import Share
from serving.frontend.errors import (
    BadRequestError,
    ConflictError,
    FrontendError,
    ModelError,
    ModelNotFoundError,
    NotAllowedError,
    VersionNotFoundError,
)
from serving.frontend.versions.table import Table


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


_WHAT = st.sampled_from(["add", "remove", "forget", "default", "share", "shadow"])
_STEP = st.tuples(_WHAT, st.sampled_from("ab"), st.sampled_from("123"))


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
            elif what == "forget":
                there -= {(name, version)} if table.forget(name, version, (name, version)) else set()
            elif what == "default":
                table.set_default(name, version)
            else:
                table.share(name, version, Share(40, what == "shadow"))
        except FrontendError:
            pass
        assert set(table) == there
        sharing = {(name, version) for name in "ab" for version in "123" if _share(table, name, version)}
        assert sharing <= there - {(name, table.default(name)) for name in table.names()}
        assert set(table.traffic) == {name for name, _ in sharing}
        assert table.names() == sorted({name for name, _ in there})
        assert all(table.find(name, None) in there for name in table.names())


def _share(table: Table[tuple[str, str]], name: str, version: str) -> Share | None:
    return table.traffic[name].share(version) if name in table.traffic else None


def test_a_share_ends_with_the_promotion_or_removal_of_its_version() -> None:
    table: Table[tuple[str, str]] = Table()
    for version in "123":
        table.add("m", version, ("m", version))
    for version in "23":
        table.share("m", version, Share(10, sticky=("x-user",)))
    table.set_default("m", "2")  # promoted
    assert (_share(table, "m", "2"), _share(table, "m", "3")) == (None, Share(10, sticky=("x-user",)))
    table.set_default("m", "1")  # rolled back
    assert table.find("m", None) == ("m", "1")
    assert (_share(table, "m", "2"), _share(table, "m", "3")) == (None, Share(10, sticky=("x-user",)))
    table.remove("m", "3")
    assert table.traffic == {}


def test_the_default_version_has_no_share_of_its_own() -> None:
    table: Table[str] = Table()
    table.add("m", "1.0", "one")
    with pytest.raises(BadRequestError, match=r"^version 1\.0 is the default one of model m: it answers what no other"):
        table.share("m", "1.0", Share(5))
    table.share("m", "1.0", Share(0))
    with pytest.raises(VersionNotFoundError):
        table.share("m", "2.0", Share(0))
    with pytest.raises(ModelNotFoundError):
        table.share("n", "2.0", Share(5))
    assert table.traffic == {}


def test_names_that_routes_begin_with_are_refused() -> None:
    table: Table[str] = Table({"ping"})
    for refuse in (lambda: table.check_free("ping", "1.0"), lambda: table.add("ping", "1.0", "one")):
        with pytest.raises(ModelError, match=r"no model can be named ping .* without --single-port"):
            refuse()
    table.add("pings", "1.0", "one")
    assert table.names() == ["pings"]
