"""Start, watch and stop of a server: TorchServe's Java frontend and the workers under it."""

from serving.control.configuration.config import ModelSpec
from serving.control.preparing import StartOptions
from serving.control.server import start, stop
from serving.control.state import ServerRecord, StateFolder

__all__ = ["ModelSpec", "ServerRecord", "StartOptions", "StateFolder", "start", "stop"]
