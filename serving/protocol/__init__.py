"""The protocol between TorchServe's frontend and its workers, as functions over bytes: no socket, no environment.

`Decoder` and `encode_reply` are the worker's side; `encode_load`, `encode_inference` and `ReplyDecoder` play the
frontend in tests and benchmarks.
"""

from serving.protocol.decode import Decoder, ReplyDecoder
from serving.protocol.encode import encode_inference, encode_load, encode_load_reply, encode_reply
from serving.protocol.errors import ProtocolError
from serving.protocol.items import fit, sanitise
from serving.protocol.messages import (
    ATTEMPT,
    DEADLINE,
    PARTS,
    TRACE,
    Inference,
    Load,
    Parameter,
    PredictionItem,
    Reply,
    Request,
    header_of,
)
from serving.protocol.values import decode_value, decoding_enabled

__all__ = [
    "ATTEMPT",
    "DEADLINE",
    "PARTS",
    "TRACE",
    "Decoder",
    "Inference",
    "Load",
    "Parameter",
    "PredictionItem",
    "ProtocolError",
    "Reply",
    "ReplyDecoder",
    "Request",
    "decode_value",
    "decoding_enabled",
    "encode_inference",
    "encode_load",
    "encode_load_reply",
    "encode_reply",
    "fit",
    "header_of",
    "sanitise",
]
