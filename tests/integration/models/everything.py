"""A handler that runs the code of a request: whatever a handler may do, a test can write down where it asks."""

import logging
import os
import sys
import time
from urllib.parse import unquote

import numpy
import torch
from ts.service import PredictionException
from ts.utils.util import PredictionException as SamePredictionException

# For the code that comes.
__all__ = ["PredictionException", "SamePredictionException", "logging", "numpy", "os", "sys", "time", "torch"]

ECHO = "return [{key: repr(value) for key, value in row.items()} for row in data]"
DESCRIPTION = {"inputs": ["anything"], "nested": {"a": 1, "b": [1.5, None, True]}, "text": "ü"}


class Everything:
    """A handler of code in the header X-Do, percent-encoded, or (gRPC) in the input ``do``; else the rows go back."""

    def initialize(self, context):
        self.properties = dict(context.system_properties)
        self.manifest = context.manifest
        self.count = 0

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [DESCRIPTION]
        code = context.get_request_header(0, "X-Do") or bytes(data[0].get("do", ECHO.encode())).decode()
        scope = {}
        exec("def do(self, data, context):\n    " + unquote(code).replace("\n", "\n    "), globals(), scope)
        return scope["do"](self, data, context)
