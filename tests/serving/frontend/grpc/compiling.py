"""The descriptors of .proto files, by Google's compiler; as a program it writes ours anew.

``python -m tests.serving.frontend.grpc.compiling``, after a change of a .proto file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOM = Path(__file__).resolve().parents[4] / "serving" / "frontend" / "grpc"
WRITTEN = ROOM / "descriptors.binpb"
# Not imported by ours, and needed beside them: what a google.rpc.Status has for its details.
_BESIDE = "google/rpc/error_details.proto"


def compiled(folder: Path) -> FileDescriptorSet:
    """Compile all .proto files of a folder, with what they import."""
    spec, tools = find_spec("google.rpc"), find_spec("grpc_tools")
    assert spec is not None
    assert tools is not None
    assert tools.origin is not None
    (places,) = {Path(place).parents[1] for place in spec.submodule_search_locations or ()}
    paths = [folder, places, Path(tools.origin).parent / "_proto"]
    with tempfile.TemporaryDirectory() as out:
        file = Path(out, "set")
        options = [f"-I{path}" for path in paths] + ["--include_imports", f"--descriptor_set_out={file}"]
        sources = sorted(path.name for path in folder.glob("*.proto"))
        # In a process of its own: to import the compiler changes sys.path and what may be imported.
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *sources, _BESIDE], check=True)
        return FileDescriptorSet.FromString(file.read_bytes())


if __name__ == "__main__":
    WRITTEN.write_bytes(compiled(ROOM / "protos").SerializeToString(deterministic=True))
