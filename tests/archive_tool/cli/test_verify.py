"""The commands verify and extract as a user meets them."""

import json

import pytest

from archive_tool.cli.entry import main
from tests.archive_tool.hostile import Member, archive, attack, checkpoint


@pytest.fixture
def run(capsys):
    """Run the command line; return its exit code, output and errors."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def paths(tmp_path):
    """Return a good archive, one that cannot be read, an altered one and an unsafe one."""
    record = '"torchmar": {"formatVersion": 1, "members": {"gone": {"sha256": "' + "0" * 64 + '", "size": 1}}}'
    altered = ('{"model": {"modelName": "m"}, ' + record + "}").encode()
    contents = {
        "good": archive(Member(b"a.txt", b"1")),
        "unreadable": b"no archive",
        "altered": archive(manifest=altered),
        "unsafe": archive(Member(b"../a\x1b[2J", b"1"), Member(b"w.pt", checkpoint(attack()))),
    }
    found = {}
    for name, data in contents.items():
        found[name] = tmp_path / f"{name}.mar"
        found[name].write_bytes(data)
    return found


@pytest.mark.parametrize(("name", "code"), [("good", 0), ("unreadable", 3), ("altered", 4), ("unsafe", 5)])
def test_exit_codes(run, paths, name, code):
    done, out, err = run("verify", paths[name])
    assert done == code
    assert err == ""
    assert out.splitlines()[0].startswith(f"{paths[name]}  {'good' if code == 0 else name.upper()}")
    assert run("extract", paths[name], paths[name].with_suffix(""))[0] == code
    assert paths[name].with_suffix("").exists() == (code == 0)


def test_all_archives_are_looked_at_and_the_worst_counts(run, paths):
    code, out, _ = run("verify", *paths.values())
    assert code == 5
    assert all(f"{path}  " in out for path in paths.values())
    assert run("verify", paths["altered"], paths["unreadable"])[0] == 4
    assert run("verify", paths["good"], paths["unreadable"])[0] == 3


def test_every_issue_has_a_line(run, paths):
    _, out, _ = run("verify", paths["unsafe"])
    lines = out.splitlines()
    assert sum(line.startswith("  unsafe: ") for line in lines) == 2
    assert "  note: the manifest records no hashes" in out
    assert "\x1b" not in out


def test_quiet(run, paths):
    assert run("verify", "-q", paths["good"]) == (0, "", "")
    assert "UNSAFE" in run("verify", "-q", paths["unsafe"])[1]


def test_json(run, paths):
    code, out, _ = run("verify", "--json", *paths.values())
    document = json.loads(out)
    assert code == 5
    assert document["status"] == "unsafe"
    assert [entry["status"] for entry in document["archives"]] == list(paths)
    assert {"kind", "member", "message"} == set(document["archives"][3]["issues"][0])
    assert json.loads(run("verify", "--json", paths["good"])[1])["status"] == "good"


def test_allowing_a_pickle(run, tmp_path):
    path = tmp_path / "m.mar"
    path.write_bytes(archive(Member(b"w.pt", checkpoint(attack())), Member(b"x.pkl", attack())))
    assert run("verify", path)[0] == 5
    code, out, _ = run("verify", path, "--allow-pickle", "w.pt")
    assert code == 5
    assert "'w.pt'" not in out
    assert run("verify", path, "--allow-pickle", "w.pt", "--allow-pickle", "x.pkl")[0] == 0
    assert run("extract", path, tmp_path / "out", "--allow-pickle", "w.pt")[0] == 5
    assert run("extract", path, tmp_path / "out", "--allow-pickle", "w.pt", "--allow-pickle", "x.pkl")[0] == 0


def test_no_archive_is_wrong_usage(run):
    assert run("verify")[0] == 2
