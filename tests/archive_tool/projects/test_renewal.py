"""An archive with an older copy of the handler SDK gets the installed one, and keeps all else."""

import json
import shutil
from pathlib import Path

import pytest

import archive_tool
from archive_tool.building import builder, vendoring
from archive_tool.errors import AlteredArchiveError, ArchiveError, BuildError, TargetExistsError
from archive_tool.verification import verify

SDK = vendoring.find_sdk()
HANDLER = "from handlers import BaseHandler\n\n\nclass Handler(BaseHandler):\n    pass\n"


@pytest.fixture
def build(options, tmp_path, monkeypatch):
    """Build an archive with a copy of the SDK, by default an older one."""

    def run(version="0.0.9", change="# as it was\n", **more):
        Path("h.py").write_text(HANDLER)
        Path("in.json").write_text("[1]")
        root = tmp_path / "older" / "handlers"
        if not root.exists():
            shutil.copytree(SDK, root, ignore=shutil.ignore_patterns("__pycache__"))
            (root / "gone.py").write_text("")
        (root / "base.py").write_text((SDK / "base.py").read_text() + change)
        with monkeypatch.context() as patch:
            patch.setattr(vendoring, "find_sdk", lambda: root)
            patch.setattr(builder, "__version__", version)
            more = {"description": "counts", "sample": ["in.json=2"], **options, **more}
            return archive_tool.build(**more).path

    return run


def contents(path):
    with archive_tool.open_archive(path) as archive:
        return archive.manifest, {member.name: archive.read(member.name, 1 << 24) for member in archive.members}


def test_the_copy_is_renewed_and_all_else_stays(build, torchmar):
    old = build()
    done = torchmar("convert", old)
    assert (done.returncode, done.stderr) == (0, "")
    before, was = contents(old)
    after, now = contents("store/m-converted.mar")
    others = {name for name in was if not name.startswith("handlers/") and name != "MAR-INF/MANIFEST.json"}
    assert {name: now[name] for name in others} == {name: was[name] for name in others}
    assert {f"handlers/{path.relative_to(SDK)}": path.read_bytes() for path in SDK.rglob("*.py")}.items() <= now.items()
    assert "handlers/gone.py" in was
    assert "handlers/gone.py" not in now
    assert verify.verify("store/m-converted.mar").issues == ()
    old_record, new_record = before.to_dict().pop("torchmar"), after.to_dict().pop("torchmar")
    assert (old_record.pop("toolVersion"), new_record.pop("toolVersion")) == ("0.0.9", archive_tool.__version__)
    assert old_record.pop("members").keys() != new_record.pop("members").keys()
    assert old_record == new_record
    assert after.model == before.model
    assert torchmar("inspect", "store/m-converted.mar").stdout.count(", as installed here") == 1


@pytest.mark.parametrize(
    ("more", "output", "archive_format"),
    [
        ({}, "new.mar", "default"),
        ({"archive_format": "zip-store"}, "new.mar", "zip-store"),
        ({"archive_format": "tgz"}, "new.tar.gz", "tgz"),
        ({"archive_format": "no-archive"}, "new.mar", "default"),
        ({"compress": True}, "new.mar", "default"),
    ],
)
def test_the_form_stays(build, more, output, archive_format):
    from archive_tool.projects.convert import convert

    old = build(**more)
    built = convert(old, output)
    with archive_tool.open_archive(built.path) as archive:
        assert archive.archive_format == archive_format
        (weights,) = (member for member in archive.members if member.name == "weights.pt")
        assert (weights.method == "deflated") == ("compress" in more)
    assert built.size == Path(output).stat().st_size


def test_in_its_own_place(build):
    from archive_tool.projects.convert import convert

    old = build()
    Path(f"{old}.sig").touch()
    with pytest.raises(TargetExistsError):
        convert(old, old)
    built = convert(old, old, force=True)
    assert built.replaced
    assert built.warnings == ("the signature is that of the old archive: sign the new one",)
    assert {path.name for path in Path("store").iterdir()} == {"m.mar", "m.mar.sig"}
    with pytest.raises(ArchiveError, match="with the handler SDK that is installed here"):
        convert(old)


def test_what_is_not_renewed(build, make_zip, tmp_path):
    from archive_tool.projects.convert import convert

    with pytest.raises(ArchiveError, match=r"has the handler SDK 99\.0, and .* is installed here"):
        convert(build("99.0"))
    old = build(force=True)
    with pytest.raises(BuildError, match="does not exist"):
        convert(old, "none/new.mar")
    _, members = contents(old)
    altered = make_zip([*((members | {"h.py": b"import evil"}).items())], "altered.mar")
    with pytest.raises(AlteredArchiveError):
        convert(altered)
    own = make_zip(
        [("h.py", b""), ("handlers/__init__.py", b""), ("MAR-INF/MANIFEST.json", members["MAR-INF/MANIFEST.json"])]
    )
    with pytest.raises(ArchiveError, match="for TorchServe already"):
        convert(own)
    assert not list(tmp_path.glob("*-converted.mar"))


@pytest.mark.parametrize(
    ("version", "change", "state", "words"),
    [
        ("0.0.9", "# old\n", "older", "handler SDK 0.0.9, older than the installed "),
        ("99.0", "# new\n", "newer", "handler SDK 99.0, newer than the installed "),
        (archive_tool.__version__, "# other\n", "different", ", another than the installed "),
        ("of my own", "# other\n", "different", "handler SDK of my own, another than the installed "),
    ],
)
def test_inspect_tells_of_the_copy(build, torchmar, version, change, state, words):
    path = build(version, change)
    shown = torchmar("inspect", path).stdout
    assert "handlers/base.py" not in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("handlers/ ("))
    assert words in row
    assert ("torchmar convert" in row) == (state in ("older", "different"))
    document = json.loads(torchmar("inspect", path, "--json").stdout)
    assert document["sdk"]["state"] == state
    assert document["sdk"]["members"] == sum(one["name"].startswith("handlers/") for one in document["members"])


def test_inspect_of_a_fixed_date(options, torchmar, monkeypatch):
    path = archive_tool.build(**options).path
    assert "createdOn                  not recorded: a reproducible build\n" in torchmar(
        "inspect", path
    ).stdout.replace(" \n", "\n")
    assert json.loads(torchmar("inspect", path, "--json").stdout)["sdk"] is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    archive_tool.build(**options, force=True)
    assert "14/11/2023" in torchmar("inspect", path).stdout
