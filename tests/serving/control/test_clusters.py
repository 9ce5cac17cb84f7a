"""Deployments to a cluster, with a process in the place of the one that deploys; nothing here needs Ray."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import archive_tool
from archive_tool.errors import InputError
from serving.control import StartOptions, StateFolder, clusters, server, start, stop
from serving.control.configuration import frontends
from serving.control.configuration.config import ModelSpec
from serving.control.models.store import Selection
from serving.errors import NotRunningError, StartError

from .test_state import record

# It deploys, finds perhaps that the cluster had nothing, and fails.
PLAYED = """
import pathlib, sys
if {first}:
    pathlib.Path(sys.argv[sys.argv.index("--runtime") + 1], "first").touch()
sys.exit("The frontend cannot start: there is no room")
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Yield an address at which something answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class Failing:
    """A deployment that fails, and what is taken off the cluster then."""

    def __init__(self, root: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.address, self.removed = root, address, list[tuple[str, str]]()
        self.state = StateFolder("mnist", root)
        self.state.create()
        (root / "h.py").write_text("def handle(data, context):\n    return data\n")
        archive_tool.build(model_name="m", handler=str(root / "h.py"), export_path=root)
        monkeypatch.chdir(root)
        monkeypatch.syspath_prepend(str(root))
        monkeypatch.setenv("PYTHONPATH", str(root), prepend=":")
        monkeypatch.setattr(frontends.RayLaunch, "module", "played")
        monkeypatch.setattr(frontends, "check_ray", lambda: None)
        monkeypatch.setattr(clusters, "remove", self._remove)

    def _remove(self, address: str, name: str, *, grace_s: float) -> bool:
        self.removed.append((address, name))
        return True

    def had_a_server(self) -> None:
        """Have a record, and keys, of a server that the cluster has already."""
        self.state.write(record(name="mnist", pid=0, started=0.0, identity="", frontend="ray", cluster=self.address))
        self.state.keys.write_text(json.dumps({"inference": {"key": "k"}}))
        self.state.config.write_text("enable_model_api=true\n")

    def deploy(self, *, first: bool, **options: object) -> list[str]:
        """Deploy, which fails; return the warnings."""
        (self.root / "played.py").write_text(PLAYED.format(first=first))
        settings = {"inference_address": "http://0.0.0.0:8080", frontends.RAY_ADDRESS: self.address}
        warned: list[str] = []
        wanted = StartOptions("mnist", ("m.mar",), self.root, snapshots=False, frontend="ray", settings=settings)
        with pytest.raises(StartError, match="there is no room"):
            start(wanted, self.state, warn=warned.append)
        return warned


@pytest.fixture
def failing(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(tmp_path, address, monkeypatch)


def test_a_deployment_that_fails_leaves_what_the_cluster_had_with_its_record_and_keys(failing: Failing) -> None:
    failing.had_a_server()
    before = failing.state.record()
    warned = failing.deploy(first=False)
    assert failing.state.record() == before
    assert failing.state.keys.exists()
    assert failing.removed == []
    assert [text for text in warned if "--enable-model-api keeps it" in text]


def test_a_first_deployment_that_fails_leaves_nothing(failing: Failing) -> None:
    failing.deploy(first=True)
    assert failing.state.record() is None
    assert failing.removed == [(failing.address, "mnist")]


def test_one_that_fails_before_it_changed_anything_takes_nothing_off(failing: Failing) -> None:
    failing.deploy(first=False)
    assert (failing.state.record(), failing.removed) == (None, [])


def test_a_cluster_that_was_started_anew_has_no_server_of_before(failing: Failing) -> None:
    failing.had_a_server()
    failing.deploy(first=True)
    assert failing.state.record() is None
    assert not failing.state.keys.exists()
    assert failing.removed == [(failing.address, "mnist")]


def test_a_server_that_its_cluster_has_no_more_is_forgotten(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    failing.had_a_server()
    monkeypatch.setattr(clusters, "remove", lambda *_, **__: False)
    with pytest.raises(NotRunningError, match="had ended by itself"):
        stop(failing.state)
    assert failing.state.record() is None


def test_an_address_at_which_nothing_answers_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for answers in (f"127.0.0.1:{port}", f"ray://localhost:{port}", "auto"):
            clusters.reach(answers)
    begun = time.monotonic()
    with pytest.raises(StartError, match=f"no Ray cluster answers at 127.0.0.1:{port}: ") as caught:
        clusters.reach(f"127.0.0.1:{port}")
    assert caught.value.hint is not None
    assert "ray start" in caught.value.hint
    with pytest.raises(StartError, match="no Ray cluster answers"):
        clusters.remove(f"127.0.0.1:{port}", "mnist", grace_s=1.0)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("address", ["local", "head", "head:", ":6379", "head:x", "head:70000", "ray://head"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=f"not the address of a Ray cluster: {address}"):
        clusters.reach(address)


def test_a_number_of_workers_is_for_the_models_that_are_named(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [MagicMock(version="1.0", url=f"{name}.mar", min_workers=1) for name in ("before", "named")]
    client = MagicMock()
    client.__enter__.return_value = client
    client.describe.side_effect = lambda name, _: (f"{name} scaled",)
    models[1].name = "named"
    monkeypatch.setattr(server, "management_client", lambda *_, **__: client)
    monkeypatch.setattr(
        server, "with_defaults", lambda _, found, __, **options: found if options == {"by_age": False} else ()
    )
    prepared = MagicMock(cluster=address, snapshot="", selection=Selection(tmp_path, (ModelSpec("", "named.mar"),)))
    found = server._as_asked(StartOptions(workers=2), prepared, tuple(models), MagicMock(), MagicMock())
    assert found == ("named scaled", models[0])
    client.scale.assert_called_once_with("named", min_workers=2, version="1.0")
