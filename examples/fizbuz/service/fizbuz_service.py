"""What comes after a number in a game of fizz buzz. Written as services of MXNet Model Server are.

Request: ``{"input.1": 14}``. Reply: ``fizzbuzz``, for that is what 15 is.
"""

import json
import os

import numpy as np
import onnxruntime

BITS = 10
WORDS = (None, "fizz", "buzz", "fizzbuzz")


class FizbuzService:
    """The five methods that the server's template has."""

    def __init__(self):
        self.initialized = False

    def initialize(self, context):
        """Open the model that lies beside this file, and learn its input's name from the signature."""
        folder = context.system_properties["model_dir"]
        with open(os.path.join(folder, "signature.json")) as stream:
            self.input_name = json.load(stream)["inputs"][0]["data_name"]
        self.session = onnxruntime.InferenceSession(os.path.join(folder, "fizbuz.onnx"))
        self.initialized = True

    def preprocess(self, data):
        """Take the number out of each request and go on to the next one."""
        return [int(row.get("data", row.get("body"))[self.input_name]) + 1 for row in data]

    def inference(self, numbers):
        """Return the class of each number, from its bits."""
        bits = np.array([[number >> bit & 1 for bit in range(BITS)] for number in numbers], dtype=np.float32)
        return self.session.run(None, {self.input_name: bits})[0].argmax(axis=1)

    def postprocess(self, numbers, classes):
        """Return each class's word, or the number itself."""
        return [WORDS[index] or str(number) for number, index in zip(numbers, classes)]

    def handle(self, data, context):
        """Answer a batch of requests."""
        numbers = self.preprocess(data)
        return self.postprocess(numbers, self.inference(numbers))
