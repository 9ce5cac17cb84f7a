"""Archives on a node: had, checked and unpacked once, and removed after the last who uses them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from archive_tool.verification.signing import sign
from serving.frontend.errors import BadRequestError, InternalError, ModelError
from serving.frontend.ray import nodes

from .conftest import Store


def pieces_of(path: Path) -> nodes.Read:
    content = path.read_bytes()

    def read(sha256: str, place: int, most: int) -> bytes:
        return content[place : place + min(most, 1000)]

    return read


def test_an_archive_of_another_machine_is_fetched_once(store: Store) -> None:
    path = store.build()
    archive = nodes.look(path)
    read = pieces_of(path)
    path.unlink()
    folder, held = nodes.unpacked(archive, read, b"", store.settings())
    assert (folder / "h.py").read_text().startswith("def handle")
    again, held_again = nodes.unpacked(archive, _nobody, b"", store.settings())
    assert again == folder
    held.release()
    held_again.release()
    assert list((store.root / "runtime").iterdir()) == []


def _nobody(sha256: str, place: int, most: int) -> bytes:
    raise AssertionError("nobody needs to be asked")


def test_a_folder_is_closed_to_others_unless_somebody_else_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "haproxy-serve" / "node"
    assert nodes.close(folder)
    folder.chmod(0o777)
    assert nodes.close(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o777)  # another user can put his own in its place
    assert not nodes.close(folder)
    folder.parent.chmod(0o1777)
    assert nodes.close(folder)
    (folder.parent / "link").symlink_to(tmp_path)
    assert not nodes.close(folder.parent / "link")
    (tmp_path / "file").touch()
    assert not nodes.close(tmp_path / "file" / "node")


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to another user")
@pytest.mark.parametrize("theirs", ["haproxy-serve", "haproxy-serve/node"])
def test_a_folder_of_another_user_is_not_closed(tmp_path: Path, theirs: str) -> None:
    folder = tmp_path / "haproxy-serve" / "node"
    folder.mkdir(parents=True)
    os.chown(tmp_path / theirs, 65534, 65534)
    assert not nodes.close(folder)


def test_a_file_of_the_same_path_is_taken_if_it_is_the_same(store: Store) -> None:
    path = store.build()
    archive = nodes.look(path)
    nodes.unpacked(archive, _nobody, b"", store.settings())[1].release()
    other = nodes.look(store.build("other"))
    read = pieces_of(path)
    path.write_bytes(b"x" * archive.size)  # exchanged since
    nodes.sweep(time.time() + 1e6)
    folder, held = nodes.unpacked(archive, read, b"", store.settings())
    assert folder.is_dir()
    held.release()
    with pytest.raises(ModelError, match="SHA-256 is another one"):
        nodes.unpacked(archive.__class__(other.name, "0" * 64, other.size), pieces_of(path), b"", store.settings())


def test_what_ends_early_or_goes_on_is_no_archive(store: Store) -> None:
    path = store.build()
    archive = nodes.look(path)
    content = path.read_bytes()
    path.unlink()

    def short(sha256: str, place: int, most: int) -> bytes:
        return content[place : place + 100] if place < 300 else b""

    for read in (short, lambda *_: b"z" * 1000):
        with pytest.raises(ModelError, match="SHA-256"):
            nodes.unpacked(archive, read, b"", store.settings())
    assert not list(nodes.root().glob("*/new-*"))


def test_a_signature_is_checked_where_one_is_asked_for(store: Store) -> None:
    for command in (
        "openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
        "openssl ec -in private.pem -pubout -out public.pem",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    path, key = store.build(), Path("public.pem").read_bytes()
    with pytest.raises(ModelError, match="is not signed"):
        nodes.unpacked(nodes.look(path), _nobody, key, store.settings())
    sign(path, "private.pem")
    archive = nodes.look(path)
    folder, held = nodes.unpacked(archive, _nobody, key, store.settings())
    held.release()
    # What was unpacked without a key is not what was unpacked with it.
    plain, held = nodes.unpacked(archive, _nobody, b"", store.settings())
    held.release()
    assert plain != folder
    other = archive.__class__(archive.name, archive.sha256, archive.size, archive.path, b"{}")
    nodes.sweep(time.time() + 1e6)
    with pytest.raises(ModelError, match="is not what was signed"):
        nodes.unpacked(other, _nobody, key, store.settings())


def test_a_sweep_leaves_what_is_held_and_what_was_used_lately(store: Store) -> None:
    archive = nodes.look(store.build())
    folder, held = nodes.unpacked(archive, _nobody, b"", store.settings())
    nodes.sweep(time.time() + 1e6)
    assert folder.is_dir()
    held.release()
    nodes.sweep()
    assert folder.is_dir()
    nodes.sweep(time.time() + 1e6)
    assert list(nodes.root().iterdir()) == []


def test_who_is_killed_holds_nothing_any_more(store: Store) -> None:
    archive = nodes.look(store.build())
    code = f"from serving.frontend.ray import nodes; nodes.hold({archive.sha256!r}); print(flush=True); input()"
    root = Path(__file__).resolve().parents[4]
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    holder.stdout.readline()
    nodes.sweep(time.time() + 1e6)
    assert (nodes.root() / archive.sha256).is_dir()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    nodes.sweep(time.time() + 1e6)
    assert not (nodes.root() / archive.sha256).exists()


def test_a_folder_that_others_can_write_to_is_refused(store: Store) -> None:
    nodes.root().chmod(0o777)
    with pytest.raises(InternalError, match="not this user's alone"):
        nodes.root()


def test_a_workplace_is_removed_and_has_room_for_sockets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nodes.VARIABLE, f"/tmp/tmtest-{os.getpid()}")
    place = nodes.workplace()
    assert len(f"{place.folder}/.ts.sock.65535") < 103
    place.remove()
    assert list(nodes.root().iterdir()) == []
    nodes.root().rmdir()
    monkeypatch.setenv(nodes.VARIABLE, str(store.root / ("x" * 60)))
    with pytest.raises(InternalError, match="too long for sockets"):
        nodes.workplace()


def test_a_folder_is_no_archive_for_other_machines(store: Store) -> None:
    with pytest.raises(BadRequestError, match="--archive-format default"):
        nodes.look(store.path)
    with pytest.raises(BadRequestError, match="cannot be read"):
        nodes.look(store.path / "none.mar")


def test_the_end_of_a_server_leaves_only_what_others_hold(store: Store) -> None:
    held = nodes.hold("a")
    nodes.hold("b").release()
    nodes.clear()
    assert [path.name for path in nodes.root().iterdir() if path.is_dir()] == ["a"]
    held.release()
    folder = nodes.root()
    nodes.clear()
    assert not folder.exists()
