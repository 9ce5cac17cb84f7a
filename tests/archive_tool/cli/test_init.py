"""init on the command line."""

from pathlib import Path

from tests.archive_tool.projects.test_starter import script


def test_init(work, torchmar, monkeypatch):
    folder = work / "a net"
    folder.mkdir()
    script(folder / "net.pt")
    done = torchmar("init", "a net", "--kind", "custom")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "a net/torchmar.yaml",
        "a net/handler.py",
        "build it: torchmar build --from a net/torchmar.yaml",
    ]
    assert torchmar("init", "a net").returncode == 1
    done = torchmar("build", "--from", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("a_net.mar").exists()
    monkeypatch.chdir(folder)
    done = torchmar("init")
    assert done.returncode == 1
