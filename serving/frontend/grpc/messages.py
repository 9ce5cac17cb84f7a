"""The messages and services of the .proto files, made when this is imported: of descriptors.binpb.

That file is what Google's compiler reads out of ``protos/`` (docs/adr/0031-grpc.md); a test holds the two together. The
messages are in a pool of their own: a process may have TorchServe's generated ones, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "org.pytorch.serve.grpc"


def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    content = (Path(__file__).parent / "descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL: Final = _pool()


def message(name: str) -> Any:
    """Return the class of a message, by its full name."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def service(name: str) -> Any:
    """Return the descriptor of a service, by its name below TorchServe's package."""
    return _POOL.FindServiceByName(f"{PACKAGE}.{name}")


INFERENCE: Final = service("inference.InferenceAPIsService")
MANAGEMENT: Final = service("management.ManagementAPIsService")
OPEN_INFERENCE: Final = service("openinference.GRPCInferenceService")

PredictionResponse: Final = message(f"{PACKAGE}.inference.PredictionResponse")
TorchServeHealthResponse: Final = message(f"{PACKAGE}.inference.TorchServeHealthResponse")
ManagementResponse: Final = message(f"{PACKAGE}.management.ManagementResponse")
ModelInferResponse: Final = message(f"{PACKAGE}.openinference.ModelInferResponse")
ErrorInfo: Final = message("google.rpc.ErrorInfo")
