import json

import pytest

from archive_tool.publishing.versions import next_version


@pytest.fixture
def have(store):
    """Put a model into the store, as a folder."""

    def put(folder, name, version):
        path = store / folder / "MAR-INF"
        path.mkdir(parents=True)
        entry = {"modelName": name, "handler": "h"} | ({"modelVersion": version} if version else {})
        (path / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": entry}))

    return put


def test_the_first_version(store, have):
    assert next_version(store, "net") == "1.0"
    have("other", "other", "7.0")
    assert next_version(store, "net") == "1.0"


@pytest.mark.parametrize(
    ("versions", "following"),
    [
        (["1.0"], "2.0"),
        ([None], "2.0"),
        (["1.0", "2.0", "10.0", "9.0"], "11.0"),
        (["2.3.1"], "3.0"),
        (["3"], "4.0"),
        (["nightly"], "1.0"),
        (["nightly", "4.1"], "5.0"),
    ],
)
def test_one_more_than_the_highest(store, have, versions, following):
    for index, version in enumerate(versions):
        have(f"file{index}", "net", version)
    assert next_version(store, "net") == following


def test_what_is_no_archive_is_not_counted(store, have):
    (store / "net.mar").write_text("no archive")
    (store / "notes.txt").write_text("hello")
    (store / "empty").mkdir()
    have(".hidden", "net", "5.0")
    assert next_version(store, "net") == "1.0"
