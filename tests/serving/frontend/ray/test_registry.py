"""What outlives replicas; without the actor that it is."""

from __future__ import annotations

import pytest

from serving.frontend.engine import Registration
from serving.frontend.errors import InternalError, ModelError
from serving.frontend.ray import nodes
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import Known, Registry, ServerInfo
from serving.frontend.ray.specs import Spec

from .conftest import Store


class Kept:
    def __init__(self) -> None:
        self.value: bytes | None = None

    def get(self) -> bytes | None:
        return self.value

    def put(self, value: bytes) -> None:
        self.value = value


def spec(archive: Archive, version: str = "1.0") -> Spec:
    return Spec("echo", version, "python", archive, Registration("echo.mar"), 1, 1, 1.0, 0.0, 104, 2.0, False, 120)


def upload(registry: Registry, store: Store) -> Archive:
    path = store.build()
    archive, content = nodes.look(path), path.read_bytes()
    assert not registry.has(archive)
    for place in range(0, len(content), 500):
        registry.write(archive, place, content[place : place + 500])
    assert registry.has(archive)
    return archive


def test_an_archive_goes_in_and_comes_out_in_pieces(store: Store) -> None:
    registry = Registry(Kept())
    archive = upload(registry, store)
    (store.path / archive.name).unlink()
    folder, held = nodes.unpacked(archive, registry.read, b"", store.settings())
    assert (folder / "h.py").is_file()
    held.release()
    with pytest.raises(ModelError, match="deploy it again"):
        registry.read("0" * 64, 0, 10)


def test_pieces_out_of_order_are_refused(store: Store) -> None:
    registry = Registry(Kept())
    archive = nodes.look(store.build())
    registry.write(archive, 0, b"abc")
    for place, piece in ((5, b"d"), (3, b"x" * archive.size)):
        with pytest.raises(InternalError, match="does not follow"):
            registry.write(archive, place, piece)
    registry.write(archive, 0, b"anew")  # who was cut off begins again
    assert not registry.has(archive)


def test_the_next_one_knows_what_this_one_knew(store: Store) -> None:
    kept = Kept()
    registry = Registry(kept)
    info = ServerInfo(properties={"batch": "1"}, keys={"inference": "k"})
    registry.set_info(info)
    archive = upload(registry, store)
    registry.save("echo", Known("1.0", {"1.0": spec(archive)}))
    registry.join(spec(archive, "2.0"), default=False)
    again = Registry(kept)
    assert again.info() == info
    assert again.has(archive)
    assert set(again.models()["echo"].versions) == {"1.0", "2.0"}
    assert again.models()["echo"].default == "1.0"
    again.join(spec(archive, "3.0"), default=True)
    assert again.models()["echo"].default == "3.0"
    again.save("echo", None)
    assert Registry(kept).models() == {}


def test_an_archive_that_nobody_needs_is_let_go(store: Store) -> None:
    registry = Registry(Kept())
    archive = upload(registry, store)
    registry.save("echo", Known("1.0", {"1.0": spec(archive)}))
    nodes.sweep(1e12)
    assert registry.has(archive)
    registry.save("echo", None)
    nodes.sweep(1e12)
    assert not registry.has(archive)
