"""The messages are those of the .proto files, and these say what TorchServe's own say."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from serving.frontend.grpc import messages

from .compiling import ROOM, WRITTEN, compiled

NAMES = ("inference.proto", "management.proto", "open_inference_grpc.proto")


def by_name(found: Any) -> dict[str, Any]:
    return {file.name: file for file in found.file if file.name in NAMES}


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return by_name(FileDescriptorSet.FromString(WRITTEN.read_bytes()))


def test_the_descriptors_are_what_the_compiler_makes_of_the_proto_files(written: dict[str, Any]) -> None:
    anew = by_name(compiled(ROOM / "protos"))
    assert sorted(anew) == sorted(written) == sorted(NAMES)
    for name in NAMES:
        assert anew[name] == written[name], "python -m tests.serving.frontend.grpc.compiling writes them anew"


def test_clients_of_torchserve_find_their_services_names_and_numbers(written: dict[str, Any], tmp_path: Path) -> None:
    spec = find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "frontend" / "model-server.jar") as jar:
        for name in NAMES:
            (tmp_path / name).write_bytes(jar.read(name))
    theirs = by_name(compiled(tmp_path))
    for name in NAMES:
        assert theirs[name] == written[name]


def test_they_stand_beside_generated_ones(tmp_path: Path) -> None:
    """Google's default pool would refuse a second file of the same name."""
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName("inference.proto")
    request = messages.message("org.pytorch.serve.grpc.inference.PredictionsRequest")(model_name="m", input={"a": b"1"})
    assert request.SerializeToString() == b"\n\x01m\x1a\x06\n\x01a\x12\x011"
