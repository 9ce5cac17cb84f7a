"""Names of members and models."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.errors import BuildError
from archive_tool.metadata import names as layout


@pytest.mark.parametrize("name", ["m", "7", "mnist-v1.0_a", "A.b"])
def test_good_model_names(name):
    layout.check_model_name(name)


@pytest.mark.parametrize("name", ["", "-m", ".m", "_m", "a b", "a/b", "m\n", "é", "a:b"])
def test_bad_model_names(name):
    with pytest.raises(BuildError, match="cannot be used"):
        layout.check_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["a", "a.py", "a/b/c.txt", ".hidden", "..a", "a..", "x y.txt", "é.txt", "console.py", "nul_.txt", "MAR-INF/x"],
)
def test_legal_member_names(name):
    assert layout.name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/./b", "'.' part"),
        ("./a", "'.' part"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("a\\b", "backslash"),
        ("C:x", "drive"),
        ("c:/x", "drive"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x1b[2J", "control"),
        ("a/.. /b", "dots and blanks"),
        ("a/.../b", "dots and blanks"),
        ("nul", "device"),
        ("a/Com1.txt", "device"),
        ("aux .py", "device"),
        ("a" * 256, "part longer"),
        ("é" * 128, "part longer"),
        ("a/" * 600 + "a", "longer than"),
        ("a\udcff", "UTF-8"),
    ],
)
def test_illegal_member_names(name, problem):
    assert problem in layout.name_problem(name)


@given(st.text(alphabet=st.sampled_from("ab./\\:\0 \u00e9C"), max_size=12))
def test_a_legal_name_stays_below_the_folder_and_is_in_its_shortest_form(name):
    if layout.name_problem(name) is None:
        joined = posixpath.normpath(posixpath.join("/target", name))
        assert joined == "/target/" + name


def test_collisions():
    assert layout.collisions(["a", "b/c", "b/d"]) == []
    assert layout.collisions(["a", "a"]) == ["'a' is there twice"]
    assert "'A.py' and 'a.py'" in layout.collisions(["A.py", "a.py"])[0]
    assert layout.collisions(["\u00e9", "e\u0301"])
    assert layout.collisions(["a", "a/b"]) == ["'a/b' needs a folder where 'a' is a file"]
    assert layout.collisions(["A/x/y", "a/X"]) == ["'A/x/y' needs a folder where 'a/X' is a file"]


@pytest.mark.parametrize(("name", "skipped"), [("__pycache__", True), ("__MACOSX", True), (".git", True), ("a", False)])
def test_skipped_directories(name, skipped):
    assert layout.is_skipped_directory(name) is skipped


#: Names of models that are registered and cannot be asked for or removed again, or that lead elsewhere.
HOSTILE_NAMES = ["../../x", "a/b", "a\\b", "..", "", "a\0b", "\ud800", "a" * 201, "a" * 100_000, "-m", "m?x", "m%2e"]
HOSTILE_VERSIONS = ["../../1", "1/2", "1\\2", ".", "..", " ", "1\0", "1\n", "\ud800", "1" * 201, "1" * 100_000]
#: Versions that torch-model-archiver takes and TorchServe serves.
VERSIONS = [
    "1.0",
    "1",
    "v1",
    "2024-05-01",
    "1.0+cu118",
    "1.0-rc.1",
    "1!2",
    "1 beta",
    "ü",
    "1:2",
    "latest",
    "..1",
    "1" * 200,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_no_model_has(name):
    assert layout.model_name_problem(name)
    with pytest.raises(BuildError) as refused:
        layout.check_model_name(name)
    assert refused.value.hint
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("version", HOSTILE_VERSIONS)
def test_versions_that_no_model_has(version):
    with pytest.raises(BuildError) as refused:
        layout.check_version(version)
    assert refused.value.hint
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(version):
    layout.check_version(version)


def test_collisions_at_any_depth():
    names = ["a", "a/b", "a/b/c", "a.py", "a b", "A/x", "é", "e\u0301/x"]
    assert layout.collisions(names) == [
        "'a/b' needs a folder where 'a' is a file",
        "'a/b/c' needs a folder where 'a/b' is a file",
        "'A/x' needs a folder where 'a' is a file",
        "'e\u0301/x' needs a folder where 'é' is a file",
    ]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my net!", "my_net_"),
        ("_.net", "net"),
        ("---", "model"),
        ("snapshots/net", "net"),
        (
            "models--google-bert--bert-base-uncased/snapshots/86b5e0934494bd15c9632b12f734a8a67f723594",
            "bert-base-uncased",
        ),
    ],
)
def test_models_called_as_their_folders_are(tmp_path, folder, name):
    assert layout.name_of_folder(tmp_path / folder) == name
