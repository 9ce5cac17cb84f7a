"""What comes after a number, in JSON: `{"input.1": 14}` in, `{"number": 15, "answer": "fizzbuzz"}` out."""

import json

import torch

from handlers import BadInputError, BaseHandler

WORDS = (None, "fizz", "buzz", "fizzbuzz")
LARGEST = 2**62


class FizbuzHandler(BaseHandler):
    """A handler for the eager network and the TorchScript one; a request may be the number alone, too."""

    def preprocess_one(self, data, context):
        """Take the number out of a request and go on to the next one.

        Raises:
            BadInputError: the request holds no number that the network knows.
        """
        try:
            value = json.loads(bytes(data)) if isinstance(data, (bytes, bytearray)) else data
        except ValueError:
            value = None
        number = value.get("input.1") if isinstance(value, dict) else value
        if type(number) is not int or not 0 <= number < LARGEST:
            raise BadInputError('send {"input.1": NUMBER}, a whole number from 0 to 2^62')
        context.state["number"] = number + 1
        return torch.tensor(number + 1)

    def postprocess_one(self, output, context):
        """Return the word of the best category, or the number itself."""
        number = context.state["number"]
        return {"number": number, "answer": WORDS[int(output.argmax())] or str(number)}
