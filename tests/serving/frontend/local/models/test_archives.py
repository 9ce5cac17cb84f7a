"""What servers leave of downloads that were cut: a real one that is killed, and one that goes on."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.frontend import settings
from serving.frontend.local.models import archives
from serving.frontend.local.models.archives import remove_abandoned
from serving.frontend.settings import Place, Settings
from tests.serving.frontend.listening_app import TIMEOUT_S, wait_for

ROOT = Path(__file__).resolve().parents[5]
FETCH = """
import sys
from pathlib import Path
from serving.frontend.local.models import archives
from tests.serving.frontend.local.models.test_archives import settings_of
archives.unpack(sys.argv[1], settings_of(Path(sys.argv[2])))
"""


def settings_of(folder: Path) -> Settings:
    addresses = {f"{api}_address": "http://127.0.0.1:0" for api in ("inference", "management", "metrics")}
    place = Place(folder, settings.home_of(None), folder, folder, folder)
    return settings.of(addresses, place, {})


@pytest.fixture
def endless() -> Iterator[str]:
    """Serve an archive of which nothing comes but the first bytes; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as stack:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = stack.enter_context(listening.accept()[0])
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n" + bytes(2 << 20))

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def parts_of(store: Path) -> set[str]:
    return {path.name for path in store.glob(".torchmar-fetching-*.tmp") if path.stat().st_size}


def test_what_a_killed_server_was_fetching_goes_and_what_another_one_fetches_stays(
    endless: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FETCH, f"{endless}/a.mar", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT) as killed:
        assert wait_for(lambda: parts_of(tmp_path))
        killed.kill()
    (left,) = parts_of(tmp_path)

    def fetch() -> None:
        with contextlib.suppress(Exception):
            archives.unpack(f"{endless}/b.mar", settings_of(tmp_path))

    living = threading.Thread(target=fetch)
    living.start()
    try:
        assert wait_for(lambda: len(parts_of(tmp_path)) == 2)
        remove_abandoned(tmp_path)
        assert len(parts_of(tmp_path)) == 1
        assert left not in parts_of(tmp_path)
    finally:
        archives.forget_unfinished()
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_goes(tmp_path: Path) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    store.mkdir()
    other.write_text("x")
    (store / ".torchmar-0123.tmp").write_text("an archive that is just being built")
    (store / ".torchmar-fetching-a.tmp").touch()  # just made: its lock may be about to come
    os.mkfifo(store / ".torchmar-fetching-b.tmp")
    (store / ".torchmar-fetching-c.tmp").mkdir()
    (store / ".torchmar-fetching-d.mar").write_text("x")
    before = sorted(store.iterdir())
    remove_abandoned(store)
    assert sorted(store.iterdir()) == before
    os.utime(store / ".torchmar-fetching-a.tmp", (time.time() - 2 * TIMEOUT_S,) * 2)
    remove_abandoned(store)
    assert not (store / ".torchmar-fetching-a.tmp").exists()
    remove_abandoned(tmp_path / "nowhere")
